"""Elementwise functions of one Tensor: exp, log, sqrt, abs, tanh, sigmoid and their relatives."""

from __future__ import annotations

import builtins
import math

from minires.autograd import Function, Tensor
from minires.autograd.creation import get_default_dtype
from minires.device import array_module
from minires.kernels import kernels_for
from minires.ops.autocast import computes_in_float32, rounds_once
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


class Expm1(Function):
    """y = exp(x) - 1; dx = dy * (y + 1)."""

    def forward(self, x):
        y = array_module(x).expm1(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * (y + 1)


class Log(Function):
    """y = log(x); dx = dy / x."""

    def forward(self, x):
        self.save(x)
        return array_module(x).log(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy / x


class Log1p(Function):
    """y = log(1 + x); dx = dy / (1 + x)."""

    def forward(self, x):
        self.save(x)
        return array_module(x).log1p(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy / (x + 1)


class Sqrt(Function):
    """y = sqrt(x); dx = dy / (2 y)."""

    def forward(self, x):
        y = array_module(x).sqrt(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy / (2 * y)


class Rsqrt(Function):
    """y = 1 / sqrt(x); dx = -dy * y^3 / 2."""

    def forward(self, x):
        y = 1 / array_module(x).sqrt(x)
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * (y * y * y) * -0.5


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
    """y = 1 / (1 + exp(-x)); dx = dy * y * (1 - y). Where exp overflows to infinity, y is rightly 0."""

    def forward(self, x):
        y = 1 / (1 + array_module(x).exp(-x))
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * y * (1 - y)


class Sin(Function):
    """y = sin(x); dx = dy * cos(x)."""

    def forward(self, x):
        self.save(x)
        return array_module(x).sin(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy * cos(x)


class Cos(Function):
    """y = cos(x); dx = -dy * sin(x)."""

    def forward(self, x):
        self.save(x)
        return array_module(x).cos(x)

    def backward(self, dy):
        (x,) = self.saved
        return -dy * sin(x)


class Erf(Function):
    """y = 2/sqrt(pi) * the integral of exp(-t^2) from 0 to x; dx = dy * 2/sqrt(pi) * exp(-x^2)."""

    def forward(self, x):
        self.save(x)
        return kernels_for(x).erf(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy * (2 / math.sqrt(math.pi)) * exp(-x * x)


class Step(Function):
    """A function that is constant between its steps (``floor``, ``ceil``, ``rint``, ``trunc``, ``sign``): dx = 0."""

    def __init__(self, array_function: str):
        self.array_function = array_function

    @property
    def name(self) -> str:
        """The function's own name rather than the family's."""
        return self.array_function.capitalize()

    def forward(self, x):
        return getattr(array_module(x), self.array_function)(x)

    def backward(self, dy):
        return Tensor(array_module(dy.array).zeros_like(dy.array))


def _floating(input: Tensor) -> Tensor:
    """Integers and booleans are computed in the default floating-point dtype."""
    return input if input.is_floating_point() else cast(input, get_default_dtype())


@computes_in_float32
def exp(input: Tensor) -> Tensor:
    """Return e to the power of each element."""
    return Exp()(_floating(input))


@computes_in_float32
def expm1(input: Tensor) -> Tensor:
    """Return exp(x) - 1 of each element, accurate near 0."""
    return Expm1()(_floating(input))


@computes_in_float32
def log(input: Tensor) -> Tensor:
    """Return the natural logarithm of each element: -inf at 0, NaN below."""
    return Log()(_floating(input))


@computes_in_float32
def log1p(input: Tensor) -> Tensor:
    """Return log(1 + x) of each element, accurate near 0."""
    return Log1p()(_floating(input))


@rounds_once
def sqrt(input: Tensor) -> Tensor:
    """Return the square root of each element: NaN below 0, and an infinite gradient at 0."""
    return Sqrt()(_floating(input))


@computes_in_float32
def rsqrt(input: Tensor) -> Tensor:
    """Return 1 / sqrt(x) of each element: infinite at 0, NaN below."""
    return Rsqrt()(_floating(input))


def abs(input: Tensor) -> Tensor:
    """Return the absolute value of each element; its gradient at 0 is 0.

    Raises
    ------
    RuntimeError
        For booleans.
    """
    if input.dtype.kind == "b":
        raise RuntimeError("abs is not defined for boolean Tensors: convert with .int() first")
    return Abs()(input)


@rounds_once
def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent of each element."""
    return Tanh()(_floating(input))


@rounds_once
def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)) of each element."""
    return Sigmoid()(_floating(input))


@rounds_once
def sin(input: Tensor) -> Tensor:
    """Return the sine of each element, in radians."""
    return Sin()(_floating(input))


@rounds_once
def cos(input: Tensor) -> Tensor:
    """Return the cosine of each element, in radians."""
    return Cos()(_floating(input))


@rounds_once
def erf(input: Tensor) -> Tensor:
    """Return the Gauss error function of each element."""
    return Erf()(_floating(input))


def square(input: Tensor) -> Tensor:
    """Return the square of each element."""
    return input**2


@computes_in_float32
def reciprocal(input: Tensor) -> Tensor:
    """Return 1 / x of each element."""
    return 1 / input


def _step(array_function: str, input: Tensor) -> Tensor:
    """Integers are whole already."""
    return Step(array_function)(input) if input.is_floating_point() else input.clone()


def floor(input: Tensor) -> Tensor:
    """Return the largest integer not above each element; the gradient is 0."""
    return _step("floor", input)


def ceil(input: Tensor) -> Tensor:
    """Return the smallest integer not below each element; the gradient is 0."""
    return _step("ceil", input)


@rounds_once
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Return the nearest number with so many decimals to each element, halves going to the even one; the gradient is 0.

    With the decimals -2 these are multiples of 100.

    Raises
    ------
    RuntimeError
        If integers are to have other than 0 decimals.
    """
    if not decimals:
        return _step("rint", input)
    if not input.is_floating_point():
        raise RuntimeError(f"round: integers have no decimals, got decimals={decimals}: convert with .float() first")
    power = 10.0 ** builtins.abs(decimals)
    return Step("rint")(input * power) / power if decimals > 0 else Step("rint")(input / power) * power


def trunc(input: Tensor) -> Tensor:
    """Return each element without its fraction; the gradient is 0."""
    return _step("trunc", input)


def sign(input: Tensor) -> Tensor:
    """Return -1, 0 or 1 with the sign of each element; the gradient is 0."""
    return input.clone() if input.dtype.kind == "b" else Step("sign")(input)
