"""Reductions over axes: sum, mean, var, max, min, amax.

An axis argument (``dim``) is None for all axes, an int, or a tuple of ints. A backward pass first gives the gradient its
reduced axes back as length 1 and then broadcasts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd import Function, Tensor
from minires.ops.broadcast import broadcast_to
from minires.ops.cast import cast

Dim = int | tuple[int, ...] | None


def normalized_axes(name: str, dim: Dim, ndim: int) -> tuple[int, ...]:
    """Return the axes that ``dim`` names, in order, all non-negative.

    Raises
    ------
    IndexError
        If an axis is out of range.
    RuntimeError
        If an axis is named twice.
    """
    if dim is None or (isinstance(dim, (tuple, list)) and len(dim) == 0):
        return tuple(range(ndim))
    axes = []
    for axis in dim if isinstance(dim, (tuple, list)) else (dim,):
        limit = max(ndim, 1)  # a 0-dimensional Tensor may be reduced over "axis 0", as in PyTorch
        if not -limit <= axis < limit:
            raise IndexError(f"{name}: axis {axis} is out of range for {ndim} axes (expected {-limit} to {limit - 1})")
        axes.append(axis % limit)
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"{name}: an axis appears twice in dim={dim}")
    return tuple(sorted(axes)) if ndim else ()


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` with length 1 along the reduced axes."""
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))


class Sum(Function):
    """y = the sum of x over ``axes``; every summand receives the gradient of the sum."""

    def __init__(self, axes: tuple[int, ...], keepdim: bool):
        self.axes = axes
        self.keepdim = keepdim

    def forward(self, x):
        return x.sum(axis=self.axes, keepdims=self.keepdim)

    def backward(self, dy):
        shape = self.input_shapes[0]
        return broadcast_to(dy.reshape(kept_shape(shape, self.axes)), shape)


def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum over ``dim``; integers and booleans are summed as int64.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is None and not input.is_floating_point():
        dtype = np.int64
    if dtype is not None:
        input = cast(input, dtype)
    return Sum(normalized_axes("sum", dim, input.ndim), keepdim)(input)


def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean over ``dim``.

    Raises
    ------
    RuntimeError
        If the elements are not floating-point numbers.
    IndexError
        If ``dim`` is out of range.
    """
    if dtype is not None:
        input = cast(input, dtype)
    if not input.is_floating_point():
        raise RuntimeError(f"mean needs floating-point numbers, got {input.dtype}: convert with .float() first")
    axes = normalized_axes("mean", dim, input.ndim)
    count = int(np.prod([input.shape[axis] for axis in axes], dtype=np.int64))
    return Sum(axes, keepdim)(input) / (count if count else float("nan"))
