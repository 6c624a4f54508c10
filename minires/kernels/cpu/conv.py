"""Convolution and its two gradients on the block of `microkernel`, which reads its input in place.

Output pixels are counted through an image, or through a tile of several small ones, and cut into blocks of ROWS. A
table gives where each tap of each pixel begins in the input; it depends on the geometry alone and is kept. Output
channels are cut into panels of one or two vectors, and the filters copied once a call into the order in which the
block reads them.

            blocks of                          depth                       panels of
    y       pixels of y                        taps x input channels       output channels
    dx      pixels of x                        taps x output channels      input channels
    dw      input channels at one tap          pixels of y                 output channels

At stride (a, b) only every a-th row and b-th column of taps can reach a pixel of x. The pixels of x fall into a * b
classes, each a stride-1 convolution of dy with its own share of the taps; pixels that no tap reaches stay zero.

Groups are separate products over their own channels; where each has one channel in and one out, see `depthwise`. Sums
run in an order that does not depend on the threads, but for small weight gradients, of which each thread sums a share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from minires.device import Array
from minires.kernels.cpu import depthwise, winograd
from minires.kernels.cpu.blocks import Blocks, Windows, in_blocks, multiply
from minires.kernels.cpu.epilogue import Epilogue, bias_add_relu, no_epilogue
from minires.kernels.cpu.launch import kernel, launch, launch_sum
from minires.kernels.cpu.memory import empty, zeros
from minires.kernels.cpu.microkernel import (
    ROWS,
    VECTOR_BYTES,
    copy_rows,
    copy_vector,
    multiply_depth_1,
    multiply_depth_2,
    prefetch,
)
from minires.kernels.cpu.panels import pack_filters, panel_width
from minires.kernels.cpu.tables import tile_offsets, transposed_window_table, window_table
from minires.kernels.geometry import Conv2dGeometry, Pair
from minires.kernels.layout import from_nhwc, from_rsio, to_nhwc, to_rsio
from minires.kernels.threads import get_num_threads

FEW_CHANNELS = 8  # below: neighbouring taps are read as one run of numbers, from a padded copy of the input
TILE_PIXELS = 192  # small images are put together until a tile has so many, so that few blocks are part empty
CHUNK_PIXELS = 256  # depth of a block of a weight gradient: its operands stay in L1
PANELS_AT_ONCE = 16  # of a weight gradient: their chunks of dy stay in L2 while the rows of x pass by
PANELS_WORTH_PACKING = 2  # so many that copying the rows of x pays: from apart, they fall on the same sets of L1
PRIVATE_BYTES = 1 << 20  # a weight gradient up to this size is summed by each thread on its own


def conv2d(x: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (O, C/G, R, S) -> (N, O, P, Q); see the reference kernel of this name."""
    return _conv2d(x, w, geometry, no_epilogue(len(w), x.dtype))


def conv2d_add_relu(
    x: Array,
    w: Array,
    bias: Array,
    residual: Array | None,
    relu: bool,
    geometry: Conv2dGeometry,
    kept: dict[str, Array] | None = None,
) -> Array:
    """y = relu(conv2d(x, w) + bias + residual); see the reference kernel of this name."""
    return _conv2d(x, w, geometry, bias_add_relu(bias, residual, relu), kept)


def conv2d_input_grad(dy: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, O, P, Q), (O, C/G, R, S) -> (N, C, H, W); see the reference kernel of this name."""
    n, c, h, width = geometry.input_shape
    if winograd.suits(geometry, dy.dtype) and (filters := winograd.transform_filters(to_rsio(w), transposed=True)):
        top, left = _before(geometry)
        dx = empty((n, h, width, c), dy.dtype)
        winograd.convolve(to_nhwc(dy), filters, (2 - top, 2 - left), dx, no_epilogue(c, dy.dtype))
        return from_nhwc(dx)
    classes = _input_blocks(geometry) if dy.size else ()
    everywhere = len(classes) == geometry.stride[0] * geometry.stride[1]
    dx = (empty if everywhere else zeros)((n, h, width, c), dy.dtype)
    for blocks in classes:
        filters = _pack(w, geometry, blocks, transposed=True)
        _multiply(to_nhwc(dy), filters, blocks, dx, no_epilogue(c, dy.dtype))
    return from_nhwc(dx)


def conv2d_weight_grad(x: Array, dy: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, R, S); see the reference kernel of this name."""
    o, c, r, s = geometry.weight_shape
    if dy.size == 0:
        return from_rsio(np.zeros((r, s, c, o), x.dtype))
    if winograd.suits(geometry, x.dtype):
        dw, left_out = winograd.weight_grad(to_nhwc(x), to_nhwc(dy), _before(geometry))
        dw = from_rsio(dw)
        for tiles in left_out:
            x, dy = (from_nhwc(part) for part in tiles)
            dw += _plain_weight_grad(x, dy, Conv2dGeometry(x.shape, geometry.weight_shape))
        return dw
    return _plain_weight_grad(x, dy, geometry)


def _plain_weight_grad(x: Array, dy: Array, geometry: Conv2dGeometry) -> Array:
    o, c, r, s = geometry.weight_shape
    windows = _output_windows(geometry)
    if _is_depthwise(geometry):
        dw = depthwise.weight_grad(to_nhwc(x), to_nhwc(dy), windows.images, windows.offsets)
        return from_rsio(dw.reshape(r, s, c, o))
    taps, pixels = len(windows.taps), len(windows.offsets)
    depth, columns = r * s * c // taps, o // geometry.groups
    x = _readable(x, geometry)
    tile_size = x.size // len(x) * windows.images
    if depth < ROWS:  # a block reads ROWS numbers wherever it reads
        x = np.append(x, np.zeros(ROWS, x.dtype))
    size = -(-pixels // -(-pixels // CHUNK_PIXELS))  # chunks of equal size, or nearly
    chunks = geometry.input_shape[0] // windows.images * -(-pixels // size)
    width = panel_width(columns, x.dtype)
    panels = geometry.groups * -(-columns // width)
    arguments = (
        *(x.reshape(-1), np.zeros(ROWS, x.dtype), np.ascontiguousarray(windows.offsets.T), tile_size),
        *(to_nhwc(dy).reshape(-1), size, width, columns),
    )
    shape, work = (taps, depth, o), dy.size * taps * depth
    is_large = x.itemsize * taps * depth * o > PRIVATE_BYTES and panels >= get_num_threads()
    shares = 1 if is_large else min(chunks, get_num_threads())
    dw = launch_sum(_multiply_shares, shares * panels, shares, work, shape, x.dtype, chunks, panels, *arguments)
    return from_rsio(dw.reshape(r, s, c, o))


def _conv2d(
    x: Array, w: Array, geometry: Conv2dGeometry, epilogue: Epilogue, kept: dict[str, Array] | None = None
) -> Array:
    """The convolution and what follows it; ``kept`` keeps what is made of w alone for the next call."""
    n, o, p, q = geometry.output_shape
    y = empty((n, p, q, o), x.dtype)
    filters: Any = None
    if winograd.suits(geometry, x.dtype, filters_kept=kept is not None):
        filters = _keep(kept, "winograd", lambda: winograd.transform_filters(to_rsio(w)))
    if filters is not None:
        winograd.convolve(_channels_last(x), filters, _before(geometry), y, epilogue)
    elif y.size:
        blocks = _output_blocks(geometry)
        filters = _keep(kept, "im2col", lambda: _pack(w, geometry, blocks))
        _multiply(_readable(x, geometry), filters, blocks, y, epilogue)
    return from_nhwc(y)


def _keep(kept: dict[str, Any] | None, name: str, make: Callable[[], Any]) -> Any:
    """Return what ``kept`` has by this name, or make it."""
    if kept is None:
        return make()
    if name not in kept:
        kept[name] = make()
    return kept[name]


def _before(geometry: Conv2dGeometry) -> Pair:
    """Return the padding at the top and on the left."""
    (top, _), (left, _) = geometry.padding
    return top, left


def _reads_runs(geometry: Conv2dGeometry) -> bool:
    """Tell whether the S taps of a kernel row are read as one run of S * C numbers."""
    _, c, _, s = geometry.weight_shape
    return c < FEW_CHANNELS and s > 1 and geometry.groups == 1 and geometry.dilation[1] == 1


def _readable(x: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W) -> (N, H, W, C) as the tables of `_output_windows` take it: with its padding if runs are read."""
    x = _channels_last(x)
    if not _reads_runs(geometry):
        return x
    n, h, w, c = x.shape
    (top, bottom), (left, right) = geometry.padding
    padded = empty((n, top + h + bottom, left + w + right, c), x.dtype)
    launch(_copy_padded, n * (top + h + bottom), x.size + padded.size, x, top, left, padded)
    return padded


def _channels_last(x: Array) -> Array:
    """`to_nhwc`, by a kernel where images lie plane after plane: recorded with the others, and by all threads."""
    if not x.flags.c_contiguous or x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return to_nhwc(x)
    n, c, h, w = x.shape
    y = empty((n, h, w, c), x.dtype)
    launch(_copy_channels_last, n * h, 2 * x.size, x, y)
    return y


@lru_cache(maxsize=128)
def _output_windows(geometry: Conv2dGeometry) -> Windows:
    """Return which numbers of the (readable) input each output pixel meets."""
    n, c, h, w = geometry.input_shape
    r, s = geometry.weight_shape[2:]
    (top, bottom), (left, right) = geometry.padding
    if _reads_runs(geometry):
        h, w, s, top, left = top + h + bottom, left + w + right, 1, 0, 0
    p, q = geometry.output_shape[2:]
    rows = window_table(h, r, geometry.stride[0], top, geometry.dilation[0], p)
    columns = window_table(w, s, geometry.stride[1], left, geometry.dilation[1], q)
    images = _images_in_tile(n, p * q, h * w * c)
    return Windows(images, tile_offsets(images, rows, columns, (h, w, c)), np.arange(r * s))


@lru_cache(maxsize=128)
def _output_blocks(geometry: Conv2dGeometry) -> Blocks:
    windows = _output_windows(geometry)
    pixels = np.arange(len(windows.offsets), dtype=np.int32)
    return in_blocks(windows, pixels * geometry.weight_shape[0])


@lru_cache(maxsize=128)
def _input_blocks(geometry: Conv2dGeometry) -> tuple[Blocks, ...]:
    """Return which numbers of dy the pixels of x meet, for each class of them that some tap reaches."""
    n, c, h, w = geometry.input_shape
    o, _, r, s = geometry.weight_shape
    p, q = geometry.output_shape[2:]
    axes = zip((h, w), (r, s), geometry.stride, geometry.padding, geometry.dilation, (p, q), strict=True)
    row_classes, column_classes = (_classes(*axis) for axis in axes)
    images = _images_in_tile(n, h * w, max(h * w * c, p * q * o))
    found = []
    for (i, row_taps, rows), (j, column_taps, columns) in product(row_classes, column_classes):
        taps = (row_taps[:, None] * s + column_taps).reshape(-1)
        if len(taps) and len(i) and len(j):
            windows = Windows(images, tile_offsets(images, rows, columns, (p, q, o)), taps)
            pixels = tile_offsets(images, i[:, None], j[:, None], (h, w, c)).reshape(-1)
            found.append(in_blocks(windows, pixels))
    return tuple(found)


def _classes(
    size: int, taps: int, stride: int, padding: tuple[int, int], dilation: int, outputs: int
) -> list[tuple[Array, Array, Array]]:
    """Return the pixels of each class along an axis, the taps that reach them, and the table of where these meet dy."""
    classes = []
    for first in range(stride):
        pixels, tap = np.arange(first, size, stride), np.arange(taps)
        reaching = tap[(first + padding[0] - tap * dilation) % stride == 0]
        table = transposed_window_table(outputs, reaching, stride, padding[0], dilation, pixels)
        classes.append((pixels, reaching, table))
    return classes


def _images_in_tile(images: int, pixels: int, numbers: int) -> int:
    """Return the least divisor of ``images`` that makes a tile of TILE_PIXELS; ``numbers`` are those of one image.

    Raises
    ------
    ValueError
        If a single image has more numbers than a table can count.
    """
    if numbers > np.iinfo(np.int32).max:
        raise ValueError(
            f"conv2d: images of {numbers} numbers are too large for the compiled kernels, which count to 2**31; "
            "cut them up, or use minires.kernels.use_reference()"
        )
    divisors = [d for d in range(1, images + 1) if images % d == 0 and d * numbers <= np.iinfo(np.int32).max]
    return next((d for d in divisors if d * pixels >= TILE_PIXELS), divisors[-1])


def _pack(w: Array, geometry: Conv2dGeometry, blocks: Blocks, transposed: bool = False) -> Array:
    """Return filters (O, C/G, R, S) as `_multiply` takes them; ``transposed``, from output to input channels."""
    o, _, r, s = geometry.weight_shape
    taps = r if _reads_runs(geometry) and not transposed else r * s
    filters = to_rsio(w).reshape(taps, -1, o)
    if _is_depthwise(geometry):
        return filters.reshape(taps, o)[blocks.taps]
    return pack_filters(filters, blocks.taps, geometry.groups, transposed)


def _is_depthwise(geometry: Conv2dGeometry) -> bool:
    """Tell whether each channel has a filter of its own, and gives one channel."""
    return geometry.groups == geometry.input_shape[1] == geometry.weight_shape[0] > 1


def _multiply(x: Array, filters: Array, blocks: Blocks, y: Array, epilogue: Epilogue) -> None:
    """Write the products of the blocks' numbers in x (N, ...) with filters of `_pack` to y (N, ..., channels)."""
    if filters.ndim == 2:
        depthwise.multiply(x, filters, blocks.images, blocks.sources, blocks.targets, y, epilogue)
    else:
        multiply(x, filters, blocks, y, epilogue)


@kernel
def _copy_channels_last(start, stop, x, y):
    """Rows ``start`` to ``stop`` of y (N, H, W, C) from x (N, C, H, W), counted through all images."""
    _, channels, height, width = x.shape
    for row in range(start, stop):
        image, h = divmod(row, height)
        for w in range(width):
            for c in range(channels):
                y[image, h, w, c] = x[image, c, h, w]


@kernel
def _copy_padded(start, stop, x, top, left, padded):
    """Rows ``start`` to ``stop`` of x (N, H, W, C) with zeros around each image, counted through all of them."""
    _, height, width, _ = x.shape
    for row in range(start, stop):
        image, h = divmod(row, padded.shape[1])
        line = padded[image, h]
        if top <= h < top + height:
            line[:left] = 0
            line[left : left + width] = x[image, h - top]
            line[left + width :] = 0
        else:
            line[:] = 0


@kernel
def _multiply_shares(start, stop, chunks, panels, x, zeros, offsets, x_tile, dy, size, width, columns, totals):
    """A work item is a share of all chunks, for one panel, written to totals: (shares, *dw.shape)."""
    arguments = x, zeros, offsets, x_tile, dy, size, width, columns
    shares = len(totals)
    for share in range(start // panels, (stop + panels - 1) // panels):
        first_panel, last_panel = max(0, start - share * panels), min(panels, stop - share * panels)
        first_chunk, last_chunk = chunks * share // shares, chunks * (share + 1) // shares
        _sum_products(first_chunk, last_chunk, first_panel, last_panel, *arguments, totals[share])


@kernel
def _sum_products(
    first_chunk, last_chunk, first_panel, last_panel, x, zeros, offsets, x_tile, dy, size, width, columns, dw
):
    """Write the products of x and dy, summed over chunks of output pixels, to some panels of dw (taps, C/G, O)."""
    taps, pixels = offsets.shape
    _, depth, o = dw.shape
    chunks, panels = (pixels + size - 1) // size, (columns + width - 1) // width
    row_blocks, lanes = (depth + ROWS - 1) // ROWS, VECTOR_BYTES // dw.itemsize
    turns = taps * row_blocks
    offsets, flat = offsets.reshape(-1), dw.reshape(-1)
    packed, part = np.zeros(PANELS_AT_ONCE * size * width, dw.dtype), np.empty(ROWS * width, dw.dtype)
    packed_x, packed_rows = np.zeros(size * ROWS, x.dtype), (np.arange(size) * ROWS).astype(np.int32)
    for chunk in range(first_chunk, last_chunk):
        tile, first = chunk // chunks, chunk % chunks * size
        count = min(size, pixels - first)
        begin = first_panel
        while begin < last_panel:
            group = begin // panels
            end = min(begin + PANELS_AT_ONCE, last_panel, (group + 1) * panels)
            for index in range(begin, end):
                column, wanted = _columns(index, panels, columns, width)
                for k in range(count):
                    row = (tile * pixels + first + k) * o + column
                    to = ((index - begin) * size + k) * width
                    for j in range(0, wanted - lanes + 1, lanes):
                        copy_vector(dy, row + j, packed, to + j)
                    for j in range(wanted // lanes * lanes, wanted):
                        packed[to + j] = dy[row + j]
            for tap in range(taps):
                for row in range(0, depth, ROWS):
                    top = max(0, min(row, depth - ROWS))  # the last block begins early, so as not to read beyond
                    a, a0, sources, s0 = x, tile * x_tile + group * depth + top, offsets, tap * pixels + first
                    if end - begin >= PANELS_WORTH_PACKING:
                        for k in range(count):
                            if offsets[s0 + k] >= 0:
                                copy_rows(x, a0 + offsets[s0 + k], packed_x, k * ROWS)
                            else:
                                packed_x[k * ROWS : (k + 1) * ROWS] = 0
                        a, a0, sources, s0 = packed_x, 0, packed_rows, 0
                    turn = tap * row_blocks + row // ROWS
                    for index in range(begin, end):
                        column, wanted = _columns(index, panels, columns, width)
                        if chunk + 1 < last_chunk:  # have some of the next chunk fetched while this one is multiplied
                            for k in range(count * turn // turns, count * (turn + 1) // turns):
                                prefetch(dy, (tile * pixels + first + count + k) * o + column)
                        whole = wanted == width and top == row and row + ROWS <= depth
                        c0, b0 = (tap * depth + row) * o + column, (index - begin) * size * width
                        c, c_start, c_stride = (flat, c0, o) if whole else (part, 0, width)
                        add = whole and chunk > first_chunk
                        if width == lanes:
                            multiply_depth_1(a, a0, zeros, sources, s0, packed, b0, c, c_start, c_stride, count, add)
                        else:
                            multiply_depth_2(a, a0, zeros, sources, s0, packed, b0, c, c_start, c_stride, count, add)
                        if not whole:
                            for i in range(row, min(row + ROWS, depth)):
                                for j in range(wanted):
                                    before = dw[tap, i, column + j] if chunk > first_chunk else 0
                                    dw[tap, i, column + j] = before + part[(i - top) * width + j]
            begin = end


@kernel
def _columns(index, panels, columns, width):
    """The first column of a panel, counted through groups of ``columns``, and how many of its columns there are."""
    first = index % panels * width
    return index // panels * columns + first, min(width, columns - first)
