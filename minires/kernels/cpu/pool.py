"""Pooling over windows given as tables of rows and columns, channels in the inner loop.

Every pooling, strided, padded, dilated or adaptive, comes down to two tables: the rows that each window of the first
axis meets, tap by tap, and the columns for the second. An entry of -1 is padding. Forward, threads share the output
rows; backward they share the images, so that no two add to the same pixel. What may be a sum of many numbers is summed
in double precision.
"""

from __future__ import annotations

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.memory import empty, zeros
from minires.kernels.cpu.tables import window_table
from minires.kernels.geometry import Pair, Pool2dGeometry
from minires.kernels.layout import from_nhwc, to_nhwc
from minires.kernels.reference.pool import adaptive_bounds

FEW = 64  # numbers, or gradients of windows that a pixel lies in, that are added in their own dtype
TAPS_AT_ONCE = 4  # pixels of a window that are compared while the maximum so far is in registers


def max_pool2d(x: Array, geometry: Pool2dGeometry) -> tuple[Array, Array]:
    """(N, C, H, W) -> maximum and flat index of each window; see the reference kernel of this name."""
    return _window_max(x, *_tables(geometry))


def adaptive_max_pool2d(x: Array, output_size: Pair) -> tuple[Array, Array]:
    """(N, C, H, W) -> maximum and flat index of each window; see the reference kernel of this name."""
    return _window_max(x, *_adaptive_tables(x.shape, output_size))


def max_pool2d_input_grad(dy: Array, indices: Array, input_shape: tuple[int, int, int, int]) -> Array:
    """(N, C, P, Q) -> (N, C, H, W): dy added to the pixels at ``indices``; see the reference kernel of this name."""
    n, c, h, w = input_shape
    dx = zeros((n, h * w, c), dy.dtype)
    flat = (n, dy.shape[2] * dy.shape[3], c)
    launch(_scatter_planes, n, 2 * dy.size + dx.size, to_nhwc(dy).reshape(flat), to_nhwc(indices).reshape(flat), dx)
    return from_nhwc(dx.reshape(n, h, w, c))


def sum_pool2d(x: Array, geometry: Pool2dGeometry) -> Array:
    """(N, C, H, W) -> (N, C, P, Q): the sum over each window; see the reference kernel of this name."""
    return _window_sum(x, *_tables(geometry))


def sum_pool2d_input_grad(dy: Array, geometry: Pool2dGeometry) -> Array:
    """(N, C, P, Q) -> (N, C, H, W); see the reference kernel of this name."""
    return _spread(dy, geometry.input_shape, *_tables(geometry))


def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
    """(N, C, H, W) -> (N, C, P, Q): the mean over each window; see the reference kernel of this name."""
    rows, cols = _adaptive_tables(x.shape, output_size)
    y = _window_sum(x, rows, cols)
    y /= _window_sizes(rows, cols).astype(x.dtype)
    return y


def adaptive_avg_pool2d_input_grad(dy: Array, input_shape: tuple[int, int, int, int]) -> Array:
    """(N, C, P, Q) -> (N, C, H, W); see the reference kernel of this name."""
    rows, cols = _adaptive_tables(input_shape, dy.shape[2:])
    return _spread(dy / _window_sizes(rows, cols).astype(dy.dtype), input_shape, rows, cols)


def _tables(geometry: Pool2dGeometry) -> tuple[Array, Array]:
    """Rows (P, R) and columns (Q, S) under each tap of each window, -1 in the padding."""
    g = geometry
    axes = zip(g.input_shape[2:], g.kernel_size, g.stride, g.padding, g.dilation, g.output_size, strict=True)
    rows, columns = (window_table(*axis) for axis in axes)
    return rows, columns


def _adaptive_tables(input_shape: tuple[int, ...], output_size: Pair) -> tuple[Array, Array]:
    """Rows (P, R) and columns (Q, S) of windows that cover the plane; -1 where a window is shorter than the longest."""
    tables = []
    for size, outputs in zip(input_shape[2:], output_size, strict=True):
        start, end = np.array(adaptive_bounds(size, outputs)).reshape(-1, 2, 1).swapaxes(0, 1)
        table = start + np.arange((end - start).max(initial=0))
        tables.append(np.where(table < end, table, -1))
    return tables[0], tables[1]


def _window_sizes(rows: Array, cols: Array) -> Array:
    """(P, Q): how many pixels lie in each window."""
    return (rows >= 0).sum(axis=1)[:, None] * (cols >= 0).sum(axis=1)


def _window_max(x: Array, rows: Array, cols: Array) -> tuple[Array, Array]:
    x = to_nhwc(x)
    n, h, w, c = x.shape
    y = empty((n, len(rows), len(cols), c), x.dtype)
    indices = empty(y.shape, np.dtype(np.int64))
    no_offsets = np.empty(0, np.int32 if x.itemsize < 8 and h * w < 2**31 else np.int64)
    launch(_max_rows, n * len(rows), y.size * rows.shape[1] * cols.shape[1], x, rows, cols, y, indices, no_offsets)
    return from_nhwc(y), from_nhwc(indices)


def _window_sum(x: Array, rows: Array, cols: Array) -> Array:
    x = to_nhwc(x)
    n, _, _, c = x.shape
    y = empty((n, len(rows), len(cols), c), x.dtype)
    taps = rows.shape[1] * cols.shape[1]
    no_sums = np.empty(0, x.dtype if taps <= FEW else np.float64)
    launch(_sum_rows, n * len(rows), y.size * taps, x, rows, cols, y, no_sums)
    return from_nhwc(y)


def _spread(dy: Array, input_shape: tuple[int, ...], rows: Array, cols: Array) -> Array:
    """The transpose of `_window_sum`: each pixel collects dy from the windows it lies in."""
    n, c, h, w = input_shape
    windows = _window_sizes(rows, cols).sum() / max(1, h * w)  # that a pixel lies in
    dx = zeros((n, h, w, c), dy.dtype if windows <= FEW else np.dtype(np.float64))
    launch(_spread_images, n, dy.size * rows.shape[1] * cols.shape[1], to_nhwc(dy), rows, cols, dx)
    return from_nhwc(dx.astype(dy.dtype, copy=False))


@kernel
def _max_rows(start, stop, x, rows, cols, y, indices, no_offsets):
    """Output rows ``start`` to ``stop``, counted through all images.

    Pixels count from the first one of their window, in a dtype as wide as x's where that suffices, so that a vector of
    maxima has a vector of such offsets beside it.
    """
    _, height, width, channels = x.shape
    taps = np.empty(rows.shape[1] * cols.shape[1] + TAPS_AT_ONCE, no_offsets.dtype)
    offsets = np.empty(channels, no_offsets.dtype)
    for row in range(start, stop):
        image, p = divmod(row, rows.shape[0])
        plane = x[image].reshape(height * width, channels)
        for q in range(cols.shape[0]):
            first, count = 0, 0
            for i in range(rows.shape[1]):
                for j in range(cols.shape[1]):
                    h, w = rows[p, i], cols[q, j]
                    if h < 0 or w < 0:
                        continue
                    if count == 0:
                        first = h * width + w
                    taps[count] = h * width + w - first
                    count += 1
            largest, index = y[image, p, q], indices[image, p, q]
            if count == 0:
                largest[:] = -np.inf
                index[:] = 0
                continue
            taps[count : count + TAPS_AT_ONCE] = taps[count - 1]  # the last one may be looked at twice
            largest[:] = plane[first]
            offsets[:] = 0
            for t in range(1, count, TAPS_AT_ONCE):
                a, b, c, d = taps[t], taps[t + 1], taps[t + 2], taps[t + 3]
                at_a, at_b, at_c, at_d = plane[first + a], plane[first + b], plane[first + c], plane[first + d]
                for channel in range(channels):
                    best = largest[channel], offsets[channel]
                    best = _larger(best, at_a[channel], a)
                    best = _larger(best, at_b[channel], b)
                    best = _larger(best, at_c[channel], c)
                    largest[channel], offsets[channel] = _larger(best, at_d[channel], d)
            for channel in range(channels):
                index[channel] = first + offsets[channel]


@kernel
def _larger(best, value, offset):
    """Return ``best``, a pair of value and offset, or the other pair where its value is larger or NaN.

    By selections rather than a branch, so that the loop around it runs in vector lanes.
    """
    better = (value > best[0]) | (value != value)  # a NaN is not equal to itself
    return value if better else best[0], offset if better else best[1]


@kernel
def _scatter_planes(start, stop, dy, indices, dx):
    for image in range(start, stop):
        for i in range(dy.shape[1]):
            for c in range(dy.shape[2]):
                dx[image, indices[image, i, c], c] += dy[image, i, c]


@kernel
def _sum_rows(start, stop, x, rows, cols, y, no_sums):
    """Output rows ``start`` to ``stop``, counted through all images; sums have the dtype of ``no_sums``."""
    total = np.empty(x.shape[3], no_sums.dtype)
    for row in range(start, stop):
        image, p = divmod(row, rows.shape[0])
        for q in range(cols.shape[0]):
            total[:] = 0
            for i in range(rows.shape[1]):
                for j in range(cols.shape[1]):
                    h, w = rows[p, i], cols[q, j]
                    if h >= 0 and w >= 0:
                        for c in range(total.size):
                            total[c] += x[image, h, w, c]
            y[image, p, q] = total


@kernel
def _spread_images(start, stop, dy, rows, cols, dx):
    for image in range(start, stop):
        for p in range(rows.shape[0]):
            for q in range(cols.shape[0]):
                for i in range(rows.shape[1]):
                    for j in range(cols.shape[1]):
                        h, w = rows[p, i], cols[q, j]
                        if h >= 0 and w >= 0:
                            for c in range(dx.shape[3]):
                                dx[image, h, w, c] += dy[image, p, q, c]
