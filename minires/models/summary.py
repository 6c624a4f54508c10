"""What a model is made of: parameters, multiply-adds and output shapes, in all and by its top-level parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.autograd import Tensor, no_grad, observe
from minires.device import module_for
from minires.models.cifar import CifarResNet
from minires.nn import Module
from minires.ops.conv2d import Conv2d, Conv2dInputGrad
from minires.ops.conv2d_add_relu import Conv2dAddRelu
from minires.ops.linear import Linear


@dataclass(frozen=True)
class Part:
    """One top-level child of a model; what belongs to no child comes last, under the name "".

    ``output_shape`` is None if the child was not called, or gave something other than a Tensor.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """A model's parts, for one input of shape ``input_shape`` (C, H, W) without its batch axis."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters of all parts; one shared by two counts once."""
        return sum(part.parameters for part in self.parts)

    @property
    def macs(self) -> int:
        """The multiply-adds of all parts."""
        return sum(part.macs for part in self.parts)


def count_parameters(model: Module) -> int:
    """Return the number of trainable and frozen parameters of ``model``; one that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of the convolutions and linear layers for one input of shape (C, H, W).

    A convolution has O * P * Q * (C / groups) * R * S, a linear layer in_features * out_features; biases, batch norm,
    activations and pooling are not counted, as in He et al. 2015, table 1. They are counted while the model runs on
    zeros, in eval mode, so that layers called twice or made on the fly count as they should.

    Raises
    ------
    RuntimeError
        If the model refuses an input of this shape.
    """
    return summarize(model, input_shape).macs


def summarize(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Run ``model`` on one input of shape (C, H, W) and return what its top-level children have, give and cost.

    The model is left as it was, its batch-norm statistics and training mode included.

    Raises
    ------
    RuntimeError
        If the model refuses an input of this shape.
    """
    if not input_shape or min(input_shape) < 1:
        raise ValueError(f"an input shape is positive lengths (C, H, W) without the batch axis, got {input_shape}")
    first = next(model.parameters(), None)
    device, dtype = (None, np.float32) if first is None else (first.device, first.dtype)
    sample = Tensor(module_for(device).zeros((1, *input_shape), dtype))
    counter = _Counter()
    handles = [hook for name, child in model.named_children() for hook in counter.follow(name, child)]
    try:
        with _in_eval_mode(model), no_grad(), observe(counter):
            output = model(sample)
    finally:
        for handle in handles:
            handle.remove()

    seen: set[int] = set()
    parts = [
        Part(name, type(child).__name__, counter.shapes.get(name), _own(child, seen), counter.macs.get(name, 0))
        for name, child in model.named_children()
    ]
    rest = Part("", type(model).__name__, _shape(output), _own(model, seen), counter.macs.get("", 0))
    if rest.parameters or rest.macs or not parts:
        parts.append(rest)
    return Summary(tuple(input_shape), _shape(output), tuple(parts))


def usual_image_size(model: Module) -> int:
    """Return the height and width of the images that a model was designed for: 32 (CIFAR) or 224 (ImageNet)."""
    return 32 if isinstance(model, CifarResNet) else 224


class _Counter:
    """Counts the multiply-adds of each operation for the child that is running."""

    def __init__(self) -> None:
        self.macs: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.running = ""

    def follow(self, name: str, child: Module) -> tuple[Any, Any]:
        """Take note of when ``child`` runs; returns the handles of the hooks that do it."""

        def enter(module: Module, inputs: tuple) -> None:
            self.running = name

        def leave(module: Module, inputs: tuple, output: Any) -> None:
            self.running = ""
            self.shapes[name] = _shape(output)

        return child.register_forward_pre_hook(enter), child.register_forward_hook(leave)

    def forward(self, function: Any, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """Count one operation: every element on the side of the output channels costs one kernel's weights."""
        if isinstance(function, (Conv2d, Conv2dAddRelu)):
            macs = outputs[0].numel() * math.prod(inputs[1].shape[1:])
        elif isinstance(function, Conv2dInputGrad):  # a transposed convolution
            macs = inputs[0].numel() * math.prod(inputs[1].shape[1:])
        elif isinstance(function, Linear):
            macs = outputs[0].numel() * inputs[1].shape[1]
        else:
            return
        self.macs[self.running] = self.macs.get(self.running, 0) + macs

    def backward(self, function: Any, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """Nothing runs backward here."""


@contextmanager
def _in_eval_mode(model: Module) -> Iterator[None]:
    """As ``model.eval()``, and back to each module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _own(module: Module, seen: set[int]) -> int:
    """Count the parameters of ``module`` that were not seen before."""
    fresh = [parameter for parameter in module.parameters() if id(parameter) not in seen]
    seen.update(id(parameter) for parameter in fresh)
    return sum(parameter.numel() for parameter in fresh)


def _shape(output: Any) -> tuple[int, ...] | None:
    return output.shape if isinstance(output, Tensor) else None
