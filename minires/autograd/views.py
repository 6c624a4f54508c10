"""Views: Tensors that lie in the memory of another, their base, and where a change of it leaves them in the graph.

A view knows its base, which is no view itself, and the steps from there: the Functions that make the view of the base.
After a recorded change in place (see `minires.ops.changes`) the base is the output of another Function. Its views find
out by the version of the memory when they are next asked for theirs, and take the steps once more from there.

Which Tensors share memory must not depend on how arrays lie in it, which is nobody's concern (activations lie
channels-last). So there are PyTorch's strides beside those of the array: row-major for a Tensor that is no view, and
from there what the views make of them.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minires.autograd.modes import enable_grad, state

if TYPE_CHECKING:
    from minires.autograd.function import Function
    from minires.autograd.tensor import Tensor


Strides = tuple[int, ...]

UNRECORDED = "it was made under no_grad()"


class Step(NamedTuple):
    """One Function on the way from a base to a view, and which of its outputs the way goes through."""

    function: Function
    output_index: int


class View:
    """The way from its base to a Tensor that is a view of it.

    Attributes
    ----------
    steps : lead from the base to the view.
    number : the version of the memory that the view's place in the graph belongs to.
    obstacle : why a graph with changes in place cannot have this view in it; empty if it can.
    strides : PyTorch's, in elements; None if those of the array are the same.
    """

    __slots__ = ("_base", "_weak_base", "number", "obstacle", "steps", "strides")

    def __init__(self, base: Tensor, steps: tuple[Step, ...], number: int, obstacle: str, strides: Strides | None):
        # Made under no_grad it will never follow its base, and must not keep it: the walk asks whose memory is whose.
        self._base = base if state.grad_enabled else None
        self._weak_base = weakref.ref(base)
        self.steps = steps
        self.number = number
        self.obstacle = obstacle
        self.strides = strides

    @property
    def base(self) -> Tensor | None:
        """The Tensor that owns the memory; None if it is gone, and nobody can look at it any more."""
        return self._weak_base()

    def is_behind(self, view: Tensor) -> bool:
        """Tell whether the memory was changed in place since ``view`` got its place, and the base is in a graph."""
        base = self.base
        if view._version.number == self.number or base is None or not base._requires_grad:
            return False
        # A leaf was changed under no_grad, for it cannot be otherwise: nothing that a view made there must know.
        return self._base is not None or base._grad_fn is not None

    def follow(self, view: Tensor) -> None:
        """Give ``view``, if it is behind, its place in the graph anew.

        Raises
        ------
        RuntimeError
            If there is an obstacle.
        """
        if not self.is_behind(view):
            return
        if self.obstacle:
            raise RuntimeError(f"the base of a view was changed in place, and the view cannot follow: {self.obstacle}")
        renewed, steps = self.base, []
        with enable_grad():
            for function, _ in self.steps:
                steps.append(Step(function.anew(), 0))
                renewed = steps[-1].function(renewed)
        assert renewed is not None  # else it is not behind
        self.steps, self.number = tuple(steps), view._version.number
        view.set_grad_fn(renewed._grad_fn, renewed.output_index)


def view_of(source: Tensor, function: Function, output_index: int, output_count: int) -> View:
    """Return what output ``output_index`` of ``function`` is, in whose memory ``source`` lies too."""
    base: Tensor = source
    steps: tuple[Step, ...] = ()
    obstacle = ""
    parent = source._view
    if parent is not None:
        further = parent.base
        if further is not None:
            base, steps, obstacle = further, parent.steps, parent.obstacle
    if not state.grad_enabled:
        obstacle = obstacle or UNRECORDED
    else:
        steps = (*steps, Step(function, output_index))
        if not function.makes_views:
            obstacle = obstacle or f"it was made by {function.name}, which returns its input: return a copy there"
        elif output_count > 1:
            obstacle = obstacle or f"it is one of {output_count} that {function.name} made: take it by an index"
    strides = None
    if not lies_as_in_pytorch(source) and function.makes_views:
        strides = function.view_strides(source.shape, strides_of(source), output_index)
    return View(base, steps, source._version.number, obstacle, strides)


def row_major(shape: tuple[int, ...]) -> Strides:
    """Return the strides, in elements, of an array in row-major order."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def lies_as_in_pytorch(tensor: Tensor) -> bool:
    """Tell whether the array has PyTorch's strides."""
    return tensor.array.flags.c_contiguous if tensor._view is None else tensor._view.strides is None


def strides_of(tensor: Tensor) -> Strides:
    """Return PyTorch's strides, in elements."""
    view = tensor._view
    if view is None:
        return row_major(tensor.shape)
    return (
        tuple(step // tensor.array.itemsize for step in tensor.array.strides) if view.strides is None else view.strides
    )


def strides_of_view(function: Function, shape: tuple[int, ...], strides: Strides, output_index: int) -> Strides:
    """Return the strides of the view that ``function`` makes of an array with ``strides``, without such an array."""
    pretended = np.lib.stride_tricks.as_strided(np.empty(1, np.bool_), shape, strides)  # is never looked into
    result = function.forward(pretended)
    return (result[output_index] if isinstance(result, tuple) else result).strides


def reshaped_strides(shape: tuple[int, ...], strides: Strides, new_shape: tuple[int, ...]) -> Strides | None:
    """Return the strides of a view in another shape with as many elements; None if only a copy can have that shape.

    Axes go together where a step along one is as long as the whole of the next. Each such group is divided into axes of
    the new shape.
    """
    if 0 in shape:
        return row_major(new_shape)
    groups: list[list[int]] = []  # number of elements, step of the last axis
    for length, step in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if groups and groups[-1][1] == length * step:
            groups[-1] = [groups[-1][0] * length, step]
        else:
            groups.append([length, step])
    result: list[int] = []
    count, step = groups.pop() if groups else (1, 1)
    for length in reversed(new_shape):
        if count == 1 and length > 1 and groups:
            count, step = groups.pop()
        if count % length:
            return None
        result.append(step)
        count, step = count // length, step * length
    return tuple(reversed(result))


def note_copy(source: Tensor, copy: Tensor) -> None:
    """Note that ``copy`` is a view of ``source`` in PyTorch: a change in place of either would be seen in only one."""
    for version, other in ((source._version, copy._version), (copy._version, source._version)):
        alive = [reference for reference in version.copies or () if reference() is not None]
        version.copies = [*alive, weakref.ref(other)]
