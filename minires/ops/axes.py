"""Axis arguments: which axes ``dim`` means, checked and counted from the front."""

from __future__ import annotations

import operator
from typing import Any

Dim = int | tuple[int, ...] | None
Axes = tuple[int, ...]


def normalized_axes(name: str, dim: Dim, ndim: int) -> Axes:
    """Return the axes that ``dim`` names, in order, all non-negative.

    Raises
    ------
    IndexError
        If an axis is out of range.
    RuntimeError
        If an axis is named twice.
    TypeError
        If an axis is no integer.
    """
    if dim is None or (isinstance(dim, (tuple, list)) and len(dim) == 0):
        return tuple(range(ndim))
    named = dim if isinstance(dim, (tuple, list)) else (dim,)
    limit = ndim or 1  # a 0-dimensional Tensor may be reduced over "axis 0", as in PyTorch
    axes = [normalized_axis(name, axis, limit) for axis in named]
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"{name}: an axis appears twice in dim={dim}")
    return tuple(sorted(axes)) if ndim else ()


def normalized_axis(name: str, axis: Any, ndim: int) -> int:
    """Return ``axis`` counted from the front.

    Raises
    ------
    IndexError
        If it is out of range.
    TypeError
        If it is no integer.
    """
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{name}: an axis must be an integer, got {axis!r}")
    axis = operator.index(axis)
    if not -ndim <= axis < ndim:
        raise IndexError(f"{name}: axis {axis} is out of range for {ndim} axes (expected {-ndim} to {ndim - 1})")
    return axis % ndim


def kept_shape(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """Return ``shape`` with length 1 along the reduced axes."""
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
