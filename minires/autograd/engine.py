"""The backward walk: from outputs to leaves, each node once, newest first.

A node is created after the nodes that made its inputs. So in falling order of creation number, all gradients of a
node's outputs have arrived when its turn comes: one sort, O(n log n), no recursion, whatever the depth of the net.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from sys import getrefcount
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import anomaly
from minires.autograd.function import Edge, Function, described, edge_to
from minires.autograd.hooks import Hooks
from minires.autograd.modes import autocasting, set_grad_enabled, state
from minires.autograd.tensor import Tensor
from minires.device import array_module
from minires.kernels import kernels_for

Tensors = Tensor | Sequence[Tensor]

FRAMES_OF_A_WALK = 60  # of Python's: what a backward pass inside another may add to the depth of calls
MOST_WALKS = (
    10_000  # that are given room: an endless recursion is to end in a RecursionError, not at the end of the stack
)
_recursion_limit_lock = threading.Lock()


def backward(
    tensors: Tensors,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add to the ``grad`` of each leaf the gradient of the sum of ``tensors``, weighted by ``grad_tensors``.

    Parameters are those of `Tensor.backward`, for several Tensors at once.

    Raises
    ------
    RuntimeError
        If a Tensor requires no gradient, or has more than one element and no gradient given, or its graph was freed.
    """
    outputs = _as_tuple(tensors)
    targets = None if inputs is None else _as_tuple(inputs)
    if targets is not None:
        if not targets:
            raise RuntimeError("inputs of backward() must not be empty: leave it out to reach every leaf")
        _check_targets(targets, "backward")
        for tensor in targets:
            tensor.retain_grad()  # one that is no leaf keeps its gradient too
    gradients = _output_gradients(outputs, grad_tensors)
    _Walk(targets, create_graph, retain_graph, accumulate=True).run(outputs, gradients)


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the sum of ``outputs`` (weighted by ``grad_outputs``) with respect to ``inputs``.

    Nothing is accumulated in ``grad``, and only what lies between ``inputs`` and ``outputs`` is computed.

    Parameters
    ----------
    allow_unused : return None for an input that the outputs do not depend on, instead of raising.
    materialize_grads : return zeros for such an input.

    Raises
    ------
    RuntimeError
        If an input requires no gradient or is unused, or as `backward` does.
    """
    if materialize_grads and allow_unused is False:
        raise ValueError("materialize_grads=True gives zeros for unused inputs: leave allow_unused out or True")
    outputs, inputs = _as_tuple(outputs), _as_tuple(inputs)
    _check_targets(inputs, "grad")
    walk = _Walk(inputs, create_graph, retain_graph, accumulate=False)
    walk.run(outputs, _output_gradients(outputs, grad_outputs))
    gradients = [walk.captured.get(_place(edge_to(tensor))) for tensor in inputs]
    for index, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        if gradient is None and materialize_grads:
            gradients[index] = Tensor(array_module(tensor.array).zeros_like(tensor.array), requires_grad=create_graph)
        elif gradient is None and not allow_unused:
            raise RuntimeError(
                f"input {index} (shape {tensor.shape}) of grad() was not used to compute the outputs: "
                "pass allow_unused=True to get None for it"
            )
    return tuple(gradients)


def _as_tuple(tensors: Tensors) -> tuple[Tensor, ...]:
    found = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    for tensor in found:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"gradients are of Tensors with respect to Tensors, got {described(tensor)}")
    return found


def _check_targets(targets: tuple[Tensor, ...], caller: str) -> None:
    for index, tensor in enumerate(targets):
        if not tensor.requires_grad:
            raise RuntimeError(f"input {index} (shape {tensor.shape}) of {caller}() does not require a gradient")


def _output_gradients(outputs: tuple[Tensor, ...], gradients: Any) -> list[Tensor]:
    """Check the gradients given for the outputs; a Tensor of one element needs none."""
    if gradients is None:
        gradients = (None,) * len(outputs)
    elif not isinstance(gradients, (tuple, list)):
        gradients = (gradients,)
    if len(gradients) != len(outputs):
        raise RuntimeError(f"got {len(gradients)} gradients for {len(outputs)} outputs")
    return [_output_gradient(output, gradient) for output, gradient in zip(outputs, gradients, strict=True)]


def _output_gradient(output: Tensor, gradient: Any) -> Tensor:
    if not output.requires_grad:
        raise RuntimeError(
            f"the Tensor of shape {output.shape} does not require a gradient and has no graph: "
            "was it computed under no_grad(), from inputs without requires_grad, or detached?"
        )
    if gradient is None:
        if output.numel() != 1:
            raise RuntimeError(
                f"a gradient can be left out only for an output of one element, this one has shape {output.shape}: "
                "reduce it with .sum() or .mean(), or pass a gradient of its shape"
            )
        return Tensor(array_module(output.array).ones_like(output.array))
    if not isinstance(gradient, Tensor):
        raise TypeError(f"the gradient of an output must be a Tensor or None, got {type(gradient).__name__}")
    if gradient.shape != output.shape:
        raise RuntimeError(f"a gradient of shape {gradient.shape} was given for an output of shape {output.shape}")
    return gradient if gradient.dtype == output.dtype else gradient.to(output.dtype)


def _place(edge: Edge | Tensor) -> tuple[int, int]:
    """Where a gradient lies until the walk comes by: one place for each output of a node and for each leaf."""
    return (id(edge), 0) if isinstance(edge, Tensor) else (id(edge.function), edge.output_index)


class _Sum:
    """The gradients that have arrived at one place, added up.

    Memory that nobody else can see may be added to in place and given away. That of a sum made here is such, and that
    of a first gradient if Python's counts of references say so, as PyTorch's own say it there. Others who may see it
    are: another input of the same node, the user, a hook, what a node has saved.
    """

    __slots__ = ("made_here", "value")

    def __init__(self, first: Tensor):
        self.value = first
        self.made_here = False

    def add(self, gradient: Tensor, create_graph: bool) -> None:
        if create_graph:
            self.value = self.value + gradient  # the sum is part of the graph
        else:
            total = self.value.array if self._can_grow() else None
            self.value = Tensor(kernels_for(gradient.array).add(self.value.array, gradient.array, total))
        self.made_here = True

    def is_exclusive(self) -> bool:
        """Tell whether nobody else can see this memory. In doubt it is somebody's: a copy costs little."""
        if self.made_here:
            return True
        # 2: the attribute and the argument of getrefcount.
        if getrefcount(self.value) > 2 or not self.value.is_alone() or type(self.value.array) is not np.ndarray:
            return False
        array = self.value.array
        return array.base is None or array.base.nbytes <= 2 * array.nbytes  # a slice would keep all of its memory

    def _can_grow(self) -> bool:
        """Tell whether a kernel can add to this memory: of 16-bit numbers, and on a GPU, sums are made anew."""
        # In this order: a name for the array would count as somebody who sees it.
        return self.is_exclusive() and type(self.value.array) is np.ndarray and self.value.dtype.itemsize >= 4


class _Step(NamedTuple):
    """One node's turn in a walk."""

    node: Function
    wanted: tuple[bool, ...]  # which inputs' gradients are needed: those that lead to a target
    completed_leaves: list[Tensor]  # leaves whose last gradient this node sends


class _Nested:
    """Lets calls go deeper in a walk inside another: Python's limit is meant for one, and 100 walks would reach it."""

    def __enter__(self) -> None:
        state.walks += 1
        if 1 < state.walks <= MOST_WALKS:
            _raise_recursion_limit(FRAMES_OF_A_WALK)

    def __exit__(self, *exception: object) -> None:
        if 1 < state.walks <= MOST_WALKS:
            _raise_recursion_limit(-FRAMES_OF_A_WALK)
        state.walks -= 1


def _raise_recursion_limit(by: int) -> None:
    with _recursion_limit_lock:  # all threads have one limit
        sys.setrecursionlimit(sys.getrecursionlimit() + by)


class _Walk:
    """One backward pass.

    Parameters
    ----------
    targets : the Tensors whose gradients are asked for; None for every leaf.
    accumulate : add them to ``grad``; else they are found in ``captured`` afterwards, by place.
    """

    def __init__(
        self, targets: tuple[Tensor, ...] | None, create_graph: bool, retain_graph: bool | None, *, accumulate: bool
    ):
        self.targets = None if targets is None else {_place(edge_to(tensor)) for tensor in targets}
        self.create_graph = create_graph
        self.retain_graph = create_graph if retain_graph is None else retain_graph
        self.accumulate = accumulate
        self.captured: dict[tuple[int, int], Tensor] = {}
        self.sums: dict[tuple[int, int], _Sum] = {}  # gradients under way, by place

    def run(self, outputs: tuple[Tensor, ...], gradients: list[Tensor]) -> None:
        # Sums may overflow, see Function; and gradients have the dtypes of what they belong to.
        with set_grad_enabled(self.create_graph), np.errstate(all="ignore"), autocasting({}), _Nested():
            for output, gradient in zip(outputs, gradients, strict=True):
                self._deliver(edge_to(output), gradient)
            for step in self._plan(outputs):
                self._visit(step.node, step.wanted)
                for leaf in step.completed_leaves:
                    self._finish_leaf(leaf)
            for output in outputs:  # one that is a leaf itself: what no step has completed
                if output.is_leaf and self._is_target(output):
                    self._finish_leaf(output)

    def _plan(self, outputs: tuple[Tensor, ...]) -> list[_Step]:
        """Return the nodes behind ``outputs``, newest first, with what each is to do."""
        steps = []
        on_the_way: set[int] = set()  # nodes from which a target can be reached
        known_leaves: set[int] = set()
        for node in _oldest_first(outputs):
            wanted = tuple([edge is not None and self._leads_to_target(edge, on_the_way) for edge in node.edges])
            if True in wanted:
                on_the_way.add(id(node))
            completed = []
            for edge, is_wanted in zip(node.edges, wanted, strict=True):
                if is_wanted and isinstance(edge, Tensor) and id(edge) not in known_leaves:
                    # The oldest node that a leaf feeds is the last one to send it a gradient.
                    known_leaves.add(id(edge))
                    completed.append(edge)
            steps.append(_Step(node, wanted, completed))
        steps.reverse()
        return steps

    def _leads_to_target(self, edge: Edge | Tensor, on_the_way: set[int]) -> bool:
        return self._is_target(edge) or (isinstance(edge, Edge) and id(edge.function) in on_the_way)

    def _is_target(self, edge: Edge | Tensor) -> bool:
        return self.targets is None or _place(edge) in self.targets

    def _deliver(self, edge: Edge | Tensor, gradient: Tensor) -> None:
        place = _place(edge)
        arrived = self.sums.get(place)
        if arrived is None:
            self.sums[place] = _Sum(gradient)
        else:
            arrived.add(gradient, self.create_graph)

    def _visit(self, node: Function, wanted: tuple[bool, ...]) -> None:
        """Take the gradients of a node's outputs and deliver those of its inputs."""
        gradients = [self._collect(node, index) for index in range(len(node.outputs))]
        reached = [gradient is not None for gradient in gradients]
        if True not in wanted or True not in reached:
            return
        if False in reached and node.materialize_grads:
            gradients = node.with_zeros(gradients)
        results = self._differentiate(node, tuple(gradients), wanted)
        del gradients  # their memory may go before more is allocated
        for edge, gradient, is_wanted in zip(node.edges, results, wanted, strict=True):
            if is_wanted and edge is not None and gradient is not None:
                self._deliver(edge, gradient)

    def _collect(self, node: Function, index: int) -> Tensor | None:
        """Take the gradient of one output; hooks, retain_grad and the caller of grad() see it in that order."""
        place = (id(node), index)
        arrived = self.sums.pop(place, None)
        if arrived is None:
            return None
        gradient = _call_hooks(node.output_hooks.get(index), arrived.value, node.name)
        retaining = node.retaining[index]() if index in node.retaining else None
        if retaining is not None:
            self._add_to_grad(retaining, gradient, exclusive=False)
        if not self.accumulate and self.targets is not None and place in self.targets:
            self.captured[place] = self._unshared(gradient)
        return gradient

    def _differentiate(self, node: Function, arguments: tuple, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        """Run a node's backward, for the inputs that this walk wants, and check what it returns."""
        observers = state.observers
        begin = time.perf_counter() if observers else 0.0
        node.check_watched()
        recorded, node.needs_grad = node.needs_grad, wanted
        checking, state.anomaly = state.anomaly, False  # the node answers for the operations in its backward
        try:
            result = node.backward(*arguments)
        finally:
            node.needs_grad, state.anomaly = recorded, checking
        results = result if isinstance(result, tuple) else (result,)
        node.check_gradients(results, wanted)
        if not self.retain_graph:
            node.release()
        if state.anomaly:
            anomaly.check_backward(node, arguments, results)
        if observers:
            seconds = time.perf_counter() - begin
            for observer in observers:
                observer.backward(node, arguments, results, seconds)
        return results

    def _finish_leaf(self, leaf: Tensor) -> None:
        """Hand a leaf its gradient, now that all of it has arrived."""
        arrived = self.sums.pop(_place(leaf), None)
        if arrived is None or not leaf.requires_grad:  # every path to it ended in None, or it was frozen meanwhile
            return
        exclusive = not leaf._hooks and arrived.is_exclusive()
        gradient = _call_hooks(leaf._hooks, arrived.value, "a leaf")
        if not self.accumulate:
            self.captured[_place(leaf)] = gradient if exclusive else self._unshared(gradient)
            return
        self._add_to_grad(leaf, gradient, exclusive)
        for hook in leaf._accumulate_hooks.calls() if leaf._accumulate_hooks else ():
            hook(leaf)

    def _add_to_grad(self, tensor: Tensor, gradient: Tensor, exclusive: bool) -> None:
        if tensor.grad is None:
            tensor.grad = gradient if exclusive else self._unshared(gradient)
        elif self.create_graph:
            tensor.grad = tensor.grad + gradient
        else:
            total = tensor.grad.writable_array()
            total += gradient.array

    def _unshared(self, gradient: Tensor) -> Tensor:
        """Return a copy that the caller may change: ``gradient`` may be seen by others."""
        return gradient.clone() if self.create_graph else Tensor(gradient.array.copy(order="K"))


def _oldest_first(outputs: tuple[Tensor, ...]) -> list[Function]:
    """Return every node behind ``outputs``, in the order of their creation."""
    nodes: dict[int, Function] = {}
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while stack:
        node = stack.pop()
        if id(node) not in nodes:
            nodes[id(node)] = node
            stack += [edge.function for edge in node.edges if isinstance(edge, Edge)]
    return sorted(nodes.values(), key=lambda node: node.creation_number)


def _call_hooks(hooks: Hooks | None, gradient: Tensor, owner: str) -> Tensor:
    for hook in hooks.calls() if hooks else ():
        replaced = hook(gradient)
        if replaced is None:
            continue
        if not isinstance(replaced, Tensor):
            raise TypeError(f"a hook on {owner} must return a Tensor or None, got {type(replaced).__name__}")
        if (replaced.shape, replaced.dtype) != (gradient.shape, gradient.dtype):
            raise RuntimeError(
                f"a hook on {owner} must return a gradient of shape {gradient.shape} and dtype {gradient.dtype}, "
                f"got shape {replaced.shape} and dtype {replaced.dtype}"
            )
        gradient = replaced
    return gradient
