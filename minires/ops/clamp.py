"""Limits: clamp, and the larger or smaller of two.

Where operands are equal, PyTorch's conventions hold: `clamp` gives the whole gradient to its input, `maximum` and
`minimum` give half to each side.
"""

from __future__ import annotations

from typing import Any

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.broadcast import sum_to
from minires.ops.promotion import matched
from minires.ops.where import only_where


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Tensor) else value


class Clamp(Function):
    """(x, low, high) -> min(max(x, low), high), for limits that are numbers, Tensors or None (no limit)."""

    def forward(self, x, low, high):
        xp = array_module(x)
        self.save(x, low, high)
        y = x if low is None else xp.maximum(x, low)
        return y if high is None else xp.minimum(y, high)

    def backward(self, dy):
        x, low, high = (_array(value) for value in self.saved)
        crossed = False if low is None or high is None else low > high  # then high wins everywhere
        below = False if low is None else (x < low) & (crossed ^ True)
        above = False if high is None else (x > high) | crossed
        inside = True if low is None else x >= low  # false for NaN, which gets no gradient
        inside = inside if high is None else inside & (x <= high)
        return tuple(
            sum_to(only_where(taken, dy), shape) if needs else None
            for taken, shape, needs in zip((inside, below, above), self.input_shapes, self.needs_grad, strict=True)
        )


class Maximum(Function):
    """y = max(a, b): the larger receives the gradient, equals half of it each."""

    largest = True

    def forward(self, a, b):
        self.save(a, b)
        xp = array_module(a)
        return xp.maximum(a, b) if self.largest else xp.minimum(a, b)

    def backward(self, dy):
        a, b = (value.array for value in self.saved)
        smaller, larger = (a < b, a > b) if self.largest else (a > b, a < b)
        shared = Tensor(array_module(a).where(a == b, 0.5, 1.0).astype(a.dtype))
        da = sum_to(only_where(~smaller, dy * shared), self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(only_where(~larger, dy * shared), self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


class Minimum(Maximum):
    """y = min(a, b): the smaller receives the gradient, equals half of it each."""

    largest = False


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Return ``input`` limited to [min, max]; either limit may be a number, a Tensor that broadcasts, or None.

    Where min exceeds max, the result is max.

    Raises
    ------
    RuntimeError
        If both limits are None, the shapes do not broadcast, or a limit does not fit into the dtype.
    """
    limits = [limit for limit in (min, max) if limit is not None]
    if not limits:
        raise RuntimeError("clamp needs min, max or both, got neither")
    input, *limits = matched("clamp", input, *limits, stores=True)
    low = None if min is None else limits[0]
    high = None if max is None else limits[-1]
    return Clamp()(input, low, high)


def maximum(input: Tensor, other: Tensor) -> Tensor:
    """Return elementwise the larger of two Tensors, broadcast; NaN if either is NaN.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return Maximum()(*matched("maximum", *_tensors("maximum", input, other)))


def minimum(input: Tensor, other: Tensor) -> Tensor:
    """Return elementwise the smaller of two Tensors, broadcast; NaN if either is NaN.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    """
    return Minimum()(*matched("minimum", *_tensors("minimum", input, other)))


def _tensors(name: str, *operands: Any) -> tuple:
    for operand in operands:
        if not isinstance(operand, Tensor):
            raise TypeError(f"{name} compares two Tensors, got {type(operand).__name__}: use clamp with a number")
    return operands
