"""Elementwise functions of one Tensor: exp, log, sqrt, abs, tanh, sigmoid."""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.autograd.creation import get_default_dtype
from minires.device import array_module
from minires.ops.cast import cast


class Exp(Function):
    """y = exp(x); dx = dy * y."""

    def forward(self, x):
        y = array_module(x).exp(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * y


class Log(Function):
    """y = log(x); dx = dy / x."""

    def forward(self, x):
        self.save(x)
        return array_module(x).log(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy / x


class Sqrt(Function):
    """y = sqrt(x); dx = dy / (2 y)."""

    def forward(self, x):
        y = array_module(x).sqrt(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy / (2 * y)


class Abs(Function):
    """y = |x|; dx = dy * sign(x), which is 0 at 0."""

    def forward(self, x):
        self.save(x)
        return array_module(x).abs(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy * Tensor(array_module(x.array).sign(x.array))


class Tanh(Function):
    """y = tanh(x); dx = dy * (1 - y^2)."""

    def forward(self, x):
        y = array_module(x).tanh(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * (1 - y * y)


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x)); dx = dy * y * (1 - y). Written through tanh, which never overflows."""

    def forward(self, x):
        y = 0.5 * (1 + array_module(x).tanh(0.5 * x))
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * y * (1 - y)


def _floating(input: Tensor) -> Tensor:
    """Integers and booleans are computed in the default floating-point dtype."""
    return input if input.is_floating_point() else cast(input, get_default_dtype())


def exp(input: Tensor) -> Tensor:
    """Return e to the power of each element."""
    return Exp()(_floating(input))


def log(input: Tensor) -> Tensor:
    """Return the natural logarithm of each element: -inf at 0, NaN below."""
    return Log()(_floating(input))


def sqrt(input: Tensor) -> Tensor:
    """Return the square root of each element: NaN below 0, and an infinite gradient at 0."""
    return Sqrt()(_floating(input))


def abs(input: Tensor) -> Tensor:
    """Return the absolute value of each element; its gradient at 0 is 0."""
    return Abs()(input)


def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent of each element."""
    return Tanh()(_floating(input))


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)) of each element."""
    return Sigmoid()(_floating(input))
