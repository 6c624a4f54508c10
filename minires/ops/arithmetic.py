"""Elementwise arithmetic with broadcasting: + - * / ** and negation.

Each backward multiplies by the partial derivative and sums over the axes that were broadcast (`sum_to`).
"""

from __future__ import annotations

import math
from typing import Any

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.broadcast import check_broadcast, sum_to
from minires.ops.pointwise import log
from minires.ops.promotion import promote
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
        da = sum_to(dy * b, self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(dy * a, self.input_shapes[1]) if self.needs_grad[1] else None
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
        y = array_module(a if hasattr(a, "dtype") else b).power(a, b)
        self.save(a, b, y if self.needs_grad[1] else None)
        return y

    def backward(self, dy):
        a, b, y = self.saved
        da = db = None
        if self.needs_grad[0]:
            if isinstance(b, Tensor):
                da = where(b == 0, 0.0, dy * b * a ** where(b == 0, 1.0, b - 1))
            else:
                da = dy * b * a ** (b - 1) if b != 0 else dy * 0
            da = sum_to(da, self.input_shapes[0])
        if self.needs_grad[1]:
            settled = (b >= 0) & (a == 0)  # 0 ** b stays 0 (or 1 at b = 0): the derivative in b is 0, not 0 * -inf
            logarithm = log(where(settled, 1.0, a)) if isinstance(a, Tensor) else math.log(a or 1.0)
            db = where(settled, 0.0, dy * y * logarithm)
            db = sum_to(db, self.input_shapes[1])
        return da, db


class Neg(Function):
    """y = -x."""

    def forward(self, x):
        return -x

    def backward(self, dy):
        return -dy


def _binary(function: type[Function], name: str, a: Any, b: Any, to_float: bool = False) -> Tensor:
    check_broadcast(name, a, b)
    return function()(*promote(a, b, to_float=to_float))


def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return ``input + alpha * other``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return _binary(Add, "add", input, other if alpha == 1 else mul(other, alpha))


def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return ``input - alpha * other``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, or for booleans: use ``^`` or logical operations for those.
    """
    if any(isinstance(t, Tensor) and t.dtype.kind == "b" for t in (input, other)):
        raise RuntimeError("subtraction is not defined for boolean Tensors: use ~ or != instead")
    return _binary(Sub, "sub", input, other if alpha == 1 else mul(other, alpha))


def mul(input: Any, other: Any) -> Tensor:
    """Return ``input * other``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return _binary(Mul, "mul", input, other)


def div(input: Any, other: Any) -> Tensor:
    """Return ``input / other``, broadcast; integers divide to the default floating-point dtype.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return _binary(Div, "div", input, other, to_float=True)


def pow(input: Any, exponent: Any) -> Tensor:
    """Return ``input ** exponent``, broadcast.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, or for an integer Tensor to a negative integer power.
    """
    if isinstance(input, Tensor) and input.dtype.kind in "iu" and isinstance(exponent, int) and exponent < 0:
        raise RuntimeError(f"integers to a negative power ({exponent}) are not integers: convert with .float() first")
    return _binary(Pow, "pow", input, exponent)


def neg(input: Tensor) -> Tensor:
    """Return ``-input``.

    Raises
    ------
    RuntimeError
        For a boolean Tensor.
    """
    if input.dtype.kind == "b":
        raise RuntimeError("negation is not defined for boolean Tensors: use ~ instead")
    return Neg()(input)
