"""Convolution in blocks: gather the patches of some output rows, multiply them by the filters, go on.

The im2col matrix of a large convolution is many times the size of its input. Here only a block of it exists at a time,
small enough to be in cache still when BLAS reads it. In channels-last memory a patch is R runs of S * C contiguous
numbers, a block of output rows is a contiguous slice of y, and a 1x1 convolution needs no patches at all: x is its own
matrix.

    y    = patches(x) @ w                            (rows * Q, K) @ (K, O/G) for each group, K = R * S * C/G
    dw   = sum over blocks of patches(x)^T @ dy
    dx   = patches(dy) @ (w turned by 180 degrees)   at stride 1, where the transpose is a convolution again
    dx  += scatter(dy @ w^T)                         at any other stride

Output rows are counted through all images, N * P of them, and shared among threads. Each thread gathers and multiplies
its own blocks, with BLAS kept to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import launch, serial_blas
from minires.kernels.cpu.patches import Windows, gather_patches, scatter_patches
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.layout import from_nhwc, from_rsio, to_nhwc

BLOCK_BYTES = 1 << 20  # of patches: BLAS finds them in cache, and the price of a call is small beside its work


def conv2d(x: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (O, C/G, R, S) -> (N, O, P, Q); see the reference kernel of this name."""
    n, o, p, q = geometry.output_shape
    y = np.empty((n, p, q, o), x.dtype)
    _convolve(to_nhwc(x), _filters(w, geometry.groups), Windows.of(geometry), y)
    return from_nhwc(y)


def conv2d_input_grad(dy: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, O, P, Q), (O, C/G, R, S) -> (N, C, H, W); see the reference kernel of this name."""
    n, c, h, width = geometry.input_shape
    o, depth, r, s = w.shape
    g, windows = geometry.groups, Windows.of(geometry)
    dy = to_nhwc(dy)
    if geometry.stride == (1, 1):
        swapped = w.reshape(g, o // g, depth, r, s).swapaxes(1, 2).reshape(c, o // g, r, s)
        dx = np.empty((n, h, width, c), dy.dtype)
        _convolve(dy, _filters(swapped[:, :, ::-1, ::-1], g), windows.transposed((h, width)), dx)
        return from_nhwc(dx)
    dx = np.zeros((n, h, width, g, depth), dy.dtype)
    filters = _filters(w, g).swapaxes(1, 2)
    p = dy.shape[1]
    dy_rows = dy.reshape(n * p, dy.shape[2], o)

    def scatter_images(start: int, stop: int) -> None:  # whole images, so that no two threads add to one pixel
        for first, last, patches in _patch_blocks(start * p, stop * p, g, depth, windows, dy.dtype, BLOCK_BYTES):
            np.matmul(_by_group(dy_rows[first:last], g), filters, out=_as_matrices(patches))
            scatter_patches(first, last, *windows.scalars(), patches, dx)

    with serial_blas():
        launch(scatter_images, n, dy.size * filters.shape[2])
    return from_nhwc(dx.reshape(n, h, width, c))


def conv2d_weight_grad(x: Array, dy: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, R, S); see the reference kernel of this name."""
    o, depth, r, s = geometry.weight_shape
    g, windows = geometry.groups, Windows.of(geometry)
    x, dy = to_nhwc(x), to_nhwc(dy)
    n, p, q, _ = dy.shape
    x_groups, dy_rows = x.reshape(*x.shape[:3], g, depth), dy.reshape(n * p, q, o)
    sums: list[tuple[int, Array]] = []  # one for each thread

    def sum_rows(start: int, stop: int) -> None:
        dw = np.zeros((g, r * s * depth, o // g), x.dtype)
        if windows.are_pixels(x.shape[1:3]):
            x_rows = x.reshape(n * p, q, x.shape[3])
            np.matmul(_by_group(x_rows[start:stop], g).swapaxes(1, 2), _by_group(dy_rows[start:stop], g), out=dw)
        else:
            # Adding a block's product to dw must cost little beside the product itself: larger blocks for a larger dw.
            size = max(BLOCK_BYTES, 2 * dw.nbytes)
            for first, last, patches in _patch_blocks(start, stop, g, depth, windows, x.dtype, size):
                gather_patches(first, last, *windows.scalars(), x_groups, patches)
                dw += np.matmul(_as_matrices(patches).swapaxes(1, 2), _by_group(dy_rows[first:last], g))
        sums.append((start, dw))

    with serial_blas():
        launch(sum_rows, n * p, dy.size * depth * r * s)
    total = sum(dw for _, dw in sorted(sums, key=lambda item: item[0]))  # in order, whichever thread was first
    dw = total.reshape(g, r, s, depth, o // g).transpose(1, 2, 3, 0, 4)  # (R, S, C/G, G, O/G)
    return from_rsio(np.ascontiguousarray(dw).reshape(r, s, depth, o))


def _convolve(x: Array, filters: Array, windows: Windows, y: Array) -> None:
    """Write the convolution of x (N, H, W, C) with ``filters`` (G, K, O/G) to y (N, P, Q, O)."""
    n, p, q, o = y.shape
    g, k, _ = filters.shape
    depth = x.shape[3] // g
    pixels = windows.are_pixels(x.shape[1:3])
    x_groups, y_rows = x.reshape(*x.shape[:3], g, depth), y.reshape(n * p, q, o)

    def convolve_rows(start: int, stop: int) -> None:
        if pixels:
            x_rows = x.reshape(n * p, q, x.shape[3])
            np.matmul(_by_group(x_rows[start:stop], g), filters, out=_by_group(y_rows[start:stop], g))
            return
        for first, last, patches in _patch_blocks(start, stop, g, depth, windows, x.dtype, BLOCK_BYTES):
            gather_patches(first, last, *windows.scalars(), x_groups, patches)
            np.matmul(_as_matrices(patches), filters, out=_by_group(y_rows[first:last], g))

    with serial_blas():
        launch(convolve_rows, n * p, y.size * k)


def _filters(w: Array, groups: int) -> Array:
    """(O, C/G, R, S) -> (G, K, O/G), K in the order (R, S, C/G) of a patch; a view of a channels-last w if G is 1."""
    o, depth, r, s = w.shape
    w = w.reshape(groups, o // groups, depth, r, s).transpose(0, 3, 4, 2, 1)  # (G, R, S, C/G, O/G)
    return np.ascontiguousarray(w).reshape(groups, r * s * depth, o // groups)


def _by_group(rows: Array, groups: int) -> Array:
    """(..., C) -> (G, M, C/G): the view of channels-last pixels as one matrix a group, which matmul reads in place."""
    return rows.reshape(-1, groups, rows.shape[-1] // groups).swapaxes(0, 1)


def _as_matrices(patches: Array) -> Array:
    """(G, rows, Q, R, S, C/G) -> (G, rows * Q, K)."""
    g, rows, q, r, s, depth = patches.shape
    return patches.reshape(g, rows * q, r * s * depth)


def _patch_blocks(
    start: int, stop: int, groups: int, depth: int, windows: Windows, dtype: np.dtype, block_bytes: int
) -> Iterator[tuple[int, int, Array]]:
    """Yield (first, last, uninitialised patches) for blocks of output rows ``start`` to ``stop``, in one buffer."""
    q, (r, s) = windows.output_size[1], windows.kernel_size
    row_size = groups * q * r * s * depth
    height = max(1, min(stop - start, block_bytes // (row_size * dtype.itemsize)))
    buffer = np.empty(height * row_size, dtype)
    for first in range(start, stop, height):
        last = min(first + height, stop)
        yield first, last, buffer[: (last - first) * row_size].reshape(groups, last - first, q, r, s, depth)
