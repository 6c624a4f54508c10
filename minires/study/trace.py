"""One forward pass, recorded: every operation in its order, with the modules it ran in.

The pass runs under `minires.unfused`, so that the addition of a skip connection is an operation of its own, and its
input requires a gradient, so that there is a graph even where every parameter is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import Edge, Function, Tensor, enable_grad, no_grad, observe
from minires.autograd.checkpoint import Checkpointed
from minires.device import Array, array_module
from minires.nn import Module, Parameter
from minires.nn import functional as F
from minires.ops.fusion import unfused
from minires.study.errors import StudyError

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Call(NamedTuple):
    """One call of a module: its dotted name ("" for the model itself), its class, and the number of the call."""

    name: str
    type: str
    number: int


class Value(NamedTuple):
    """One output of an operation, by the identity of its Function; the traced input is ``Value(0, 0)``."""

    function: int
    output_index: int


INPUT = Value(0, 0)


@dataclass(frozen=True)
class Operation:
    """One operation of a traced pass.

    Attributes
    ----------
    number : its place in the pass, from 0; the same in every pass that takes the same way through the model
    function : the Function that was applied
    inputs, outputs : Tensors (or numbers, or None)
    calls : the module calls that it ran in, the outermost first
    sources : the inputs that depend on the traced input, each with its position
    weights : the inputs that are parameters, or were computed from parameters alone
    """

    number: int
    function: Function
    inputs: tuple
    outputs: list[Tensor]
    calls: tuple[Call, ...]
    sources: tuple[tuple[int, Value], ...]
    weights: tuple[Tensor, ...]

    @property
    def weighs(self) -> bool:
        """Whether it uses a parameter."""
        return bool(self.weights)

    @property
    def weight(self) -> int:
        """The number of elements of ``weights``."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def place(self) -> str:
        """The dotted name of the module it ran in, for messages."""
        return self.calls[-1].name if self.calls and self.calls[-1].name else "the model"


@dataclass
class Trace:
    """A recorded forward pass.

    Attributes
    ----------
    input : the images, as a leaf that requires a gradient
    output : what the model returned
    loss : a scalar Tensor, or None where no labels were given
    operations : in the order in which they ran, those of the loss included
    """

    input: Tensor
    output: Tensor
    loss: Tensor | None
    operations: list[Operation] = field(default_factory=list)
    _by_function: dict[int, Operation] = field(default_factory=dict)

    def tensor(self, value: Value) -> Tensor:
        """Return the Tensor that a value stands for."""
        return self.input if value == INPUT else self._by_function[value.function].outputs[value.output_index]

    def maker(self, value: Value) -> Operation | None:
        """Return the operation that made a value; None for the input."""
        return self._by_function.get(value.function)


def trace(
    model: Module, images: Tensor, labels: Tensor | None = None, loss_fn: LossFunction = F.cross_entropy
) -> Trace:
    """Run ``model`` on ``images`` and return the recorded pass. The model is left as it was, its buffers included.

    Raises
    ------
    StudyError
        If the batch is empty, the model returns no Tensor or is checkpointed, or a value is NaN or infinite; the
        message names the operation that made the first one.
    """
    check_batch(images, labels)
    recorder = _Recorder(images)
    handles = recorder.follow(model)
    try:
        with untouched(model), unfused(), enable_grad(), observe(recorder):
            output = model(recorder.input)
            check_output(output)
            loss = None if labels is None else loss_fn(output, labels)
    finally:
        for handle in handles:
            handle.remove()
    result = Trace(recorder.input, output, loss, recorder.operations, recorder.by_function)
    if not _is_finite(output):
        raise StudyError(f"the model's output is not finite: {_first_fault(result)}")
    if loss is not None and not math.isfinite(loss.item()):
        raise StudyError(f"the loss is {loss.item()}: {_first_fault(result)}")
    return result


def check_batch(images: Tensor, labels: Tensor | None = None) -> None:
    """Raise StudyError unless there is at least one image, and a label for each."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise StudyError(f"images must be a floating-point Tensor, got {_describe(images)}")
    if images.ndim == 0 or images.numel() == 0:
        raise StudyError(f"there is nothing to study: the batch has shape {images.shape}")
    if labels is not None and (not isinstance(labels, Tensor) or labels.ndim == 0 or len(labels) != len(images)):
        raise StudyError(f"there must be one label for each of the {len(images)} images, got {_describe(labels)}")


def check_output(output: Any) -> None:
    """Raise StudyError unless a model returned one Tensor."""
    if not isinstance(output, Tensor):
        raise StudyError(f"the model must return one Tensor to be studied, it returned {type(output).__name__}")


def scalar_loss(model: Module, images: Tensor, labels: Tensor, loss_fn: LossFunction) -> Tensor:
    """Return the loss of a batch as a Tensor, checked to be one finite number.

    Raises
    ------
    StudyError
        If it is not; a NaN is traced to the operation that made it.
    """
    check_batch(images, labels)
    output = model(images)
    check_output(output)
    loss = loss_fn(output, labels)
    if loss.numel() != 1:
        raise StudyError(f"the loss must be one number, it has shape {loss.shape}: reduce it with .mean() or .sum()")
    if not math.isfinite(loss.item()):
        trace(model, images, labels, loss_fn)  # names the operation
        raise StudyError(f"the loss is {loss.item()}")
    return loss


def epsilon(dtype: np.dtype) -> float:
    """Return the distance from 1 to the next number of a floating-point dtype."""
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)  # which NumPy does not know


def norm(array: Array) -> float:
    """Return the Euclidean norm of an array of any floating-point dtype, where squares may under- or overflow too."""
    xp = array_module(array)
    largest = float(xp.abs(array).max(initial=0))
    if not largest or not math.isfinite(largest):
        return largest
    return largest * float(xp.linalg.norm(array.astype(xp.float64) / largest))


@contextmanager
def untouched(model: Module, training: bool | None = None) -> Iterator[None]:
    """Put buffers, such as running statistics, and modes back as they were; ``training`` sets the mode inside."""
    buffers = [(buffer, buffer.array.copy()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    if training is not None:
        model.train(training)
    try:
        yield
    finally:
        for buffer, array in buffers:
            with no_grad():
                buffer.copy_(Tensor(array))
        for module, mode in modes:
            module.training = mode


class _Recorder:
    """The observer and the hooks behind a trace."""

    def __init__(self, images: Tensor):
        self.input = images.detach().requires_grad_()
        self.operations: list[Operation] = []
        self.by_function: dict[int, Operation] = {}
        self.from_parameters: dict[int, Tensor] = {}  # by their identities, which are theirs as long as they live
        self.calls: list[Call] = []
        self.count = 0

    def follow(self, model: Module) -> list:
        """Take note of when each module runs; returns the handles of the hooks that do it."""
        handles = []
        for name, module in model.named_modules():

            def enter(module: Module, inputs: tuple, name: str = name) -> None:
                self.calls.append(Call(name, type(module).__name__, self.count))
                self.count += 1

            def leave(module: Module, inputs: tuple, output: Any) -> None:
                self.calls.pop()

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        return handles

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """Record one operation."""
        if isinstance(function, Checkpointed):
            raise StudyError(
                "this model uses gradient checkpointing, which hides its operations: switch it off for the study "
                "(checkpoint=False)"
            )
        sources = []
        for position, edge in enumerate(function.edges):
            if edge is self.input:
                sources.append((position, INPUT))
            elif isinstance(edge, Edge):
                maker = self.by_function.get(id(edge.function))
                if maker is not None and maker.sources:
                    sources.append((position, Value(id(edge.function), edge.output_index)))
                if maker is not None:
                    # The Tensor that was made may have changed in place since; what the operation got has not.
                    maker.outputs[edge.output_index] = inputs[position]
        weights = tuple(value for value in inputs if isinstance(value, Parameter) or id(value) in self.from_parameters)
        if weights and not sources:
            self.from_parameters |= {id(output): output for output in outputs}
        operation = Operation(
            len(self.operations), function, inputs, list(outputs), tuple(self.calls), tuple(sources), weights
        )
        self.operations.append(operation)
        self.by_function[id(function)] = operation

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """Only the forward pass is recorded."""


def _first_fault(traced: Trace) -> str:
    if not _is_finite(traced.input):
        return "the images hold NaN or infinite values, clean the data first"
    for operation in traced.operations:
        for value in operation.inputs:
            if isinstance(value, Parameter) and not _is_finite(value):
                return f"a parameter of {operation.place} is NaN or infinite: was the training unstable?"
        if not all(_is_finite(output) for output in operation.outputs):
            return f"{operation.function.name} in {operation.place} made the first value that is not finite"
    return "the loss function made it"


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(array_module(tensor.array).isfinite(tensor.array).all())


def _describe(value: Any) -> str:
    return f"shape {value.shape}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
