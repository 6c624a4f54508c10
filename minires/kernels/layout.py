"""Logical NCHW, physical NHWC: the two views of one array, and the single copy at the door for anything else.

Activations have the logical shape (N, C, H, W) and lie in memory as (N, H, W, C). Convolution weights have the logical
shape (O, I/groups, R, S) and lie as (R, S, I/groups, O). A product over channels then reads contiguous memory, and a
1x1 convolution is a plain matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby

from minires.device import Array, array_module


def to_nhwc(x: Array) -> Array:
    """(N, C, H, W) -> C-contiguous (N, H, W, C): a view of a channels-last array, a copy of any other."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def from_nhwc(y: Array) -> Array:
    """(N, H, W, C) -> logical (N, C, H, W) view."""
    return y.transpose(0, 3, 1, 2)


def in_memory_order(x: Array) -> tuple[Array, list[int]]:
    """Return ``x`` with its axes in the order in which they lie in memory, and the axes that bring them back."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return x.transpose(order), [order.index(axis) for axis in range(x.ndim)]


def to_rsio(w: Array) -> Array:
    """(O, I/groups, R, S) -> C-contiguous (R, S, I/groups, O): a view if it lies so already, else a copy."""
    return array_module(w).ascontiguousarray(w.transpose(2, 3, 1, 0))


def from_rsio(w: Array) -> Array:
    """(R, S, I/groups, O) -> logical (O, I/groups, R, S) view."""
    return w.transpose(3, 2, 0, 1)


def reduced_runs(dense: Array, back: list[int], axes: tuple[int, ...]) -> list[tuple[bool, int]]:
    """Return (is it reduced, length) of the axes that are left when neighbours in memory that are alike are one axis.

    ``dense`` and ``back`` are those of `in_memory_order`; axes of length 1 are left out.
    """
    sides = [(back.index(place) in axes, length) for place, length in enumerate(dense.shape) if length != 1]
    return [(reduced, math.prod(side[1] for side in run)) for reduced, run in groupby(sides, key=lambda side: side[0])]


def reduce_axes(
    dense: Array, back: list[int], axes: tuple[int, ...], reduce_middle: Callable[[Array, int, int, int], Array]
) -> Array:
    """Reduce axes, kept with length 1, of the contiguous array that `in_memory_order` gave as ``dense`` and ``back``.

    Each run of axes is the middle of an array (outer, length, inner), which ``reduce_middle(array, outer, length,
    inner)`` returns as (outer * inner,); the last run comes first.
    """
    runs, result = reduced_runs(dense, back, axes), dense
    for place in reversed(range(len(runs))):
        if runs[place][0]:
            outer, inner = (math.prod(length for _, length in part) for part in (runs[:place], runs[place + 1 :]))
            result = reduce_middle(result, outer, runs.pop(place)[1], inner)
    if result is dense:
        result = dense.copy()
    shape = tuple(1 if back.index(place) in axes else length for place, length in enumerate(dense.shape))
    return result.reshape(shape).transpose(back)
