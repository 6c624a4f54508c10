"""Activations: relu, relu6, leaky_relu, silu, gelu. With ``inplace`` the input becomes the result and is returned."""

from __future__ import annotations

import math
from collections.abc import Callable

from minires.autograd import Function, Tensor
from minires.device import Array, array_module
from minires.kernels import kernels_for
from minires.ops.autocast import rounds_once
from minires.ops.changes import change
from minires.ops.clamp import clamp
from minires.ops.pointwise import erf, exp, sigmoid, tanh
from minires.ops.promotion import check_floating
from minires.ops.where import Where, only_where


class ReLU(Function):
    """y = max(x, 0); dx = dy where y > 0, so 0 at 0."""

    def forward(self, x):
        y = kernels_for(x).relu(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return ReLUGrad(y.array)(dy)


class ReLUGrad(Function):
    """dy -> dy where the constant y is positive, else 0: linear, and its own transpose."""

    def __init__(self, y: Array):
        self.y = y

    def forward(self, dy):
        return kernels_for(dy).relu_grad(dy, self.y)

    def backward(self, ddx):
        return ReLUGrad(self.y)(ddx)


class ReLU6(Function):
    """y = min(max(x, 0), 6); dx = dy strictly between 0 and 6."""

    def forward(self, x):
        self.save(x)
        return x.clip(0, 6).astype(x.dtype, copy=False)  # NumPy makes float32 of bfloat16

    def backward(self, dy):
        x = self.saved[0].array
        return only_where((x > 0) & (x < 6), dy)


class LeakyReLU(Function):
    """y = x where x > 0, else slope * x; dx alike, so slope * dy at 0."""

    def __init__(self, negative_slope: float):
        self.negative_slope = negative_slope

    def forward(self, x):
        self.save(x)
        return array_module(x).where(x > 0, x, x * self.negative_slope)

    def backward(self, dy):
        x = self.saved[0].array
        return Where(x > 0)(dy, dy * self.negative_slope)


class SiLU(Function):
    """y = x * s(x) with the sigmoid s; dx = dy * s * (1 + x * (1 - s))."""

    def forward(self, x):
        self.save(x)
        return x / (1 + array_module(x).exp(-x))

    def backward(self, dy):
        (x,) = self.saved
        s = sigmoid(x)
        return dy * (s * (1 + x * (1 - s)))


class GELU(Function):
    """y = x * P(x), P the normal distribution function; dx = dy * (P(x) + x * p(x)), p its density."""

    def forward(self, x):
        self.save(x)
        return x * (0.5 * (1 + kernels_for(x).erf(x * math.sqrt(0.5))))

    def backward(self, dy):
        (x,) = self.saved
        below = 0.5 * (1 + erf(x * math.sqrt(0.5)))
        density = exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return dy * (below + x * density)


class GELUTanh(Function):
    """y = x * (1 + t) / 2 with t = tanh(u), u = k * (x + c * x^3); dx = dy * ((1 + t) + x * (1 - t^2) * u') / 2."""

    k = math.sqrt(2 / math.pi)
    c = 0.044715

    def forward(self, x):
        self.save(x)
        return 0.5 * x * (1 + array_module(x).tanh(self.k * x * (1 + self.c * x * x)))

    def backward(self, dy):
        (x,) = self.saved
        square = x * x
        t = tanh(x * (1 + self.c * square) * self.k)
        slope = self.k * (1 + 3 * self.c * square)
        return dy * (0.5 * ((1 + t) + x * (1 - t * t) * slope))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(x, 0) of each element; the gradient at 0 is 0.

    Raises
    ------
    RuntimeError
        For booleans.
    """
    if input.dtype.kind == "b":
        raise RuntimeError("relu is not defined for boolean Tensors: convert with .int() first")
    return _applied(ReLU() if input.is_floating_point() else _relu_of_integers, input, inplace)


def relu_(input: Tensor) -> Tensor:
    """Let ``input`` become ``relu(input)`` in place."""
    return relu(input, inplace=True)


def _relu_of_integers(input: Tensor) -> Tensor:
    return clamp(input, min=0)


def _applied(function: Callable[[Tensor], Tensor], input: Tensor, inplace: bool) -> Tensor:
    return change(input, function, is_activation=True) if inplace else function(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(x, 0), 6) of each element; the gradient at 0 and 6 is 0 (MobileNets, Howard et al. 2017)."""
    return _applied(ReLU6(), input, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return x where x > 0, else negative_slope * x.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    """
    check_floating("leaky_relu", input)
    return _applied(rounds_once(LeakyReLU(negative_slope)), input, inplace)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Let ``input`` become ``leaky_relu(input, negative_slope)`` in place."""
    return leaky_relu(input, negative_slope, inplace=True)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x * sigmoid(x) of each element (Hendrycks and Gimpel 2016; "swish").

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    """
    check_floating("silu", input)
    return _applied(rounds_once(SiLU()), input, inplace)


@rounds_once
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x * P(x), P the standard normal distribution function (Hendrycks and Gimpel 2016).

    ``approximate="tanh"`` takes their approximation, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers, or ``approximate`` is neither "none" nor "tanh".
    """
    check_floating("gelu", input)
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f'gelu: approximate must be "none" or "tanh", got {approximate!r}')
    return GELU()(input) if approximate == "none" else GELUTanh()(input)
