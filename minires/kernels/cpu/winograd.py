"""3x3 convolution at stride 1 in a quarter of the multiplications: Winograd's minimal filtering, F(4x4, 3x3).

A tile of 4x4 outputs depends on 6x6 inputs; tiles overlap by two. With the matrices below,

    Y = A^T [ (G g G^T) * (B^T d B) ] A                           for one input and one output channel,

where * is by element: 36 multiplications, the definition takes 144. Summed over input channels, each of the 36 places
is a matrix product of its own, tiles x channels with channels x filters (Lavin and Gray, "Fast algorithms for
convolutional neural networks", 2016, section 4). The map is linear in d and in g; its gradients are of the same kind:

    dx    the same convolution of dy, with the filters turned by 180 degrees and their channels swapped
    dg  = G^T [ sum over tiles of (B^T d B) * (A dY A^T) ] G

The transforms add numbers of unlike size, and results are some ten times less exact than plain sums: this is for
float32 only. Tiles are worked off in blocks whose 36 planes stay in cache; each panel of filters is multiplied with
all planes and transformed back while it is hot.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from minires.device import Array
from minires.kernels.algorithm import chosen_algorithm
from minires.kernels.cpu.epilogue import Epilogue
from minires.kernels.cpu.launch import kernel, launch, launch_sum
from minires.kernels.cpu.memory import empty
from minires.kernels.cpu.microkernel import (
    ROWS,
    VECTOR_BYTES,
    multiply_depth_1,
    multiply_depth_2,
    multiply_rows_1,
    multiply_rows_2,
    tile_transform,
)
from minires.kernels.cpu.panels import pack_filters, panel_width
from minires.kernels.cpu.tables import tile_offsets, window_table
from minires.kernels.geometry import Conv2dGeometry, Pair
from minires.kernels.threads import get_num_threads

A = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]])
B = np.array(
    [
        [4, 0, 0, 0, 0, 0],
        [0, -4, 4, -2, 2, 4],
        [-5, -4, -4, -1, -1, 0],
        [0, 1, -1, 2, -2, -5],
        [1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
)
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24

_transform_input, _transform_filter, _transform_output = tile_transform(B.T), tile_transform(G), tile_transform(A.T)
_transform_output_grad, _transform_filter_grad = tile_transform(A), tile_transform(G.T)

LANES = VECTOR_BYTES // 4
TAPS, PLANES = 9, 36
BLOCK_BYTES = 1 << 18  # of transformed inputs in a block of tiles: they share L2 with the products
BLOCK_TILES = 24  # are allowed always: the filters are read once a block, and more blocks would wait for them
WORK_ITEMS = 8  # for each thread, at least, if there are so many panels
PRIVATE_BYTES = 1 << 20  # a weight gradient up to this size is summed by each thread on its own
# Measured: with fewer channels the transforms cost what they save; with fewer tiles, those of the filters do.
LEAST_CHANNELS, LEAST_TILES, LEAST_TILES_IF_KEPT = 32, 64, 16


def suits(geometry: Conv2dGeometry, dtype: np.dtype, filters_kept: bool = False) -> bool:
    """Tell whether a convolution, and its gradients, are to be computed here.

    With fewer tiles it pays if the transformed filters are kept from call to call.
    """
    o, c, *kernel_size = geometry.weight_shape
    n, _, p, q = geometry.output_shape
    fits = dtype == np.float32 and (kernel_size, geometry.groups) == ([3, 3], 1) and c % LANES == o % LANES == 0
    if not fits or (geometry.stride, geometry.dilation) != ((1, 1), (1, 1)) or chosen_algorithm() == "im2col":
        return False
    tiles = n * -(-p // 4) * -(-q // 4)
    if chosen_algorithm() == "winograd":
        return tiles > 0
    return min(c, o) >= LEAST_CHANNELS and tiles >= (LEAST_TILES_IF_KEPT if filters_kept else LEAST_TILES)


def transform_filters(w: Array, transposed: bool = False) -> Array:
    """(3, 3, C, O) -> (36, panels, C, columns): transformed filters in panels of output channels.

    With ``transposed``, w is (3, 3, O, C) instead, and turned by 180 degrees.
    """
    taps = np.arange(TAPS)
    (packed,) = pack_filters(w.reshape(TAPS, *w.shape[2:]), taps[::-1] if transposed else taps, 1, transposed)
    panels, rows, width = packed.shape
    filters = empty((PLANES, panels, rows // TAPS, width), w.dtype)
    launch(_transform_filters, panels * (rows // TAPS), filters.size, packed, *_void(width), filters)
    return filters


def convolve(x: Array, filters: Array, padding: Pair, y: Array, epilogue: Epilogue) -> None:
    """Write the convolution of x (N, H, W, C), padded by (top, left), with `transform_filters` to y (N, P, Q, O)."""
    n, h, width, c = x.shape
    _, p, q, o = y.shape
    sources, targets = _input_tiles((h, width, c), padding, (p, q)), _output_tiles((p, q, o))
    tiles = n * len(sources)
    block = _block_size(tiles, c)
    blocks = -(-tiles // block)
    shares = min(filters.shape[1], -(-WORK_ITEMS * get_num_threads() // blocks))  # of panels
    arguments = (
        *(x.reshape(-1), h * width * c, sources, filters, y.reshape(-1), p * q * o, targets),
        *(o, LANES, *_void(max(c, o)), tiles, block, shares),
    )
    launch(_convolve, blocks * shares, PLANES * tiles * c * o, *arguments, *epilogue)


def weight_grad(x: Array, dy: Array, padding: Pair) -> Array:
    """Return the gradient (3, 3, C, O) of the filters; x (N, H, W, C) padded by (top, left), dy (N, P, Q, O)."""
    n, h, width, c = x.shape
    _, p, q, o = dy.shape
    sources, targets = _input_tiles((h, width, c), padding, (p, q)), _output_tiles((p, q, o))
    tiles = n * len(sources)
    block = _block_size(tiles, c)
    blocks, work = -(-tiles // block), PLANES * tiles * c * o
    panel = panel_width(o, x.dtype)
    panels = -(-o // panel)
    void = _void(max(c, o))
    arguments = (
        *(x.reshape(-1), h * width * c, sources, dy.reshape(-1), p * q * o, targets),
        *(c, o, LANES, *void, tiles, block),
    )
    shape = PLANES, panels, -(-c // ROWS) * ROWS, panel
    is_large = 4 * math.prod(shape) > PRIVATE_BYTES and panels >= get_num_threads()
    shares = 1 if is_large else min(blocks, get_num_threads())
    planes = launch_sum(_multiply_shares, shares * panels, shares, work, shape, x.dtype, blocks, *arguments)
    dw = empty((3, 3, c, o), x.dtype)
    launch(_transform_filter_grads, panels * c, planes.size, planes, *void, dw)
    return dw


def _block_size(tiles: int, channels: int) -> int:
    """Return how many tiles are worked off together, a multiple of ROWS; no block is much smaller than the others."""
    most = max(BLOCK_TILES, BLOCK_BYTES // (4 * PLANES * channels))
    blocks = -(-tiles // most)
    return -(-tiles // (blocks * ROWS)) * ROWS


@lru_cache(maxsize=128)
def _input_tiles(shape: tuple[int, int, int], padding: Pair, output_size: Pair) -> Array:
    """(tiles, 36): where in an image (H, W, C) the 6x6 inputs of each tile begin; -1 is padding."""
    axes = zip(shape[:2], padding, output_size, strict=True)
    rows, columns = (window_table(size, 6, 4, before, 1, -(-outputs // 4)) for size, before, outputs in axes)
    return tile_offsets(1, rows, columns, shape)


@lru_cache(maxsize=128)
def _output_tiles(shape: tuple[int, int, int]) -> Array:
    """(tiles, 16): where in an image (P, Q, O) the 4x4 outputs of each tile begin; -1 is beyond its edge."""
    rows, columns = (window_table(size, 4, 4, 0, 1, -(-size // 4)) for size in shape[:2])
    return tile_offsets(1, rows, columns, shape)


def _void(channels: int) -> tuple[Array, Array]:
    """Return numbers to read outside the image, all zero, and numbers to write there."""
    return np.zeros(channels, np.float32), np.empty(channels, np.float32)


@kernel
def _steps(count, step):
    """0, step, 2 * step, ... as a table of offsets."""
    return (np.arange(count) * step).astype(np.int32)


@kernel
def _transform_filters(start, stop, packed, zeros, scrap, filters):
    """Rows ``start`` to ``stop`` of filters (36, panels, C, width), counted through panels."""
    panels, rows, width = packed.shape
    depth = rows // TAPS
    taps, planes = _steps(TAPS, depth * width), _steps(PLANES, panels * depth * width)
    source, target = packed.reshape(-1), filters.reshape(-1)
    for item in range(start, stop):
        first = (item // depth * rows + item % depth) * width
        _transform_filter(source, first, zeros, taps, 0, target, item * width, scrap, planes, 0, width, ())


@kernel
def _transform_filter_grads(start, stop, planes, zeros, scrap, dw):
    """Rows ``start`` to ``stop`` of dw (3, 3, C, O), counted through panels of columns."""
    _, panels, rows, width = planes.shape
    _, _, depth, columns = dw.shape
    sources, taps = _steps(PLANES, panels * rows * width), _steps(TAPS, depth * columns)
    source, target = planes.reshape(-1), dw.reshape(-1)
    for item in range(start, stop):
        panel, row = divmod(item, depth)
        first, wanted = panel * width, min(width, columns - panel * width)
        x0, y0 = (panel * rows + row) * width, row * columns + first
        _transform_filter_grad(source, x0, zeros, sources, 0, target, y0, scrap, taps, 0, wanted, ())


@kernel
def _convolve(
    start,
    stop,
    x,
    x_image,
    sources,
    filters,
    y,
    y_image,
    targets,
    columns,
    lanes,
    zeros,
    scrap,
    tiles,
    block,
    shares,
    steps,
    bias,
    residual,
    floor,
):
    """A work item is a block of tiles times a share of all panels."""
    _, panels, depth, width = filters.shape
    per_image = sources.shape[0]
    filters, sources, targets = filters.reshape(-1), sources.reshape(-1), targets.reshape(-1)
    v, m = np.empty(PLANES * block * depth, x.dtype), np.empty(PLANES * block * width, x.dtype)
    v_planes, m_planes = _steps(PLANES, block * depth), _steps(PLANES, block * width)
    v_rows, m_rows = _steps(block, depth), _steps(block, width)
    for item in range(start, stop):
        first, share = item // shares * block, item % shares
        count = min(block, tiles - first)
        for t in range(count):
            image, tile = divmod(first + t, per_image)
            x0, s0 = image * x_image, tile * PLANES
            _transform_input(x, x0, zeros, sources, s0, v, t * depth, scrap, v_planes, 0, depth, ())
        for panel in range(panels * share // shares, panels * (share + 1) // shares):
            for plane in range(PLANES):
                v0, m0 = plane * block * depth, plane * block * width
                b0 = (plane * panels + panel) * depth * width
                for row in range(0, count, ROWS):
                    if width == lanes:
                        multiply_rows_1(v, v0, zeros, v_rows, row, filters, b0, m, m0, m_rows, row, 1, depth, 0, ())
                    else:
                        multiply_rows_2(v, v0, zeros, v_rows, row, filters, b0, m, m0, m_rows, row, 1, depth, 0, ())
            wanted = min(width, columns - panel * width)
            for t in range(count):
                image, tile = divmod(first + t, per_image)
                y0, t0 = image * y_image + panel * width, tile * 16
                end = steps, bias, panel * width, residual, floor
                _transform_output(m, t * width, zeros, m_planes, 0, y, y0, scrap, targets, t0, wanted, end)


@kernel
def _multiply_shares(
    start,
    stop,
    blocks,
    x,
    x_image,
    sources,
    dy,
    dy_image,
    targets,
    depth,
    columns,
    lanes,
    zeros,
    scrap,
    tiles,
    block,
    totals,
):
    """A work item is a share of all blocks of tiles, for one panel, written to totals: (shares, *planes.shape)."""
    numbers = x, x_image, sources, dy, dy_image, targets
    sizes = depth, columns, lanes, zeros, scrap, tiles, block
    shares, _, panels, _, _ = totals.shape
    for share in range(start // panels, (stop + panels - 1) // panels):
        first_panel, last_panel = max(0, start - share * panels), min(panels, stop - share * panels)
        first_block, last_block = blocks * share // shares, blocks * (share + 1) // shares
        _sum_tiles(first_block, last_block, first_panel, last_panel, *numbers, *sizes, totals[share])


@kernel
def _sum_tiles(
    first_block,
    last_block,
    first_panel,
    last_panel,
    x,
    x_image,
    sources,
    dy,
    dy_image,
    targets,
    depth,
    columns,
    lanes,
    zeros,
    scrap,
    tiles,
    block,
    planes,
):
    """Write products of transformed x and dy, summed over blocks of tiles, to planes (36, panels, rows, width).

    There are as many rows as blocks of ROWS need. Those beyond ``depth`` get products of other numbers: nobody reads
    them.
    """
    _, panels, rows, width = planes.shape
    per_image = sources.shape[0]
    sources, targets, flat = sources.reshape(-1), targets.reshape(-1), planes.reshape(-1)
    v, z = np.zeros(PLANES * block * depth + ROWS, x.dtype), np.zeros(PLANES * block * width, x.dtype)
    v_planes, z_planes, v_rows = _steps(PLANES, block * depth), _steps(PLANES, block * width), _steps(block, depth)
    for index in range(first_block, last_block):
        first = index * block
        count, add = min(block, tiles - first), index > first_block
        for t in range(count):
            image, tile = divmod(first + t, per_image)
            x0, s0 = image * x_image, tile * PLANES
            _transform_input(x, x0, zeros, sources, s0, v, t * depth, scrap, v_planes, 0, depth, ())
        for panel in range(first_panel, last_panel):
            wanted = min(width, columns - panel * width)
            for t in range(count):
                image, tile = divmod(first + t, per_image)
                y0, t0 = image * dy_image + panel * width, tile * 16
                _transform_output_grad(dy, y0, zeros, targets, t0, z, t * width, scrap, z_planes, 0, wanted, ())
            for plane in range(PLANES):
                v0, z0 = plane * block * depth, plane * block * width
                for row in range(0, rows, ROWS):
                    c0 = ((plane * panels + panel) * rows + row) * width
                    if width == lanes:
                        multiply_depth_1(v, v0 + row, zeros, v_rows, 0, z, z0, flat, c0, width, count, add)
                    else:
                        multiply_depth_2(v, v0 + row, zeros, v_rows, 0, z, z0, flat, c0, width, count, add)
