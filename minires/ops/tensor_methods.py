"""The operators and methods of Tensor, installed on it so that the engine need not know any operation."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from typing import Any

import numpy as np

from minires.autograd import Tensor, creation
from minires.ops import (
    activation,
    arithmetic,
    autocast,
    broadcast,
    cast,
    clamp,
    comparison,
    indexing,
    inplace,
    matmul,
    pointwise,
    reduction,
    shape,
    softmax,
    sorting,
    where,
)
from minires.ops.argument_types import takes_tensors, tensor_parameters


def _comparison_operator(compare: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Any]:
    """``==`` and ``!=``, which Python also asks about things that are no numbers: ``tensor == None`` is False."""

    def method(self: Tensor, other: Any) -> Any:
        is_comparable = isinstance(other, (Tensor, bool, int, float, np.generic, np.ndarray))
        return compare(self, other) if is_comparable else NotImplemented

    return method


def _reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """``number - tensor`` from ``sub``."""

    def method(self: Tensor, other: Any) -> Tensor:
        return function(other, self)

    return method


class TensorMethods:
    """Every method that computes: `install` copies them to Tensor, and type checkers see them as its base class."""

    __add__ = __radd__ = add = arithmetic.add
    __sub__ = sub = arithmetic.sub
    __mul__ = __rmul__ = mul = arithmetic.mul
    __truediv__ = div = arithmetic.div
    __floordiv__ = floor_divide = arithmetic.floor_divide
    __mod__ = remainder = arithmetic.remainder
    __pow__ = pow = arithmetic.pow
    __neg__ = neg = arithmetic.neg
    __matmul__, matmul, mm, bmm = matmul.matmul, matmul.matmul, matmul.mm, matmul.bmm
    __rsub__ = _reflected(arithmetic.sub)
    __rtruediv__ = autocast.computes_in_float32(_reflected(arithmetic.div))
    __rfloordiv__ = _reflected(arithmetic.floor_divide)
    __rmod__ = _reflected(arithmetic.remainder)
    __rpow__ = _reflected(arithmetic.pow)

    __iadd__ = add_ = inplace.add_
    __isub__ = sub_ = inplace.sub_
    __imul__ = mul_ = inplace.mul_
    __itruediv__ = div_ = inplace.div_
    __ifloordiv__ = floor_divide_ = inplace.floor_divide_
    __imod__ = remainder_ = inplace.remainder_
    __ipow__ = pow_ = inplace.pow_
    __iand__ = bitwise_and_ = inplace.bitwise_and_
    __ior__ = bitwise_or_ = inplace.bitwise_or_
    __ixor__ = bitwise_xor_ = inplace.bitwise_xor_
    bitwise_not_, neg_, abs_, sign_, square_ = (
        inplace.bitwise_not_,
        inplace.neg_,
        inplace.abs_,
        inplace.sign_,
        inplace.square_,
    )
    exp_, expm1_, log_, log1p_ = inplace.exp_, inplace.expm1_, inplace.log_, inplace.log1p_
    sqrt_, rsqrt_, reciprocal_, erf_ = inplace.sqrt_, inplace.rsqrt_, inplace.reciprocal_, inplace.erf_
    tanh_, sigmoid_, sin_, cos_, relu_ = (
        inplace.tanh_,
        inplace.sigmoid_,
        inplace.sin_,
        inplace.cos_,
        activation.relu_,
    )
    floor_, ceil_, round_, trunc_ = inplace.floor_, inplace.ceil_, inplace.round_, inplace.trunc_
    zero_, fill_, copy_ = inplace.zero_, inplace.fill_, inplace.copy_
    clamp_, clip_, masked_fill_ = inplace.clamp_, inplace.clamp_, inplace.masked_fill_
    normal_, uniform_ = inplace.normal_, inplace.uniform_

    __getitem__ = indexing.getitem
    __setitem__ = inplace.setitem
    gather, scatter_add, nonzero = indexing.gather, indexing.scatter_add, indexing.nonzero

    exp, expm1, log, log1p = pointwise.exp, pointwise.expm1, pointwise.log, pointwise.log1p
    sqrt, rsqrt, square, reciprocal = pointwise.sqrt, pointwise.rsqrt, pointwise.square, pointwise.reciprocal
    tanh, sigmoid, erf = pointwise.tanh, pointwise.sigmoid, pointwise.erf
    sin, cos = pointwise.sin, pointwise.cos
    floor, ceil, round, trunc, sign = (
        pointwise.floor,
        pointwise.ceil,
        pointwise.round,
        pointwise.trunc,
        pointwise.sign,
    )
    __abs__ = abs = pointwise.abs
    relu, softmax, log_softmax, logsumexp = (
        activation.relu,
        softmax.softmax,
        softmax.log_softmax,
        softmax.logsumexp,
    )
    clamp, clip, maximum, minimum = clamp.clamp, clamp.clamp, clamp.maximum, clamp.minimum
    masked_fill = where.masked_fill

    def where(self: Any, condition: Tensor, other: Any) -> Tensor:
        """Return the elements where ``condition`` holds and ``other`` elsewhere."""
        return where.where(condition, self, other)

    eq, ne, lt, le, gt, ge = (
        comparison.eq,
        comparison.ne,
        comparison.lt,
        comparison.le,
        comparison.gt,
        comparison.ge,
    )
    __eq__ = _comparison_operator(comparison.eq)
    __ne__ = _comparison_operator(comparison.ne)
    __lt__, __le__, __gt__, __ge__ = comparison.lt, comparison.le, comparison.gt, comparison.ge
    __and__ = __rand__ = bitwise_and = comparison.bitwise_and
    __or__ = __ror__ = bitwise_or = comparison.bitwise_or
    __xor__ = __rxor__ = bitwise_xor = comparison.bitwise_xor
    __invert__ = bitwise_not = comparison.bitwise_not
    logical_and, logical_or, logical_xor, logical_not = (
        comparison.logical_and,
        comparison.logical_or,
        comparison.logical_xor,
        comparison.logical_not,
    )
    isnan, isinf, isfinite = comparison.isnan, comparison.isinf, comparison.isfinite
    isclose, allclose, equal = comparison.isclose, comparison.allclose, comparison.equal

    sum, mean, var, std, norm = reduction.sum, reduction.mean, reduction.var, reduction.std, reduction.norm
    max, min, amax, amin = reduction.max, reduction.min, reduction.amax, reduction.amin
    argmax, argmin, all, any = reduction.argmax, reduction.argmin, reduction.all, reduction.any
    prod, sort, argsort, topk = reduction.prod, sorting.sort, sorting.argsort, sorting.topk

    reshape, view, view_as, flatten = shape.reshape, shape.view, shape.view_as, shape.flatten
    reshape_as = shape.reshape_as
    squeeze, unsqueeze, permute, transpose = shape.squeeze, shape.unsqueeze, shape.permute, shape.transpose
    swapaxes, movedim, t = shape.swapaxes, shape.movedim, shape.t
    T, mT = property(shape.t), property(shape.matrix_transpose)
    expand, expand_as, broadcast_to = shape.expand, shape.expand_as, broadcast.broadcast_to
    repeat, flip = shape.repeat, shape.flip
    split, chunk, unbind, narrow = shape.split, shape.chunk, shape.unbind, shape.narrow
    clone, contiguous, is_contiguous = shape.clone, shape.contiguous, shape.is_contiguous

    to, cpu, cuda, type, type_as = cast.to, cast.cpu, cast.cuda, cast.type_, cast.type_as
    half, float, double = cast.half, cast.float_, cast.double
    long, int, short, byte, bool = cast.long, cast.int_, cast.short, cast.byte, cast.bool_

    new_tensor, new_full = creation.new_tensor, creation.new_full
    new_zeros, new_ones, new_empty = creation.new_zeros, creation.new_ones, creation.new_empty


def install() -> None:
    """Copy the methods to Tensor; those that take other Tensors say so if they get something else."""
    for name, value in vars(TensorMethods).items():
        if isfunction(value) and len(tensor_parameters(value)) > 1:
            value = takes_tensors(value)
        if (callable(value) or isinstance(value, property)) and name not in _OF_EVERY_CLASS:
            setattr(Tensor, name, value)


_OF_EVERY_CLASS = ("__dict__", "__weakref__", "__init_subclass__")
