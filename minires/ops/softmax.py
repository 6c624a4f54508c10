"""softmax, log_softmax and logsumexp along an axis, computed relative to the largest element: none overflows."""

from __future__ import annotations

from typing import Any

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.aliases import takes_axis
from minires.ops.autocast import computes_in_float32
from minires.ops.axes import Dim, normalized_axes, normalized_axis
from minires.ops.cast import cast
from minires.ops.pointwise import exp, log
from minires.ops.promotion import check_floating


class Softmax(Function):
    """y = exp(x) / sum exp(x); dx = y * (dy - sum(y * dy))."""

    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, x):
        y = array_module(x).exp(x - x.max(axis=self.axis, keepdims=True))
        y = y / y.sum(axis=self.axis, keepdims=True)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return y * (dy - (y * dy).sum(self.axis, keepdim=True))


class LogSoftmax(Function):
    """y = x - log(sum exp(x)); dx = dy - exp(y) * sum(dy)."""

    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, x):
        xp = array_module(x)
        y = x - x.max(axis=self.axis, keepdims=True)
        y = y - xp.log(xp.exp(y).sum(axis=self.axis, keepdims=True))
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy - exp(y) * dy.sum(self.axis, keepdim=True)


@takes_axis
@computes_in_float32
def softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Return exp(x) / sum(exp(x)) along ``dim``, computed in ``dtype`` if that is given.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is not None:
        return cast(softmax(cast(input, dtype), dim), dtype)
    return _along_axis(Softmax, "softmax", input, dim)


@takes_axis
@computes_in_float32
def log_softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Return the logarithm of `softmax` along ``dim``, without its underflow.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is not None:
        return cast(log_softmax(cast(input, dtype), dim), dtype)
    return _along_axis(LogSoftmax, "log_softmax", input, dim)


def _along_axis(function: Any, name: str, input: Tensor, dim: int) -> Tensor:
    check_floating(name, input)
    axis = normalized_axis(name, dim, input.ndim or 1)
    if not input.numel():
        return input.clone()
    return function(axis)(input) if input.ndim else function(0)(input.reshape(1)).reshape(())


@takes_axis
@computes_in_float32
def logsumexp(input: Tensor, dim: Dim, keepdim: bool = False) -> Tensor:
    """Return log(sum(exp(x))) over ``dim`` without overflow; its gradient is the softmax.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    IndexError
        If ``dim`` is out of range.
    """
    check_floating("logsumexp", input)
    axes = normalized_axes("logsumexp", dim, input.ndim) or (0,)
    x = input if input.ndim else input.reshape(1)
    if not x.numel():
        return log(exp(x).sum(axes, keepdim))  # -inf: the sum over nothing is 0
    xp = array_module(x.array)
    largest = x.array.max(axis=axes, keepdims=True)
    offset = Tensor(xp.where(xp.isfinite(largest), largest, 0))  # an infinite one would make NaN
    result = log(exp(x - offset).sum(axes, keepdim=True)) + offset
    return result if keepdim and input.ndim else result.squeeze(axes)
