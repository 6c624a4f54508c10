"""Changes in place, recorded: ``x += y``, ``x[0] = y``, ``relu(x, inplace=True)``.

A change computes the new values from the old by an ordinary operation, and the Tensor becomes its result: in memory, so
that every name and view of it sees them, and in the graph.

In memory, the new values are written over the old, and the version that all who see the memory share is counted up: a
Function that saved the old values raises in backward. Where nothing else refers to the memory, as with an activation
right after a convolution, nobody can tell writing from exchanging it: the Tensor takes the memory of the result, and
nothing is copied.

In the graph, the Function that computed the values becomes the Tensor's ``grad_fn``. Its input is a Tensor that stands
where this one stood before. If the Tensor is a view, its base has changed too, and becomes what `Overwrite` makes of
the old base and the new values. All views of the base, this one included, take their place from there when next used:
see `minires.autograd.views`.

    h = w * 2            h: Mul(w)
    v = h[0]             v: GetItem(h)
    v.exp_()             h: Overwrite(Mul(w), Exp(GetItem(Mul(w))))       v: GetItem(h)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from minires.autograd import Function, Tensor, is_grad_enabled
from minires.autograd.function import output_of
from minires.autograd.modes import state
from minires.autograd.tensor import Version
from minires.autograd.views import Step
from minires.device import array_module, memory_axes
from minires.ops.broadcast import sum_to
from minires.ops.indexing import GetItem


class Overwrite(Function):
    """(base, values) -> base with ``values`` at a place; dbase is dy with zeros at that place, dvalues is dy there.

    Parameters
    ----------
    order : the axes of the base in the order of its memory, in which the steps give a view
    steps : lead from the base to the view
    index : the place within the view; ``once`` says that it names no element twice
    is_done : whether the values are in the memory of the base already
    """

    def __init__(
        self,
        order: tuple[int, ...],
        steps: tuple[Step, ...] = (),
        index: Any = ...,
        once: bool = True,
        *,
        is_done: bool = False,
    ):
        self.order = order
        self.steps = steps
        self.index = index
        self.once = once
        self.is_done = is_done

    def forward(self, base, values):
        if self.is_done:
            return base
        shape = tuple(base.shape[axis] for axis in self.order)
        y = array_module(base).empty(shape, base.dtype).transpose([self.order.index(axis) for axis in range(base.ndim)])
        y[...] = base
        place = y
        for step in self.steps:
            place = step.function.forward(place)
        place[self.index] = values
        return y

    def backward(self, dy):
        dbase = dvalues = None
        if self.needs_grad[0]:
            dbase = Overwrite(self.order, self.steps, self.index, self.once)(dy, 0.0)
        if self.needs_grad[1]:
            dvalues = dy
            for step in self.steps:
                dvalues = step.function.anew()(dvalues)
            dvalues = dvalues if self.index is ... else GetItem(self.index, self.once)(dvalues)
            shape = self.input_shapes[1]
            added = max(len(shape) - dvalues.ndim, 0)  # axes of length 1 in front
            dvalues = sum_to(dvalues, shape[added:]).reshape(shape)
        return dbase, dvalues


def is_recorded(input: Tensor, *operands: Any) -> bool:
    """Tell whether a change of ``input`` by ``operands`` belongs in the graph."""
    if not is_grad_enabled() or not input.is_floating_point():
        return False
    return any(isinstance(operand, Tensor) and operand.requires_grad for operand in (input, *operands))


def change(input: Tensor, compute: Callable[[Tensor], Tensor], *operands: Any, is_activation: bool = False) -> Tensor:
    """Let ``input`` become ``compute(input)`` in place and return it.

    Parameters
    ----------
    compute : returns its argument, or what an operation has made of it: a Tensor of its shape and dtype, no view.
    operands : what else it uses
    is_activation : says that ``input`` is a result on its way through a net. Its memory may be exchanged under
        `no_grad` too, that of a parameter or buffer may not: a captured step writes to the same memory every time.

    Raises
    ------
    RuntimeError
        If the change belongs in the graph and ``input`` is a leaf that requires a gradient or a view of one, or a view
        that cannot follow its base; or if the memory is read-only or shared by several elements.
    """
    if state.outside is not None:
        state.outside.take((input,))  # a checkpointed function is to know of it as it was
    recorded = is_recorded(input, *operands)
    check_changeable(input, recorded)
    is_result = input._grad_fn is not None if recorded else is_activation
    is_seen = input._view is not None or any(operand is input for operand in operands) or not input.is_alone()
    is_exchanged = is_result and not is_seen
    old = _old(input, is_exchanged) if recorded else input.detach()
    result = compute(old)
    if result is old:
        return input
    if state.observers:  # who remember Tensors by identity
        old._stands_for = result._stands_for = weakref.ref(input)
    if is_exchanged:
        input._version.number += 1  # for whoever saved the old values
        input.array, input._version = result.array, result._version
        if recorded:
            input.set_grad_fn(result._grad_fn, result.output_index)
        return input
    input.array[...] = result.array
    input._version.number += 1
    if recorded:
        _rebase(input, result)
    return input


def check_changeable(input: Tensor, recorded: bool) -> None:
    """Raise RuntimeError if ``input`` cannot be changed in place."""
    input.check_writable()
    view = input._view
    base = None if view is None else view.base
    if any(copy() is not None for copy in input._version.copies or ()):
        raise RuntimeError(
            "a Tensor whose memory lies channels-last was copied by view, reshape or contiguous, and the one or the "
            "other was to be changed in place: that would be seen in only one of them. Change a clone(), or before"
        )
    if view is not None and base is not None:
        if view.obstacle and is_grad_enabled() and (recorded or base._requires_grad):
            raise RuntimeError(f"a view was to be changed in place, and its base cannot follow: {view.obstacle}")
        if recorded and base._requires_grad and base._grad_fn is None:
            raise RuntimeError(
                "a view of a leaf Tensor that requires a gradient was to be changed in place: do it under "
                "minires.no_grad(), or change a view of a clone()"
            )
    elif recorded and input._requires_grad and input._grad_fn is None:
        raise RuntimeError(
            "a leaf Tensor that requires a gradient was to be changed in place: do it under minires.no_grad(), or "
            "change a clone()"
        )


def _old(input: Tensor, is_exchanged: bool) -> Tensor:
    """Return a Tensor with the values and the place in the graph that ``input`` has before a change."""
    array = input.array if is_exchanged else input.array.copy(order="K")  # which would be overwritten
    if not input.requires_grad:
        return Tensor(array)
    version = Version()
    version.number = input._version.number
    return output_of(input.grad_fn, input.output_index, array, version)


def _rebase(input: Tensor, result: Tensor) -> None:
    """Give ``input``, or its base, its place in the graph after ``result`` was written into its memory."""
    result._grad_fn.store_output_in(input, result)
    view = input._view
    base = None if view is None else view.base
    if view is None or base is None:
        input._view = None
        input.set_grad_fn(result._grad_fn, result.output_index)
        return
    before = Tensor(base.array)
    if base._grad_fn is not None:
        before.set_grad_fn(base._grad_fn, base.output_index)
    after = Overwrite(memory_axes(base.array), view.steps, is_done=True)(before, result)
    base.set_grad_fn(after._grad_fn, after.output_index)
