"""The gradients of a net as PyTorch computes them: the recorded operations are replayed there, one by one.

This is the only place under minires/ that imports PyTorch, and only when a user asks for the comparison. The replay
takes the net's structure from our forward pass, and every value and derivative from PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import Function, Tensor, observe
from minires.nn import Module
from minires.ops.activation import ReLU
from minires.ops.adaptive_pool2d import AdaptiveAvgPool2d
from minires.ops.arithmetic import Add, Div, Mul, Sub
from minires.ops.batch_norm import BatchNorm
from minires.ops.conv2d import Conv2d
from minires.ops.indexing import GetItem
from minires.ops.linear import Linear
from minires.ops.max_pool2d import MaxPool2d
from minires.ops.pad import Pad
from minires.ops.reduction import Sum
from minires.ops.shape import Permute, Reshape


class _Recorder:
    """Keeps every operation of a forward pass, with its inputs and outputs."""

    def __init__(self) -> None:
        self.steps: list[tuple[Function, tuple, tuple]] = []

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        self.steps.append((function, inputs, outputs))

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """Only the forward pass is replayed."""


def torch_gradients(model: Module, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return the gradient of the mean cross entropy by every parameter of ``model``, by name, computed by PyTorch.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    NotImplementedError
        If the model uses an operation that has no counterpart here; the message names it.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("comparing with PyTorch needs it installed: pip install torch") from error
    recorder = _Recorder()
    with observe(recorder):
        logits = model(images)
    theirs: dict[int, Any] = {}

    def converted(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = _lasting(value)
        if id(value) not in theirs:  # a leaf: a parameter, or data
            array = np.ascontiguousarray(value.detach().cpu().numpy())
            theirs[id(value)] = torch.from_numpy(array.copy()).requires_grad_(value.requires_grad)
        return theirs[id(value)]

    replays = _replays(torch)
    for function, inputs, outputs in recorder.steps:
        if type(function) not in replays:
            raise NotImplementedError(f"the comparison with PyTorch does not know the operation {function.name}")
        replayed = replays[type(function)](function, *(converted(value) for value in inputs))
        for ours, counterpart in zip(outputs, replayed if isinstance(replayed, tuple) else (replayed,), strict=False):
            theirs[id(_lasting(ours))] = counterpart
    target = torch.from_numpy(labels.cpu().numpy())
    torch.nn.functional.cross_entropy(theirs[id(logits)], target).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        counterpart = theirs.get(id(parameter))
        gradient = None if counterpart is None else counterpart.grad
        gradients[name] = np.zeros(parameter.shape) if gradient is None else gradient.numpy()
    return gradients


def _lasting(tensor: Tensor) -> Tensor:
    """Return the Tensor that a change in place has made of ``tensor``, or of which it took the place; else itself."""
    changed = None if tensor._stands_for is None else tensor._stands_for()
    return tensor if changed is None else changed


def _replays(torch: Any) -> dict[type[Function], Callable[..., Any]]:
    """How PyTorch computes each operation: its options come from the Function, its inputs are PyTorch's own Tensors."""
    functional = torch.nn.functional

    def conv2d(function: Any, x: Any, w: Any) -> Any:
        geometry = function.geometry
        (top, bottom), (left, right) = geometry.padding
        padded = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(padded, w, None, geometry.stride, 0, geometry.dilation, geometry.groups)

    def batch_norm(function: Any, x: Any, weight: Any, bias: Any, residual: Any) -> Any:
        statistics = (None, None)
        if not function.training:
            statistics = tuple(torch.from_numpy(np.array(a)) for a in (function.mean, function.var))
        out = functional.batch_norm(x, *statistics, weight, bias, function.training, 0.0, function.eps)
        out = out if residual is None else out + residual
        return torch.relu(out) if function.activation == "relu" else out

    def pad(function: Any, x: Any) -> Any:
        return functional.pad(x, [width for before_after in reversed(function.widths) for width in before_after])

    def max_pool2d(function: Any, x: Any) -> Any:
        g = function.geometry
        # Both of PyTorch's roundings are tried: the geometry holds only the size that came out.
        for ceil_mode in (False, True):
            out = functional.max_pool2d(x, g.kernel_size, g.stride, g.padding, g.dilation, ceil_mode)
            if tuple(out.shape[2:]) == g.output_size:
                return out
        raise AssertionError(f"max_pool2d of {g} has another output size in PyTorch")

    return {
        Add: lambda function, a, b: a + b,
        Sub: lambda function, a, b: a - b,
        Mul: lambda function, a, b: a * b,
        Div: lambda function, a, b: a / b,
        AdaptiveAvgPool2d: lambda function, x: functional.adaptive_avg_pool2d(x, function.output_size),
        BatchNorm: batch_norm,
        Conv2d: conv2d,
        GetItem: lambda function, x: x[function.index],
        Linear: lambda function, x, w, b: functional.linear(x, w, b),
        MaxPool2d: max_pool2d,
        Pad: pad,
        Permute: lambda function, x: x.permute(function.axes),
        ReLU: lambda function, x: torch.relu(x),
        Reshape: lambda function, x: x.reshape(function.shape),
        Sum: lambda function, x: x.sum(function.axes, function.keepdim) if function.axes else x,
    }
