"""The computation graph of a block or of a whole net, as the engine records it: operations, shapes, gradient norms.

The norm on an arrow is that of the gradient that comes back *along this arrow*. Where a Tensor is used twice, as the
input of a residual block is, the arrows show the parts, and the sum of the parts is the Tensor's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minires.autograd import Function, Tensor, grad, observe
from minires.nn import Module, Parameter
from minires.nn import functional as F
from minires.study.errors import StudyError
from minires.study.graph_drawing import to_svg
from minires.study.trace import INPUT, LossFunction, Operation, Trace, Value, norm, trace


@dataclass(frozen=True)
class Node:
    """An operation, or a module with all that happens in it; ``kind`` is "input", "operation", "module" or "output"."""

    label: str
    kind: str


@dataclass(frozen=True)
class Arrow:
    """A Tensor on its way from one node to another, by their numbers.

    ``gradient_norm`` is None without labels, or where no gradient comes back this way.
    """

    source: int
    target: int
    shape: tuple[int, ...]
    gradient_norm: float | None

    @property
    def label(self) -> str:
        """Shape and gradient norm for people."""
        shape = " x ".join(map(str, self.shape)) or "scalar"
        return shape if self.gradient_norm is None else f"{shape}, grad {self.gradient_norm:.2g}"


@dataclass(frozen=True)
class ComputationGraph:
    """Nodes in the order in which they ran, and the arrows between them."""

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record an arrow."""
        return [
            {
                "from": self.nodes[arrow.source].label,
                "to": self.nodes[arrow.target].label,
                "shape": "x".join(map(str, arrow.shape)),
                "gradient norm": arrow.gradient_norm,
            }
            for arrow in self.arrows
        ]

    def mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        shapes = {"input": '(["{}"])', "output": '(["{}"])', "operation": '["{}"]', "module": '[["{}"]]'}
        lines = ["flowchart TD"]
        for number, node in enumerate(self.nodes):
            lines.append(f"    n{number}" + shapes[node.kind].format(node.label.replace('"', "#quot;")))
        for arrow in self.arrows:
            lines.append(f'    n{arrow.source} -->|"{arrow.label}"| n{arrow.target}')
        return "\n".join(lines) + "\n"

    def svg(self) -> str:
        """Return the graph as the text of an SVG file."""
        return to_svg(
            [(node.label, node.kind) for node in self.nodes],
            [(arrow.source, arrow.target, arrow.label) for arrow in self.arrows],
        )


def computation_graph(
    model: Module,
    images: Tensor,
    labels: Tensor | None = None,
    loss_fn: LossFunction = F.cross_entropy,
    within: str = "",
    level: int | None = None,
) -> ComputationGraph:
    """Return the graph from the images to the output, parameters left out, or the part of it inside one module.

    Parameters
    ----------
    labels : with them there is a loss, whose gradient norms stand on the arrows
    within : dotted name of a module to show alone
    level : show modules so many levels below it as one node each; unless given, every operation

    Raises
    ------
    StudyError
        If nothing ran in a module of that name, or as `minires.study.trace.trace` does.
    """
    if level is not None and level < 1:
        raise StudyError(f"level must be at least 1, got {level}")
    traced = trace(model, images, labels, loss_fn)
    shown = [op for op in traced.operations if op.sources and any(call.name == within for call in op.calls)]
    if not shown and not within:
        raise StudyError("there is no graph to draw: nothing in this model depends on the images")
    if not shown:
        raise StudyError(f"nothing ran in a module {within!r}: see [name for name, _ in model.named_modules()]")
    return _Drawing(traced, shown, _grouping(within, level)).graph()


def _grouping(within: str, level: int | None) -> Callable[[Operation], tuple]:
    """Return what tells which operations are one node: their module call ``level`` levels down, or themselves."""

    def group(operation: Operation) -> tuple:
        names = [call.name for call in operation.calls]
        place = names.index(within) + (level or 0)
        if level is None or place >= len(names):
            return ("operation", operation.number)
        return ("module", operation.calls[place])

    return group


class _Drawing:
    """Puts a graph together from the operations to be shown."""

    def __init__(self, traced: Trace, shown: list[Operation], group: Callable[[Operation], tuple]):
        self.traced = traced
        self.shown = shown
        self.group = group
        self.nodes: list[Node] = []
        self.numbers: dict[tuple, int] = {}
        self.carried: dict[tuple[Value, int], None] = {}  # ordered
        self.gradients: dict[tuple[Value, int], Tensor] = {}

    def graph(self) -> ComputationGraph:
        """Return the nodes, the arrows between them, and those that come in and go out."""
        inside = {id(op.function) for op in self.shown}
        for op in self.shown:
            for _, value in op.sources:
                if value.function not in inside and ("input", value) not in self.numbers:
                    self._add(("input", value), Node("images" if value == INPUT else "input", "input"))
        for op in self.shown:
            key = self.group(op)
            if key not in self.numbers:
                self._add(key, _node(key, op))
        for op in self.shown:
            for _, value in op.sources:
                if self._source(value, inside) != self.numbers[self.group(op)]:
                    self.carried[value, self.numbers[self.group(op)]] = None
        self._add_output(inside)
        self._measure(inside)
        arrows = []
        for value, target in self.carried:
            gradient = self.gradients.get((value, target))
            size = None if gradient is None else norm(gradient.array)
            arrows.append(Arrow(self._source(value, inside), target, self.traced.tensor(value).shape, size))
        return ComputationGraph(tuple(self.nodes), tuple(arrows))

    def _add(self, key: tuple, node: Node) -> None:
        self.numbers[key] = len(self.nodes)
        self.nodes.append(node)

    def _source(self, value: Value, inside: set[int]) -> int:
        maker = self.traced.maker(value)
        if maker is None or value.function not in inside:
            return self.numbers["input", value]
        return self.numbers[self.group(maker)]

    def _add_output(self, inside: set[int]) -> None:
        """Lead to an output node what is used outside, or by nothing."""
        used = {value for op in self.shown for _, value in op.sources}
        outside = {v for op in self.traced.operations if id(op.function) not in inside for _, v in op.sources}
        for op in self.shown:
            value = Value(id(op.function), 0)
            if value in outside or value not in used:
                self.numbers.setdefault(("output",), len(self.nodes))
                if self.numbers["output",] == len(self.nodes):
                    self.nodes.append(Node("output", "output"))
                self.carried[value, self.numbers["output",]] = None

    def _measure(self, inside: set[int]) -> None:
        """Walk backward once and add up what comes back along each arrow."""
        if self.traced.loss is None or not self.traced.loss.requires_grad:
            return
        targets: dict[int, int] = {id(op.function): self.numbers[self.group(op)] for op in self.shown}

        def take(function: Function, gradients: tuple) -> None:
            op = self.traced.maker(Value(id(function), 0))
            for position, value in op.sources if op is not None else ():
                target = targets.get(id(function), self.numbers.get(("output",), -1))
                gradient = gradients[position]
                if gradient is not None and (value, target) in self.carried:
                    before = self.gradients.get((value, target))
                    self.gradients[value, target] = gradient if before is None else before + gradient

        with observe(_BackwardObserver(take)):
            grad(self.traced.loss, self.traced.input, allow_unused=True)


class _BackwardObserver:
    def __init__(self, take: Callable[[Function, tuple], None]):
        self.take = take

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        pass

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        self.take(function, grad_inputs)


def _node(key: tuple, op: Operation) -> Node:
    if key[0] == "module":
        call = key[1]
        return Node(f"{call.name}: {call.type}", "module")
    weights = [value for value in op.inputs if isinstance(value, Parameter) and value.ndim > 1]
    shape = " " + " x ".join(map(str, weights[0].shape)) if weights else ""
    return Node(op.function.name + shape, "operation")
