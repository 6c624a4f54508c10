"""The operators and methods of Tensor, installed on it so that the engine need not know any operation."""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor
from minires.ops import (
    arithmetic,
    cast,
    comparison,
    indexing,
    inplace,
    matmul,
    pointwise,
    reduction,
    shape,
)


class TensorMethods:
    """Every method that computes: `install` copies them to Tensor, and type checkers see them as its base class."""

    __add__ = __radd__ = add = arithmetic.add
    __sub__ = sub = arithmetic.sub
    __mul__ = __rmul__ = mul = arithmetic.mul
    __truediv__ = div = arithmetic.div
    __pow__ = pow = arithmetic.pow
    __neg__ = neg = arithmetic.neg
    __matmul__ = matmul = matmul.matmul

    def __rsub__(self, other: Any) -> Tensor:
        return arithmetic.sub(other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        return arithmetic.div(other, self)

    def __rpow__(self, other: Any) -> Tensor:
        return arithmetic.pow(other, self)

    __iadd__ = inplace.iadd
    __isub__ = inplace.isub
    __imul__ = inplace.imul
    __itruediv__ = inplace.itruediv
    add_, sub_, mul_, div_ = inplace.add_, inplace.sub_, inplace.mul_, inplace.div_
    zero_, fill_, copy_, clamp_ = inplace.zero_, inplace.fill_, inplace.copy_, inplace.clamp_
    normal_, uniform_ = inplace.normal_, inplace.uniform_

    __getitem__ = indexing.getitem
    __setitem__ = inplace.setitem

    exp, log, sqrt, abs, tanh, sigmoid = (
        pointwise.exp,
        pointwise.log,
        pointwise.sqrt,
        pointwise.abs,
        pointwise.tanh,
        pointwise.sigmoid,
    )
    __abs__ = pointwise.abs

    __eq__ = eq = comparison.eq  # type: ignore[assignment]  # elementwise, not object's
    __ne__ = ne = comparison.ne  # type: ignore[assignment]
    __lt__ = lt = comparison.lt
    __le__ = le = comparison.le
    __gt__ = gt = comparison.gt
    __ge__ = ge = comparison.ge

    __and__ = comparison.logical_and
    __or__ = comparison.logical_or
    __xor__ = comparison.logical_xor
    __invert__ = comparison.logical_not

    sum, mean = reduction.sum, reduction.mean
    reshape, permute = shape.reshape, shape.permute
    to, cpu, cuda = cast.to, cast.cpu, cast.cuda


def install() -> None:
    """Copy the methods to Tensor."""
    for name, value in vars(TensorMethods).items():
        if callable(value) and name not in ("__dict__", "__weakref__", "__init_subclass__"):
            setattr(Tensor, name, value)
