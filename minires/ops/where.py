"""y = a where the condition holds, else b: each gradient flows only where its operand was taken."""

from __future__ import annotations

from typing import Any

from minires.autograd import Function, Tensor
from minires.device import Array, array_module
from minires.ops.broadcast import check_broadcast, sum_to
from minires.ops.promotion import promote


class Where(Function):
    """(a, b) -> y for a constant boolean condition."""

    def __init__(self, condition: Array):
        self.condition = condition

    def forward(self, a, b):
        xp = array_module(self.condition)
        return xp.where(self.condition, a, b)

    def backward(self, dy):
        da = sum_to(Where(self.condition)(dy, 0.0), self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(Where(self.condition)(0.0, dy), self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


def where(condition: Tensor, input: Any, other: Any) -> Tensor:
    """Return ``input`` where ``condition`` holds and ``other`` elsewhere, all three broadcast together.

    Raises
    ------
    RuntimeError
        If the condition is not boolean or the shapes do not broadcast.
    """
    if condition.dtype.kind != "b":
        raise RuntimeError(f"where needs a boolean condition, got {condition.dtype}: compare first, e.g. x > 0")
    check_broadcast("where", condition, input, other)
    a, b = promote(input, other)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # two numbers say nothing of the dtype by themselves
        from minires.ops.promotion import result_type

        xp = array_module(condition.array)
        a = Tensor(xp.asarray(a, result_type(input, other)))
    return Where(condition.array)(a, b)
