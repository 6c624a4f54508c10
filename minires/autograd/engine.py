"""The backward walk: from outputs to leaves, each node once, newest first.

A node is created after the nodes that made its inputs. So walking in falling order of creation number visits a node
only when every gradient of its outputs has arrived: one heap, O(n log n), no recursion, whatever the depth of the net.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from minires.autograd import anomaly
from minires.autograd.function import Edge, Function, edge_to
from minires.autograd.modes import set_grad_enabled, state
from minires.autograd.tensor import Tensor
from minires.device import array_module

Tensors = Tensor | Sequence[Tensor]


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
    leaves = None if inputs is None else _as_tuple(inputs)
    if leaves is not None and not leaves:
        raise RuntimeError("inputs of backward() must not be empty: leave it out to reach every leaf")
    walk = _Walk(outputs, _output_gradients(outputs, grad_tensors), leaves, create_graph, retain_graph)
    walk.accumulate = True
    walk.run()


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
    outputs, inputs = _as_tuple(outputs), _as_tuple(inputs)
    for index, tensor in enumerate(inputs):
        if not tensor.requires_grad:
            raise RuntimeError(f"input {index} (shape {tensor.shape}) of grad() does not require a gradient")
    walk = _Walk(outputs, _output_gradients(outputs, grad_outputs), inputs, create_graph, retain_graph)
    walk.run()
    gradients = [walk.captured.get(_target_key(tensor)) for tensor in inputs]
    for index, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        if gradient is None and materialize_grads:
            gradients[index] = Tensor(array_module(tensor.array).zeros_like(tensor.array))
        elif gradient is None and not allow_unused:
            raise RuntimeError(
                f"input {index} (shape {tensor.shape}) of grad() was not used to compute the outputs: "
                "pass allow_unused=True to get None for it"
            )
    return tuple(gradients)


def _as_tuple(tensors: Tensors) -> tuple[Tensor, ...]:
    return (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)


def _output_gradients(outputs: tuple[Tensor, ...], gradients: Any) -> tuple[Tensor, ...]:
    """Check the gradients given for the outputs; a Tensor of one element needs none."""
    if gradients is None or isinstance(gradients, Tensor):
        gradients = (gradients,) * len(outputs) if gradients is None else (gradients,)
    if len(gradients) != len(outputs):
        raise RuntimeError(f"got {len(gradients)} gradients for {len(outputs)} outputs")
    checked = []
    for output, gradient in zip(outputs, gradients, strict=True):
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
            gradient = Tensor(array_module(output.array).ones_like(output.array))
        if gradient.shape != output.shape:
            raise RuntimeError(f"a gradient of shape {gradient.shape} was given for an output of shape {output.shape}")
        checked.append(gradient)
    return tuple(checked)


def _target_key(tensor: Tensor) -> tuple[int, int]:
    """What tells one target from another: the node and output that made it, or the leaf itself."""
    return (id(tensor), 0) if tensor.grad_fn is None else (id(tensor.grad_fn), tensor.output_index)


class _Sum:
    """The gradients that have arrived for one Tensor, added up.

    ``owned`` says that the array was made here, so that no one else can see it and it may be added to in place.
    """

    __slots__ = ("owned", "value")

    def __init__(self, value: Tensor):
        self.value = value
        self.owned = False

    def add(self, gradient: Tensor) -> None:
        if state.grad_enabled:  # a recorded backward pass: the sum is part of the graph
            self.value = self.value + gradient
        elif self.owned:
            self.value.array += gradient.array
        else:
            self.value = Tensor(self.value.array + gradient.array)
            self.owned = True


class _Walk:
    """One backward pass: what it must visit, the gradients under way, and those it was asked for."""

    accumulate = False  # into leaves' grad; else gradients of the targets are captured

    def __init__(
        self,
        outputs: tuple[Tensor, ...],
        gradients: tuple[Tensor, ...],
        targets: tuple[Tensor, ...] | None,
        create_graph: bool,
        retain_graph: bool | None,
    ):
        self.outputs = outputs
        self.gradients = gradients
        self.create_graph = create_graph
        self.retain_graph = create_graph if retain_graph is None else retain_graph
        self.targets = None if targets is None else {_target_key(tensor): tensor for tensor in targets}
        self.captured: dict[tuple[int, int], Tensor] = {}
        self.sums: dict[int, dict[int, _Sum]] = {}  # by node, by output
        self.leaf_sums: dict[int, _Sum] = {}
        self.leaves: dict[int, Tensor] = {}
        self.awaited: Counter[int] = Counter()  # by leaf: how many gradients are still to come
        self.wanted: dict[int, tuple[bool, ...]] = {}  # by node: which inputs' gradients this walk needs
        self.heap: list[tuple[int, Function]] = []

    def run(self) -> None:
        self._plan()
        with set_grad_enabled(self.create_graph):
            for output, gradient in zip(self.outputs, self.gradients, strict=True):
                self._deliver(edge_to(output), gradient)
            while self.heap:
                _, node = heapq.heappop(self.heap)
                self._visit(node)
            for key in list(self.leaf_sums):  # a path that ended in None never delivered what was awaited
                self._finish_leaf(self.leaves[key])

    def _plan(self) -> None:
        """Find the nodes to visit, which of their inputs lead to a target, and how many gradients each leaf awaits."""
        nodes: dict[int, Function] = {}
        stack = [output.grad_fn for output in self.outputs if output.grad_fn is not None]
        while stack:
            node = stack.pop()
            if id(node) not in nodes:
                nodes[id(node)] = node
                stack += [edge.function for edge in node.edges if isinstance(edge, Edge)]
        for node in sorted(nodes.values(), key=lambda node: node.creation_number):  # inputs before outputs
            self.wanted[id(node)] = tuple(self._leads_to_target(edge) for edge in node.edges)
        useful = [node for node in nodes.values() if any(self.wanted[id(node)])]
        edges: list[Any] = [edge_to(output) for output in self.outputs]
        for node in useful:
            edges += [edge for edge, wanted in zip(node.edges, self.wanted[id(node)], strict=True) if wanted]
        self.awaited.update(id(edge) for edge in edges if isinstance(edge, Tensor))

    def _leads_to_target(self, edge: Edge | Tensor | None) -> bool:
        if edge is None:
            return False
        if self.targets is None:
            return True
        if isinstance(edge, Tensor):
            return _target_key(edge) in self.targets
        return (id(edge.function), edge.index) in self.targets or any(self.wanted[id(edge.function)])

    def _deliver(self, edge: Edge | Tensor, gradient: Tensor | None) -> None:
        """Hand a gradient to a leaf or a node; a node joins the heap with its first one."""
        if isinstance(edge, Tensor):
            self.awaited[id(edge)] -= 1
            if gradient is not None and self._leads_to_target(edge):
                self.leaves[id(edge)] = edge
                _add_to(self.leaf_sums, id(edge), gradient)
            if self.awaited[id(edge)] == 0 and id(edge) in self.leaf_sums:
                self._finish_leaf(edge)
        elif gradient is not None:
            node = edge.function
            if id(node) not in self.sums:
                self.sums[id(node)] = {}
                heapq.heappush(self.heap, (-node.creation_number, node))
            _add_to(self.sums[id(node)], edge.index, gradient)

    def _visit(self, node: Function) -> None:
        sums = self.sums.pop(id(node))
        gradients = {}
        for index in sorted(sums):
            gradient = _call_hooks(node.output_hooks.get(index), sums[index].value, node.name)
            if index in node.retain_hooks:
                node.retain_hooks[index](gradient)
            if self.targets is not None and (id(node), index) in self.targets:
                self.captured[id(node), index] = gradient
            gradients[index] = gradient
        del sums
        wanted = self.wanted[id(node)]
        if not any(wanted):
            return
        arguments = node.gradients_or_zeros(gradients)
        del gradients
        needs_grad, node.needs_grad = node.needs_grad, wanted
        begin = time.perf_counter() if state.observers else 0.0
        try:
            result = node.backward(*arguments)
            results = result if isinstance(result, tuple) else (result,)
            results = node.checked_gradients(results, wanted)
        finally:
            node.needs_grad = needs_grad
        if not self.retain_graph:
            node.release()
        if state.anomaly:
            anomaly.check_backward(node, results)
        for observer in state.observers:
            observer.backward(node, arguments, results, time.perf_counter() - begin)
        for edge, gradient, is_wanted in zip(node.edges, results, wanted, strict=True):
            if is_wanted and edge is not None:
                self._deliver(edge, gradient)

    def _finish_leaf(self, leaf: Tensor) -> None:
        total = self.leaf_sums.pop(id(leaf))
        gradient = _call_hooks(leaf._hooks, total.value, "a leaf")
        if not self.accumulate:
            self.captured[_target_key(leaf)] = gradient
            return
        if self.create_graph:
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        elif leaf.grad is None:
            # Only a sum made here is surely unseen by others: anything else might be shared, as by both inputs of x + y.
            exclusive = total.owned and gradient is total.value
            leaf.grad = gradient if exclusive else Tensor(gradient.array.copy(order="K"))
        else:
            leaf.grad._version.number += 1
            leaf.grad.array += gradient.array
        if leaf._accumulate_hooks:
            for hook in leaf._accumulate_hooks.calls():
                hook(leaf)


def _add_to(sums: dict[int, _Sum], key: int, gradient: Tensor) -> None:
    if key in sums:
        sums[key].add(gradient)
    else:
        sums[key] = _Sum(gradient)


def _call_hooks(hooks: Any, gradient: Tensor, owner: str) -> Tensor:
    for hook in hooks.calls() if hooks else ():
        replaced = hook(gradient)
        if replaced is None:
            continue
        if not isinstance(replaced, Tensor) or replaced.shape != gradient.shape:
            got = f"shape {replaced.shape}" if isinstance(replaced, Tensor) else type(replaced).__name__
            raise RuntimeError(f"a hook on {owner} must return None or a Tensor of shape {gradient.shape}, got {got}")
        gradient = replaced
    return gradient
