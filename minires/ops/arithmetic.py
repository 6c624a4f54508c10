"""Elementwise arithmetic with broadcasting: + - * / // % ** and negation.

Each backward multiplies by the partial derivative and sums over the axes that were broadcast (`sum_to`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import Function, Tensor
from minires.autograd.creation import number_dtype
from minires.device import array_module
from minires.dtypes import is_floating, is_higher_kind, python_number, stored_number, wrapped_number
from minires.ops.autocast import computes_in_float32, rounds_once
from minires.ops.broadcast import sum_to
from minires.ops.pointwise import log
from minires.ops.promotion import matched, result_type
from minires.ops.where import where


class Add(Function):
    """y = a + b: each summand receives the whole gradient. This is the residual connection's backward pass."""

    def forward(self, a, b):
        return a + b

    def backward(self, dy):
        da = sum_to(dy, self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(dy, self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


class Sub(Function):
    """y = a - b."""

    def forward(self, a, b):
        return a - b

    def backward(self, dy):
        da = sum_to(dy, self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(-dy, self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


class Mul(Function):
    """y = a * b; da = dy * b, db = dy * a."""

    def forward(self, a, b):
        self.save(a if self.needs_grad[1] else None, b if self.needs_grad[0] else None)
        return a * b

    def backward(self, dy):
        a, b = self.saved
        a_shape, b_shape = self.input_shapes
        da = db = None
        if self.needs_grad[0]:
            da = dy * b if dy.shape == a_shape else _summed_product(dy, b, a_shape)
        if self.needs_grad[1]:
            db = dy * a if dy.shape == b_shape else _summed_product(dy, a, b_shape)
        return da, db


class Div(Function):
    """y = a / b; da = dy / b, db = -dy * a / b^2."""

    def forward(self, a, b):
        self.save(a if self.needs_grad[1] else None, b)
        return a / b

    def backward(self, dy):
        a, b = self.saved
        da = dy / b
        db = sum_to(-da * (a / b), self.input_shapes[1]) if self.needs_grad[1] else None
        return (sum_to(da, self.input_shapes[0]) if self.needs_grad[0] else None), db


class Pow(Function):
    """y = a ** b; da = dy * b * a^(b - 1), db = dy * y * log(a), with 0 where the formula says 0 * infinity."""

    def forward(self, a, b):
        y = a**b
        self.save(a, b, y if self.needs_grad[1] else None)
        return y

    def backward(self, dy):
        a, b, y = self.saved
        da = db = None
        if self.needs_grad[0]:
            if isinstance(b, Tensor):
                da = where(b == 0, 0.0, dy * b * a ** where(b == 0, 1.0, b - 1))
            elif b == 0:
                da = dy * 0
            else:
                da = dy * b * (a if b == 2 else a ** (b - 1))
            da = sum_to(da, self.input_shapes[0])
        if self.needs_grad[1]:
            settled = (b >= 0) & (a == 0)  # 0 ** b stays 0 (or 1 at b = 0): the derivative in b is 0, not 0 * -inf
            logarithm: Any
            if isinstance(a, Tensor):
                logarithm = log(where(settled, 1.0, a))
            elif a:
                logarithm = math.log(a) if a > 0 else math.nan
            else:
                logarithm = where(settled, y, -math.inf)
            db = sum_to(where(settled, 0.0, dy * y * logarithm), self.input_shapes[1])
        return da, db


class Neg(Function):
    """y = -x."""

    def forward(self, x):
        return -x

    def backward(self, dy):
        return -dy


def _is_whole(a: Any, b: Any) -> bool:
    """Tell whether two operands, an array or both of one dtype, are integers."""
    return (a if hasattr(a, "dtype") else b).dtype.kind in "iu"


class RoundedDiv(Function):
    """y = a / b rounded towards -infinity ("floor") or 0 ("trunc"): constant between its steps, so dy vanishes."""

    def __init__(self, rounding_mode: str):
        self.rounding_mode = rounding_mode

    def forward(self, a, b):
        if self.rounding_mode == "floor":
            return a // b
        if not _is_whole(a, b):
            y = a / b
            return array_module(y).trunc(y)
        y = a // b
        return y + ((y < 0) & (y * b != a))  # one step back towards zero

    def backward(self, dy):
        return tuple(
            sum_to(dy * 0, shape) if needs else None
            for shape, needs in zip(self.input_shapes, self.needs_grad, strict=True)
        )


class Remainder(Function):
    """y = a - b * floor(a / b), of the sign of b; da = dy, db = -dy * floor(a / b)."""

    def forward(self, a, b):
        self.save(a if self.needs_grad[1] else None, b if self.needs_grad[1] else None)
        if _is_whole(a, b):
            return a % b
        a, b = (value if hasattr(value, "dtype") else float(value) for value in (a, b))
        xp = array_module(a if hasattr(a, "dtype") else b)
        rest = xp.fmod(a, b)  # of the sign of a, also where it is 0
        return xp.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)

    def backward(self, dy):
        a, b = self.saved
        da = sum_to(dy, self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(-dy * floor_divide(a, b), self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


def _rounds_once_alone(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`rounds_once`, but for two Tensors of one dtype: their sum or product is a single step, which rounds once."""
    rounding_once = rounds_once(function)

    @functools.wraps(function)
    def operation(input: Any, other: Any, **options: Any) -> Tensor:
        are_tensors = isinstance(input, Tensor) and isinstance(other, Tensor)
        if are_tensors and input.array.dtype == other.array.dtype and not options:
            return function(input, other)
        return rounding_once(input, other, **options)

    return operation


def _scaled(name: str, input: Any, other: Any, alpha: float) -> tuple:
    """(input, alpha * other) with dtypes promoted."""
    a, b = matched(name, input, other)
    if type(alpha) is int and alpha == 1:
        return a, b
    dtype = result_type(input, other)
    kind = number_dtype(alpha)
    if is_higher_kind(kind, dtype) and (is_floating(kind) or dtype.kind != "b"):
        raise RuntimeError(f"{name}: alpha must be an integer for integer operands, got {alpha}")
    if kind.kind == "b" and dtype.kind != "b":
        raise RuntimeError(f"{name}: alpha can be a boolean only for booleans, got {alpha} for {dtype}")
    stored_number(f"{name} (alpha)", alpha, dtype)  # or is refused
    factor = bool(alpha) if dtype.kind == "b" else python_number(alpha)
    return a, (mul(b, factor) if isinstance(b, Tensor) else wrapped_number(python_number(other) * factor, dtype))


@_rounds_once_alone
def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return ``input + alpha * other``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return Add()(*_scaled("add", input, other, alpha))


@_rounds_once_alone
def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return ``input - alpha * other``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, or for booleans: use ``^`` or logical operations for those.
    """
    for operand in (input, other):
        _refuse_booleans("subtraction", operand)
    return Sub()(*_scaled("sub", input, other, alpha))


@_rounds_once_alone
def mul(input: Any, other: Any) -> Tensor:
    """Return ``input * other``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return Mul()(*matched("mul", input, other))


@rounds_once
def _summed_product(a: Tensor, b: Any, shape: tuple[int, ...]) -> Tensor:
    return sum_to(a * b, shape)


@rounds_once
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Return ``input / other``, broadcast; integers divide to the default floating-point dtype.

    With ``rounding_mode`` "floor" or "trunc" the quotient is rounded down or towards zero, integers stay integers and
    the gradient is 0.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, the rounding mode is another, or an integer is divided by 0 with rounding.
    """
    if rounding_mode is None:
        return Div()(*matched("div", input, other, to_float=True))
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(f'div: rounding_mode must be None, "floor" or "trunc", got {rounding_mode!r}')
    a, b = matched("div", input, other)
    _check_whole_division("div", result_type(input, other), b)
    return RoundedDiv(rounding_mode)(a, b)


def floor_divide(input: Any, other: Any) -> Tensor:
    """Return ``input // other``: the quotient rounded down, with gradient 0."""
    return div(input, other, rounding_mode="floor")


@rounds_once
def remainder(input: Any, other: Any) -> Tensor:
    """Return ``input % other``, which has the sign of ``other``, as in Python.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, or for the remainder of an integer by 0.
    """
    a, b = matched("remainder", input, other)
    _check_whole_division("remainder", result_type(input, other), b)
    return Remainder()(a, b)


@computes_in_float32
def pow(input: Any, exponent: Any) -> Tensor:
    """Return ``input ** exponent``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, for two booleans, or for an integer Tensor to a number that is negative or does
        not fit into its dtype. (To negative elements of a Tensor, integers other than 1 and -1 give 0.)
    """
    dtype = result_type(input, exponent)
    if dtype.kind == "b":
        raise RuntimeError("pow is not defined for booleans: convert with .int() first")
    a, b = matched("pow", input, exponent)
    if is_floating(dtype):
        return Pow()(a, b)
    if not isinstance(b, Tensor):
        if exponent < 0:
            raise RuntimeError(f"integers to a negative power ({exponent}) are no integers: use .float() first")
        return Pow()(a, stored_number("pow", exponent, dtype))
    negative = b < 0
    power = Pow()(a, b.clamp(min=0))
    if not bool(negative.any()):
        return power
    # What is left of 1 / a ** -b without its fraction: that of 1 and -1, all others vanish.
    base = a if isinstance(a, Tensor) else b * 0 + a
    unit = (base == 1) | (base == -1)
    return where(negative, where(unit, where(b % 2 == 0, 1, base), 0), power)


def neg(input: Tensor) -> Tensor:
    """Return ``-input``.

    Raises
    ------
    RuntimeError
        For a boolean Tensor.
    """
    _refuse_booleans("negation", input)
    return Neg()(input)


def _refuse_booleans(operation: str, input: Any) -> None:
    if input.array.dtype.kind == "b" if isinstance(input, Tensor) else isinstance(input, (bool, np.bool_)):
        raise RuntimeError(f"{operation} is not defined for booleans: use ~ or != instead")


def _check_whole_division(name: str, dtype: np.dtype, divisor: Any) -> None:
    """Integers know no infinity, and booleans no quotient."""
    if is_floating(dtype):
        return
    if dtype.kind == "b":
        raise RuntimeError(f"{name} with rounding is not defined for booleans: convert with .int() first")
    zero = bool((divisor.array == 0).any()) if isinstance(divisor, Tensor) else divisor == 0
    if zero:
        raise RuntimeError(f"{name}: an integer was to be divided by 0: check the divisor, or convert with .float()")
