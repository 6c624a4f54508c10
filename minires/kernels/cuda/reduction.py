"""Sums over axes.

Parts depend on the shape alone and nothing is summed by atomics, so that results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.device import Array
from minires.dtypes import is_half, wide_dtype
from minires.kernels import reference
from minires.kernels.cuda.elementwise import cast
from minires.kernels.cuda.launch import backend, blocks, launch, launch_over, named, vector_width, zeros
from minires.kernels.cuda.source import TYPES
from minires.kernels.layout import in_memory_order, reduce_axes, reduced_runs

LANES, TEAMS = 32, 8  # of a block, as in reduce.cu
BLOCKS = 1 << 10  # about as many as an H100 holds at once
STEP = 32  # rows that a block takes at once
MANY = 1 << 15  # threads that keep a GPU busy
LEAST = 1 << 10  # numbers to a warp, before a row is shared by several


def sum_axes(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over axes, which are kept with length 1; see the reference kernel of this name."""
    dense, back = in_memory_order(x)
    if str(x.dtype) not in TYPES or not dense.flags.c_contiguous:
        return reference.sum_axes(x, axes)
    runs = reduced_runs(dense, back, axes)
    if is_half(x.dtype) and sum(reduced for reduced, _ in runs) > 1:  # rounded once, not after each
        return cast(sum_axes(cast(x, wide_dtype(x.dtype)), axes), x.dtype)
    return reduce_axes(dense, back, axes, _sum_middle)


def join_parts(parts: Array, y: Array, chunks: int, inner: int) -> None:
    """Sum parts (outer, chunks, inner), float64, over the chunks to y (outer, inner)."""
    grid = (blocks(y.size, TEAMS),)
    launch("reduce", named("join_parts", y), grid, (LANES, TEAMS), parts, y, inner, chunks, np.int64(y.size))


def _sum_middle(x: Array, outer: int, length: int, inner: int) -> Array:
    """(outer, length, inner) -> (outer, inner)."""
    if 0 in (outer, length, inner):
        return zeros((outer * inner,), x.dtype)
    y = backend().empty((outer * inner,), x.dtype)
    if inner > 1 and length < STEP and y.size >= MANY:
        width = vector_width(inner, x, y)
        launch_over("reduce", named("sum_short", x, width), y.size, width, x, y, np.int64(length), inner)
        return y
    width = vector_width(length if inner == 1 else inner, x)
    if inner == 1:
        wanted = min(max(1, BLOCKS * TEAMS // outer), -(-length // LEAST))
        step = width
    else:
        across = -(-inner // (LANES * width))
        wanted = max(1, BLOCKS // (across * outer))
        step = STEP
    height = -(-length // wanted)
    height += -height % step
    chunks = -(-length // height)
    parts = backend().empty((outer, chunks, inner), np.float64) if chunks > 1 else None
    arguments: tuple[Any, ...] = (x, parts, y, np.int64(length))
    if inner == 1:
        items = outer * chunks
        arguments = *arguments, chunks, np.int64(height), np.int64(items)
        launch("reduce", named("sum_rows", x, width), (blocks(items, TEAMS),), (LANES, TEAMS), *arguments)
    else:
        arguments = *arguments, inner, across, chunks, np.int64(height)
        launch("reduce", named("sum_columns", x, width), (outer * chunks * across,), (LANES, TEAMS), *arguments)
    if parts is not None:
        join_parts(parts, y, chunks, inner)
    return y
