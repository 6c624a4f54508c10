"""Reductions over axes: sum, mean, var, std, norm, the extremes and where they lie, all and any.

An axis argument (``dim``) is None for all axes, an int, or a tuple of ints. A backward pass first gives the gradient
its reduced axes back as length 1 and then broadcasts.
"""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.aliases import takes_axis
from minires.ops.autocast import computes_in_float32, rounds_once
from minires.ops.axes import Axes, Dim, kept_shape, normalized_axes, normalized_axis
from minires.ops.broadcast import broadcast_to, summed
from minires.ops.cast import cast
from minires.ops.clamp import maximum, minimum
from minires.ops.indexing import take_along
from minires.ops.pointwise import sign
from minires.ops.promotion import check_floating
from minires.ops.shape import cat
from minires.ops.squares import power_of_two, squared_deviations, sum_of_squares
from minires.ops.where import where


class ValuesAndIndices(NamedTuple):
    """The extreme values along an axis and where they were found."""

    values: Tensor
    indices: Tensor


class Sum(Function):
    """y = the sum of x over ``axes``; every summand receives the gradient of the sum."""

    def __init__(self, axes: Axes, keepdim: bool):
        self.axes = axes
        self.keepdim = keepdim

    def forward(self, x):
        return summed(x, self.axes, self.keepdim)

    def backward(self, dy):
        shape = self.input_shapes[0]
        return broadcast_to(dy.reshape(kept_shape(shape, self.axes)), shape)


class Amax(Function):
    """y = the largest of x over ``axes``; equal largest ones share the gradient evenly."""

    largest = True

    def __init__(self, axes: Axes, keepdim: bool):
        self.axes = axes
        self.keepdim = keepdim

    def forward(self, x):
        y = (x.max if self.largest else x.min)(axis=self.axes, keepdims=self.keepdim)
        self.save(x, y)
        return y

    def backward(self, dy):
        x, y = (value.array for value in self.saved)
        kept = kept_shape(x.shape, self.axes)
        best = y.reshape(kept)
        chosen = ((x == best) | ((x != x) & (best != best))).astype(x.dtype)  # a NaN is the largest and the smallest
        shares = chosen / chosen.sum(axis=self.axes, keepdims=True)
        return dy.reshape(kept) * Tensor(shares)


class Amin(Amax):
    """y = the smallest of x over ``axes``; equal smallest ones share the gradient evenly."""

    largest = False


class Norm(Function):
    """y = the square root of the sum of x^2 over ``axes``; dx = dy * x / y, 0 where y is 0."""

    def __init__(self, axes: Axes, keepdim: bool):
        self.axes = axes
        self.keepdim = keepdim

    def forward(self, x):
        squares, scale = sum_of_squares(x, self.axes)
        y = array_module(x).sqrt(squares) * scale
        y = y if self.keepdim else y.squeeze(self.axes)
        self.save(x, y)
        return y

    def backward(self, dy):
        x, y = self.saved
        kept = kept_shape(x.shape, self.axes)
        y = y.reshape(kept)
        flat = y == 0
        return where(flat, 0.0, dy.reshape(kept)) * (x / where(flat, 1.0, y))


class Var(Function):
    """y = the sum of (x - mean)^2 over ``axes``, divided by ``divisor``; dx = dy * 2 * (x - mean) / divisor."""

    def __init__(self, axes: Axes, keepdim: bool, divisor: float):
        self.axes = axes
        self.keepdim = keepdim
        self.divisor = divisor

    def forward(self, x):
        squares, self.scale = squared_deviations(x, self.axes)
        y = squares / self.divisor * self.scale * self.scale
        self.save(x)
        return y if self.keepdim else y.squeeze(self.axes)

    def backward(self, dy):
        (x,) = self.saved
        dx = self.deviation(x) * (2 * dy / self.divisor).reshape(kept_shape(x.shape, self.axes))
        return dx if isinstance(self.scale, float) else dx * Tensor(self.scale)

    def deviation(self, x: Tensor) -> Tensor:
        """Return (x - mean) / scale, whose sums do not overflow."""
        if not isinstance(self.scale, float):
            x = x / Tensor(self.scale)
        return x - mean(x, self.axes, keepdim=True)


class Std(Var):
    """y = the square root of `Var`; dx = dy * (x - mean) / (divisor * y), 0 where y is 0."""

    def forward(self, x):
        squares, self.scale = squared_deviations(x, self.axes)
        y = array_module(x).sqrt(squares / self.divisor) * self.scale
        y = y if self.keepdim else y.squeeze(self.axes)
        self.save(x, y)
        return y

    def backward(self, dy):
        x, y = self.saved
        kept = kept_shape(x.shape, self.axes)
        y = y.reshape(kept)
        flat = y == 0
        y = where(flat, 1.0, y if isinstance(self.scale, float) else y / Tensor(self.scale))
        return self.deviation(x) / y * where(flat, 0.0, (dy / self.divisor).reshape(kept))


def _prepared(name: str, input: Tensor, dim: Dim, keepdim: bool) -> tuple[Tensor, Axes, bool]:
    """Check the axes. A 0-dimensional Tensor is reduced as its one-element view, and stays 0-dimensional."""
    axes = normalized_axes(name, dim, input.ndim)
    return (input, axes, keepdim) if input.ndim else (input.reshape(1), (0,), False)


@takes_axis
@computes_in_float32
def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum over ``dim``; integers and booleans are summed as int64.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is not None:
        return cast(sum(cast(input, dtype), dim, keepdim), dtype)
    if not input.is_floating_point():
        input = cast(input, np.int64)
    input, axes, keepdim = _prepared("sum", input, dim, keepdim)
    return Sum(axes, keepdim)(input)


@takes_axis
@computes_in_float32
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the product along one axis ``dim`` or of all elements; integers and booleans give int64, nothing gives 1.

    Neighbours are multiplied in pairs until one is left, so that the gradient is right where factors are 0.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is not None:
        return cast(prod(cast(input, dtype), dim, keepdim), dtype)
    if not input.is_floating_point():
        input = cast(input, np.int64)
    if dim is None:
        factors, axis, shape = input.reshape(-1), 0, (1,) * input.ndim if keepdim else ()
    else:
        axis = normalized_axis("prod", dim, input.ndim or 1)
        factors = input if input.ndim else input.reshape(1)
        kept = kept_shape(input.shape, (axis,))
        shape = kept if keepdim else kept[:axis] + kept[axis + 1 :]
    if not factors.shape[axis]:
        return (Sum((axis,), False)(factors) + 1).reshape(shape)  # still in the graph
    while (length := factors.shape[axis]) > 1:
        half = length // 2
        first, second, rest = factors.split((half, half, length - 2 * half), axis)
        factors = first * second
        if length % 2:
            factors = cat([factors, rest], axis)
    return factors.reshape(shape)


@takes_axis
@rounds_once
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean over ``dim``: NaN over no elements.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is not None:
        return mean(cast(input, dtype), dim, keepdim)
    check_floating("mean", input)
    input, axes, keepdim = _prepared("mean", input, dim, keepdim)
    return Sum(axes, keepdim)(input) / (_count(input, axes) or math.nan)


@takes_axis
@rounds_once
def var(
    input: Tensor,
    dim: Dim | builtins.bool = None,
    unbiased: builtins.bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Return the variance over ``dim``: the mean of squared deviations, with n - correction in place of n.

    ``correction`` is 1 unless told otherwise; ``unbiased=False`` is another way to say 0. ``var(x, False)`` means
    ``unbiased``, as in PyTorch.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    IndexError
        If ``dim`` is out of range.
    """
    return _spread(Var, "var", input, dim, unbiased, keepdim, correction)


@takes_axis
@rounds_once
def std(
    input: Tensor,
    dim: Dim | builtins.bool = None,
    unbiased: builtins.bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Return the standard deviation over ``dim``, the square root of `var`; its gradient at 0 is 0."""
    return _spread(Std, "std", input, dim, unbiased, keepdim, correction)


def _spread(
    function: type[Var],
    name: str,
    input: Tensor,
    dim: Dim | builtins.bool,
    unbiased: builtins.bool | None,
    keepdim: bool,
    correction: float | None,
) -> Tensor:
    if isinstance(dim, builtins.bool):
        dim, unbiased = None, dim
    if correction is not None and unbiased is not None:
        raise TypeError(f"{name}: unbiased and correction say the same: give one of them")
    if correction is None:
        correction = 0 if unbiased is False else 1
    check_floating(name, input)
    input, axes, keepdim = _prepared(name, input, dim, keepdim)
    # No degrees of freedom leave 0 / 0, NaN, as in PyTorch.
    return function(axes, keepdim, builtins.max(_count(input, axes) - correction, 0))(input)


@takes_axis
@computes_in_float32
def norm(
    input: Tensor, p: float | str | None = 2, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Return the p-norm over ``dim``, (sum of |x|^p)^(1/p); the gradient at 0 is 0.

    "fro" and None are 2. Infinity gives the largest absolute value, -infinity the smallest, 0 the number of elements
    that are not 0. With ``dtype`` the elements are converted first.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    ValueError
        For another p.
    IndexError
        If ``dim`` is out of range, or has no elements and p is negative or infinite.
    """
    check_floating("norm", input)
    if dtype is not None:
        input = cast(input, dtype)
    if p in (2, "fro", None):
        input, axes, keepdim = _prepared("norm", input, dim, keepdim)
        return Norm(axes, keepdim)(input)
    if not isinstance(p, (int, float)):
        raise ValueError(f'norm: p must be a number or "fro", got {p!r}')
    if p == 1:
        return sum(input.abs(), dim, keepdim)
    if p == math.inf:
        return amax(input.abs(), dim, keepdim)
    if p == -math.inf:
        return amin(input.abs(), dim, keepdim)
    zero = input == 0
    if p == 0:
        return sum(where(zero, sign(input), 1.0), dim, keepdim)
    input, axes, keepdim = _prepared("norm", input, dim, keepdim)
    if p < 0:
        _check_not_empty("norm", input, axes)
    wide = cast(input, np.float64)  # whose range holds the powers of float32
    scale = Tensor(power_of_two(wide.array, axes, of_smallest=p < 0))  # for powers of float64 that it does not hold
    zero = zero.reshape(input.shape)
    powers = where(zero, 0.0 if p > 0 else math.inf, (where(zero, 1.0, wide.abs()) / scale) ** p)
    total = Sum(axes, True)(powers)
    flat = (total == 0) & (p > 0)
    result = cast(where(flat, 0.0, where(flat, 1.0, total) ** (1 / p)) * scale, input.dtype)
    return result if keepdim else result.squeeze(axes)


@takes_axis
@rounds_once
def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the largest element over ``dim``; equal ones share the gradient evenly.

    Raises
    ------
    IndexError
        If ``dim`` is out of range or has no elements.
    """
    return _extreme(Amax, "amax", input, dim, keepdim)


@takes_axis
@rounds_once
def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the smallest element over ``dim``; equal ones share the gradient evenly.

    Raises
    ------
    IndexError
        If ``dim`` is out of range or has no elements.
    """
    return _extreme(Amin, "amin", input, dim, keepdim)


def _extreme(function: type[Amax], name: str, input: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    input, axes, keepdim = _prepared(name, input, dim, keepdim)
    _check_not_empty(name, input, axes)
    return function(axes, keepdim)(input)


@takes_axis
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """Return the largest element; along one axis ``dim``, a pair (values, indices); with a Tensor, elementwise.

    Over all elements, equal largest ones share the gradient evenly; along an axis, the first takes all of it.

    Raises
    ------
    IndexError
        If ``dim`` is out of range or has no elements.
    RuntimeError
        If there are no elements at all.
    """
    return _max_or_min("max", input, dim, keepdim, other)


@takes_axis
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """Return the smallest element; along one axis ``dim``, a pair (values, indices); with a Tensor, elementwise.

    Over all elements, equal smallest ones share the gradient evenly; along an axis, the first takes all of it.

    Raises
    ------
    IndexError
        If ``dim`` is out of range or has no elements.
    RuntimeError
        If there are no elements at all.
    """
    return _max_or_min("min", input, dim, keepdim, other)


def _max_or_min(name: str, input: Tensor, dim: Any, keepdim: bool, other: Tensor | None) -> Any:
    if isinstance(dim, Tensor):
        other = dim
    if other is not None:
        return (maximum if name == "max" else minimum)(input, other)
    if dim is None:
        if not input.numel():
            raise RuntimeError(f"{name}: a Tensor of shape {input.shape} has no elements: name a dim that has some")
        return (amax if name == "max" else amin)(input)
    axis = normalized_axis(name, dim, input.ndim or 1)
    indices = (argmax if name == "max" else argmin)(input, axis, keepdim=True)
    values = take_along(input, indices, axis)
    if not keepdim and input.ndim:
        values, indices = values.squeeze(axis), indices.squeeze(axis)
    return ValuesAndIndices(values, indices)


@takes_axis
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the index of the first largest element along ``dim``, or in the flattened Tensor.

    Raises
    ------
    IndexError
        If ``dim`` is out of range or has no elements.
    """
    return _arg_extreme("argmax", input, dim, keepdim)


@takes_axis
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the index of the first smallest element along ``dim``, or in the flattened Tensor.

    Raises
    ------
    IndexError
        If ``dim`` is out of range or has no elements.
    """
    return _arg_extreme("argmin", input, dim, keepdim)


def _arg_extreme(name: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if dim is None:
        axes, flat = tuple(range(input.ndim)), input.array.reshape(-1)
        _check_not_empty(name, input, axes)
        indices = getattr(flat, name)()
    else:
        axis = normalized_axis(name, dim, input.ndim or 1)
        axes = (axis,)
        _check_not_empty(name, input, axes if input.ndim else ())
        indices = getattr(input.array.reshape(input.shape or 1), name)(axis)
    result = array_module(input.array).asarray(indices, dtype=np.int64)
    return Tensor(result.reshape(kept_shape(input.shape, axes)) if keepdim or not input.ndim else result)


@takes_axis
def all(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return whether all elements over ``dim`` are true (not 0); true over no elements."""
    input, axes, keepdim = _prepared("all", input, dim, keepdim)
    return Tensor(input.array.all(axis=axes, keepdims=keepdim))


@takes_axis
def any(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return whether any element over ``dim`` is true (not 0); false over no elements."""
    input, axes, keepdim = _prepared("any", input, dim, keepdim)
    return Tensor(input.array.any(axis=axes, keepdims=keepdim))


def _count(input: Tensor, axes: Axes) -> int:
    return math.prod(input.shape[axis] for axis in axes)


def _check_not_empty(name: str, input: Tensor, axes: Axes) -> None:
    for axis in axes:
        if not input.shape[axis]:
            raise IndexError(f"{name}: axis {axis} of shape {input.shape} has no elements to choose from")
