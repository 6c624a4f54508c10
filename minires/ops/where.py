"""y = a where the condition holds, else b: each gradient flows only where its operand was taken."""

from __future__ import annotations

from typing import Any

from minires.autograd import Function, Tensor
from minires.device import Array, array_module
from minires.dtypes import stored_number
from minires.ops.broadcast import check_broadcast, sum_to
from minires.ops.cast import cast
from minires.ops.indexing import nonzero
from minires.ops.promotion import promote, result_type


class Where(Function):
    """(a, b) -> y for a constant boolean condition."""

    def __init__(self, condition: Array):
        self.condition = condition

    def forward(self, a, b):
        xp = array_module(self.condition)
        dtype = b.dtype if isinstance(a, (bool, int, float)) else a.dtype
        return xp.where(self.condition, a, b).astype(dtype, copy=False)  # NumPy makes float64 of bfloat16 and a number

    def backward(self, dy):
        da = sum_to(Where(self.condition)(dy, 0.0), self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(Where(self.condition)(0.0, dy), self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


def only_where(condition: Array, input: Tensor) -> Tensor:
    """Return ``input`` where the boolean array ``condition`` holds and 0 elsewhere, even where input is infinite."""
    return Where(condition)(input, 0.0)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """Return ``input`` where ``condition`` holds and ``other`` elsewhere, all three broadcast together.

    With the condition alone, return where it holds: one Tensor of indices for each axis.

    Raises
    ------
    RuntimeError
        If the condition is not boolean, the shapes do not broadcast, or a number does not fit into the other's dtype.
    """
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    _check_boolean("where", condition)
    check_broadcast("where", condition, input, other)
    a, b = promote(input, other, stored_by="where")
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # two numbers by themselves say nothing of the dtype
        a = Tensor(array_module(condition.array).asarray(a, result_type(input, other)))
    return Where(condition.array).watching(condition)(a, b)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Return ``input`` with ``value``, a number or a 0-dimensional Tensor, where the boolean ``mask`` holds.

    Raises
    ------
    RuntimeError
        If the mask is not boolean, the value has axes or does not fit, or the shapes do not broadcast.
    """
    _check_boolean("masked_fill", mask)
    check_broadcast("masked_fill", input, mask)
    if isinstance(value, Tensor):
        if value.ndim:
            raise RuntimeError(f"masked_fill: the value must be a number or 0-dimensional, got shape {value.shape}")
        value = cast(value, input.dtype)
    else:
        value = stored_number("masked_fill", value, input.dtype)
    return Where(mask.array).watching(mask)(value, input)


def _check_boolean(name: str, condition: Any) -> None:
    if not isinstance(condition, Tensor):
        raise TypeError(f"{name} needs a boolean Tensor as its condition, got {type(condition).__name__}")
    if condition.dtype.kind != "b":
        raise RuntimeError(f"{name} needs a boolean condition, got {condition.dtype}: compare first, e.g. x > 0")
