"""Pooling over windows given as tables of rows and columns; every gradient is gathered, pixel by pixel.

The tables depend on the geometry alone: they are made once and stay on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from minires.device import Array
from minires.kernels.cuda.launch import Backend, backend, launch, launch_over, named, upload, vector_width, zeros
from minires.kernels.geometry import Pair, Pool2dGeometry
from minires.kernels.layout import from_nhwc, to_nhwc
from minires.kernels.reference.pool import adaptive_bounds


class Windows(NamedTuple):
    """Which pixels meet which windows, as int32 arrays on the device; -1 is padding, or no window.

    rows, columns : (P, R) and (Q, S), the pixels that each window meets along an axis, tap by tap.
    row_counts, column_counts : (P,) and (Q,), how many of them are no padding.
    over_rows, over_columns : (H, ...) and (W, ...), the windows that meet each pixel along an axis.
    """

    rows: Array
    columns: Array
    row_counts: Array
    column_counts: Array
    over_rows: Array
    over_columns: Array


def max_pool2d(x: Array, geometry: Pool2dGeometry) -> tuple[Array, Array]:
    """(N, C, H, W) -> maximum and flat index of each window; see the reference kernel of this name."""
    return _window_max(x, _windows(backend(), geometry))


def adaptive_max_pool2d(x: Array, output_size: Pair) -> tuple[Array, Array]:
    """(N, C, H, W) -> maximum and flat index of each window; see the reference kernel of this name."""
    return _window_max(x, _adaptive_windows(backend(), x.shape[2:], output_size))


def max_pool2d_input_grad(dy: Array, indices: Array, input_shape: tuple[int, int, int, int]) -> Array:
    """(N, C, P, Q) -> (N, C, H, W): dy added to the pixels at ``indices``; see the reference kernel of this name.

    The indices alone do not tell which windows a pixel lies in. So the range of rows that each output row points to is
    found first, and of columns; a pixel then looks only at the outputs within whose reach it is.
    """
    n, c, h, w = input_shape
    dy, indices = to_nhwc(dy), to_nhwc(indices)
    p, q = dy.shape[1:3]
    if dy.size == 0:
        return from_nhwc(zeros((n, h, w, c), dy.dtype))
    lows, highs = (backend().empty((p + q,), np.int32) for _ in range(2))
    launch("planes", "reach", (p + q,), (256,), indices, lows, highs, w, c, np.int64(n), p, q)
    firsts, lasts = (backend().empty((h + w,), np.int32) for _ in range(2))
    launch("planes", "reached_by", (-(-(h + w) // 256),), (256,), lows, highs, firsts, lasts, h, w, p, q)
    dx = backend().empty((n, h, w, c), dy.dtype)
    width = vector_width(c, dy, dx)
    arguments = dy, indices, firsts, lasts, dx, h, w, c, p, q
    launch_over("planes", named("add_to_planes", dx, width), dx.size, width, *arguments)
    return from_nhwc(dx)


def gather_planes(x: Array, indices: Array) -> Array:
    """(N, C, H, W), (N, C, P, Q) -> (N, C, P, Q): the pixels at flat indices; see the reference kernel of this name."""
    x, indices = to_nhwc(x), to_nhwc(indices)
    y = backend().empty(indices.shape, x.dtype)
    _, h, w, c = x.shape
    outputs = indices.shape[1] * indices.shape[2]
    launch_over("planes", named("gather_planes", x), y.size, 1, x, indices, y, np.int64(h * w), c, np.int64(outputs))
    return from_nhwc(y)


def sum_pool2d(x: Array, geometry: Pool2dGeometry) -> Array:
    """(N, C, H, W) -> (N, C, P, Q): the sum over each window; see the reference kernel of this name."""
    return _window_sum(x, _windows(backend(), geometry))


def sum_pool2d_input_grad(dy: Array, geometry: Pool2dGeometry) -> Array:
    """(N, C, P, Q) -> (N, C, H, W); see the reference kernel of this name."""
    return _window_sum_grad(dy, geometry.input_shape, _windows(backend(), geometry))


def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
    """(N, C, H, W) -> (N, C, P, Q): the mean over each window; see the reference kernel of this name."""
    return _window_sum(x, _adaptive_windows(backend(), x.shape[2:], output_size), mean=True)


def adaptive_avg_pool2d_input_grad(dy: Array, input_shape: tuple[int, int, int, int]) -> Array:
    """(N, C, P, Q) -> (N, C, H, W); see the reference kernel of this name."""
    return _window_sum_grad(dy, input_shape, _adaptive_windows(backend(), input_shape[2:], dy.shape[2:]), mean=True)


def _window_max(x: Array, windows: Windows) -> tuple[Array, Array]:
    x = to_nhwc(x)
    n, h, w, c = x.shape
    rows, columns = windows.rows, windows.columns
    y = backend().empty((n, len(rows), len(columns), c), x.dtype)
    indices = backend().empty(y.shape, np.int64)
    width = vector_width(c, x, y)
    sizes = h, w, c, *y.shape[1:3], rows.shape[1], columns.shape[1]
    launch_over("pool", named("window_max", x, width), y.size, width, x, rows, columns, y, indices, *sizes)
    return from_nhwc(y), from_nhwc(indices)


def _window_sum(x: Array, windows: Windows, mean: bool = False) -> Array:
    x = to_nhwc(x)
    n, h, w, c = x.shape
    rows, columns = windows.rows, windows.columns
    y = backend().empty((n, len(rows), len(columns), c), x.dtype)
    width = vector_width(c, x, y)
    counts = (windows.row_counts, windows.column_counts) if mean else (None, None)
    sizes = h, w, c, *y.shape[1:3], rows.shape[1], columns.shape[1]
    launch_over("pool", named("window_sum", x, width), y.size, width, x, rows, columns, *counts, y, *sizes)
    return from_nhwc(y)


def _window_sum_grad(dy: Array, input_shape: tuple[int, int, int, int], windows: Windows, mean: bool = False) -> Array:
    dy = to_nhwc(dy)
    n, c, h, w = input_shape
    rows, columns = windows.over_rows, windows.over_columns
    dx = backend().empty((n, h, w, c), dy.dtype)
    width = vector_width(c, dy, dx)
    counts = (windows.row_counts, windows.column_counts) if mean else (None, None)
    sizes = h, w, c, *dy.shape[1:3], rows.shape[1], columns.shape[1]
    launch_over("pool", named("window_sum_grad", dx, width), dx.size, width, dy, rows, columns, *counts, dx, *sizes)
    return from_nhwc(dx)


@cache  # by backend too: each device has tables of its own
def _windows(place: Backend, geometry: Pool2dGeometry) -> Windows:
    g = geometry
    rows, columns = (
        np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - padding
        for kernel, stride, padding, dilation, outputs in zip(
            g.kernel_size, g.stride, g.padding, g.dilation, g.output_size, strict=True
        )
    )
    return _on_device(rows.tolist(), columns.tolist(), g.input_shape[2:])


@cache
def _adaptive_windows(place: Backend, plane: Pair, output_size: Pair) -> Windows:
    rows, columns = (
        [list(range(*bounds)) for bounds in adaptive_bounds(size, outputs)]
        for size, outputs in zip(plane, output_size, strict=True)
    )
    return _on_device(rows, columns, plane)


def _on_device(rows: list[list[int]], columns: list[list[int]], plane: Pair) -> Windows:
    """Make the tables of windows that meet these pixels; those outside the plane are padding."""
    forward, counts, over = [], [], []
    for windows, size in zip((rows, columns), plane, strict=True):
        inside = [[pixel if 0 <= pixel < size else -1 for pixel in window] for window in windows]
        meeting: list[list[int]] = [[] for _ in range(size)]
        for number, window in enumerate(inside):
            for pixel in window:
                if pixel >= 0:
                    meeting[pixel].append(number)
        forward.append(_table(inside))
        counts.append(upload(np.array([sum(pixel >= 0 for pixel in window) for window in inside], np.int32)))
        over.append(_table(meeting))
    return Windows(*forward, *counts, *over)


def _table(lists: Sequence[list[int]]) -> Array:
    """Return lists of numbers as the rows of one array, filled up with -1."""
    width = max((len(numbers) for numbers in lists), default=0)
    table = np.full((len(lists), width), -1, np.int32)
    for row, numbers in zip(table, lists, strict=True):
        row[: len(numbers)] = numbers
    return upload(table)
