"""3x3 convolution at stride 1 in a quarter of the multiplications: Winograd's minimal filtering, F(4x4, 3x3).

A tile of 4x4 outputs depends on 6x6 inputs; tiles overlap by two. With the matrices below,

    Y = A^T [ (G g G^T) * (B^T d B) ] A                           for one input and one output channel,

where * is by element: 36 multiplications, the definition takes 144. Summed over input channels, each of the 36 places
is a matrix product of its own, tiles x channels with channels x filters (Lavin and Gray, "Fast algorithms for
convolutional neural networks", 2016, section 4). The map is linear in d and in g; its gradients are of the same kind:

    dx    the same convolution of dy, with the filters turned by 180 degrees and their channels swapped
    dg  = G^T [ sum over tiles of (B^T d B) * (A dY A^T) ] G

Tiles are worked off in blocks whose 36 planes stay in cache; each panel of filters is multiplied with all planes and
transformed back while it is hot.

**How exact.** The transforms add numbers of unlike size: this is for float32 only. Rounding errors grow with the
entries of the matrices, and those follow from the points at which polynomials are evaluated. The usual 0, 1, -1, 2,
-2 are easy to multiply with; 0, 11/16, -11/16, 13/8, -13/8 cost as much and lose half as many digits (found by trial;
compare Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural networks",
2020). Products are summed over 64 channels at a time.

**What a tile may contain.** An error is as large as the largest number of a tile, and NaN or infinity fill it: they
reach outputs that do not see them. So the transform also sums up the squares in each cell of 2x2 inputs (of each
output, in weight gradients): its energy. Each output sees at least one cell whole. Where the weakest of these cells
has too little of the tile's energy, or the energy is no finite number, the tile is uneven, and its outputs are
computed in the plain way (in weight gradients, its share of the sum). In 600 steps of a ResNet-20 there were no such
tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minires.device import Array
from minires.kernels.algorithm import chosen_algorithm
from minires.kernels.cpu.epilogue import BIAS_AND_RESIDUAL, Epilogue, finish
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

POINTS = np.array([0, 11 / 16, -11 / 16, 13 / 8, -13 / 8])  # and infinity


def _matrices(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (6, 4) evaluates polynomials of 4 coefficients at the points and infinity, G (6, 3) those of 3; B interpolates.

    Column i of B is the polynomial that is 0 at all points but the i-th; G is divided by its value there.
    """
    others = [np.delete(points, i) for i in range(len(points))]
    at_others = np.array([np.prod(x - rest) for x, rest in zip(points, others, strict=True)])
    a = np.vstack([np.vander(points, 4, increasing=True), [0, 0, 0, 1]])
    g = np.vstack([np.vander(points, 3, increasing=True) / at_others[:, None], [0, 0, 1]])
    b = np.zeros((6, 6))
    b[:5, :5] = np.transpose([np.polynomial.polynomial.polyfromroots(rest) for rest in others])
    b[:, 5] = np.polynomial.polynomial.polyfromroots(points)
    return a, b, g


A, B, G = _matrices(POINTS)

_transform_input, _transform_filter, _transform_output = tile_transform(B.T, 2), tile_transform(G), tile_transform(A.T)
_transform_output_grad, _transform_filter_grad = tile_transform(A), tile_transform(G.T)

LANES = VECTOR_BYTES // 4
TAPS, PLANES = 9, 36
BLOCK_BYTES = 1 << 18  # of transformed inputs in a block of tiles: they share L2 with the products
BLOCK_TILES = 24  # are allowed always: the filters are read once a block, and more blocks would wait for them
DEPTH = 64  # products that are summed in a row: sums of such sums are more exact
EVEN = np.float32(2**14)  # times the energy of its weakest cell: a tile with more is computed in the plain way
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


class Filters(NamedTuple):
    """Filters of one convolution, in panels of output channels.

    packed : (panels, 9 * C, columns), for tiles that are computed in the plain way
    transformed : (36, panels, C, columns)
    """

    packed: Array
    transformed: Array


def transform_filters(w: Array, transposed: bool = False) -> Filters | None:
    """Transform filters (3, 3, C, O), or with ``transposed`` (3, 3, O, C), which are turned by 180 degrees first.

    None if some filter is not to be trusted to the transform (see `_judge`): the plain algorithm has to do it.
    """
    taps = np.arange(TAPS)
    (packed,) = pack_filters(w.reshape(TAPS, *w.shape[2:]), taps[::-1] if transposed else taps, 1, transposed)
    panels, rows, width = packed.shape
    depth = rows // TAPS
    transformed = empty((PLANES, panels, depth, width), w.dtype)
    uneven = np.zeros(panels * depth, np.bool_)
    launch(_transform_filters, uneven.size, transformed.size, packed, *_void(width), transformed, uneven)
    return None if uneven.any() else Filters(packed, transformed)


def convolve(x: Array, filters: Filters, padding: Pair, y: Array, epilogue: Epilogue) -> None:
    """Write the convolution of x (N, H, W, C), padded by (top, left), with `transform_filters` to y (N, P, Q, O)."""
    n, h, width, c = x.shape
    _, p, q, o = y.shape
    sources, targets = _input_tiles((h, width, c), padding, (p, q)), _output_tiles((p, q, o))
    tiles = n * len(sources)
    block = _block_size(tiles, c)
    blocks = -(-tiles // block)
    shares = min(len(filters.packed), -(-WORK_ITEMS * get_num_threads() // blocks))  # of panels
    arguments = (
        *(x.reshape(-1), h * width * c, sources, *filters, y.reshape(-1), p * q * o, targets),
        *(o, LANES, *_void(max(c, o)), tiles, block, shares),
    )
    launch(_convolve, blocks * shares, PLANES * tiles * c * o, *arguments, *epilogue)


def weight_grad(x: Array, dy: Array, padding: Pair) -> tuple[Array, list[tuple[Array, Array]]]:
    """Return the gradient (3, 3, C, O) of the filters; x (N, H, W, C) padded by (top, left), dy (N, P, Q, O).

    It lacks what uneven tiles add to it (see `_judge`): these are the second result, for the plain algorithm to do,
    tiles of x (T, P + 2, Q + 2, C) with those of dy (T, P, Q, O), for each P and Q that there are.
    """
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
    uneven = np.zeros((tiles, panels), np.bool_)
    planes = launch_sum(_multiply_shares, shares * panels, shares, work, shape, x.dtype, uneven, blocks, *arguments)
    dw = empty((3, 3, c, o), x.dtype)
    launch(_transform_filter_grads, panels * c, planes.size, planes, *void, dw)
    if not uneven.any():
        return dw, []
    return dw, list(_left_out(x, dy, sources, targets, uneven.repeat(panel, axis=1)[:, :o]))


def _left_out(x: Array, dy: Array, sources: Array, targets: Array, uneven: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the tiles of x and dy that `_multiply_shares` left out; ``uneven`` (tiles, O) says for which channels."""
    tiles = np.flatnonzero(uneven.any(axis=1))
    image, tile = np.divmod(tiles, len(targets))
    inside = targets.reshape(-1, 4, 4)[tile] >= 0
    sizes = np.stack([inside[:, :, 0].sum(axis=1), inside[:, 0].sum(axis=1)], axis=1)
    for rows, columns in np.unique(sizes, axis=0):
        these = (sizes == (rows, columns)).all(axis=1)
        x_tiles = _pixels(x, image[these], sources[tile[these]])[:, : rows + 2, : columns + 2]
        dy_tiles = _pixels(dy, image[these], targets[tile[these]])[:, :rows, :columns]
        yield x_tiles, np.where(uneven[tiles[these], None, None], dy_tiles, 0)


def _pixels(x: Array, images: Array, offsets: Array) -> Array:
    """(T, size, size, C): what lies at ``offsets`` (T, size * size) into images of x (N, H, W, C); zeros for -1."""
    channels, size = x.shape[-1], math.isqrt(offsets.shape[1])
    pixels = x.reshape(len(x), -1, channels)[images[:, None], offsets // channels]
    return np.where(offsets[..., None] < 0, 0, pixels).reshape(-1, size, size, channels)


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
def _judge_inputs(energies, targets, per_image, first, total, even, lacking):
    """Tell which tiles of inputs of a block are even, from the energies (tiles, 9) of their 2x2 cells.

    ``total`` is the energy of a tile; it is ``lacking`` if a cell that outputs of the image see whole has none.
    """
    _judge(energies, 9, total, even, lacking)
    for t in range(total.size):
        if not even[t] and total[t] < np.inf:
            rows, columns = _outputs(targets, (first + t) % per_image * 16)
            least = np.inf
            for i in range(rows // 2 + 1):
                for j in range(columns // 2 + 1):
                    least, lacking[t] = _weaker(energies[t, 3 * i + j], least, lacking[t])
            even[t] = total[t] <= EVEN * least and (not lacking[t] or _is_usual(total, t))


@kernel
def _judge_outputs(energies, targets, per_image, first, total, even, lacking):
    """Tell which tiles of outputs of a block are even, from the energies (tiles, 16) of their numbers."""
    _judge(energies, 16, total, even, lacking)
    for t in range(total.size):
        if not even[t] and total[t] < np.inf:
            rows, columns = _outputs(targets, (first + t) % per_image * 16)
            least = np.inf
            for i in range(4):
                row, column = 0.0, 0.0
                for j in range(4):
                    row += energies[t, 4 * i + j]
                    column += energies[t, 4 * j + i]
                if i < rows:
                    least, lacking[t] = _weaker(row, least, lacking[t])
                if i < columns:
                    least, lacking[t] = _weaker(column, least, lacking[t])
            even[t] = total[t] <= EVEN * least and (not lacking[t] or _is_usual(total, t))


@kernel
def _judge(energies, cells, total, even, lacking):
    """The energy of each tile; it is even if none of its cells is weak, whichever count."""
    for t in range(total.size):
        energy, least = energies[t, 0], energies[t, 0]
        for i in range(1, cells):
            energy += energies[t, i]
            least = energies[t, i] if energies[t, i] < least else least
        total[t], even[t], lacking[t] = energy, energy < np.inf and energy <= EVEN * least, False


@kernel
def _weaker(energy, least, lacking):
    """The least energy but for zeros, and whether there was a zero."""
    return min(least, energy) if energy > 0 else least, lacking or energy == 0


@kernel
def _outputs(targets, t0):
    """How many rows and columns of a tile's outputs lie in the image."""
    rows, columns = 0, 0
    for i in range(4):
        rows += targets[t0 + 4 * i] >= 0
        columns += targets[t0 + i] >= 0
    return rows, columns


@kernel
def _is_usual(total, t):
    """True if a tile has no more energy, by far, than half of the tiles of its block."""
    usual = 0
    for other in total:
        usual += total[t] <= EVEN * other
    return 2 * usual >= total.size


@kernel
def _transform_filters(start, stop, packed, zeros, scrap, filters, uneven):
    """Rows ``start`` to ``stop`` of filters (36, panels, C, width), counted through panels; tells which are uneven.

    Each output sees two neighbouring rows of a filter at least.
    """
    panels, rows, width = packed.shape
    depth = rows // TAPS
    taps, planes = _steps(TAPS, depth * width), _steps(PLANES, panels * depth * width)
    source, target, energies = packed.reshape(-1), filters.reshape(-1), np.empty((1, 16), packed.dtype)
    for item in range(start, stop):
        first = (item // depth * rows + item % depth) * width
        _transform_filter(
            source, first, zeros, taps, 0, target, item * width, scrap, planes, 0, width, (energies[0],), ()
        )
        total, least = 0.0, np.inf
        for i in range(9):
            total += energies[0, i]
        for i in range(0, 6, 3):
            two_rows, two_columns = 0.0, 0.0
            for j in range(6):
                two_rows += energies[0, i + j]
                two_columns += energies[0, i // 3 + j // 2 * 3 + j % 2]
            least = min(least, two_rows, two_columns)
        uneven[item] = not (total < np.inf and total <= EVEN * least)


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
        _transform_filter_grad(source, x0, zeros, sources, 0, target, y0, scrap, taps, 0, wanted, (), ())


@kernel
def _convolve(
    start,
    stop,
    x,
    x_image,
    sources,
    packed,
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
    packed, filters, sources, targets = (
        packed.reshape(-1),
        filters.reshape(-1),
        sources.reshape(-1),
        targets.reshape(-1),
    )
    energies, total = np.empty((block, 16), x.dtype), np.empty(block, x.dtype)
    even, lacking = np.empty(block, np.bool_), np.empty(block, np.bool_)
    v, m = np.empty(PLANES * block * depth, x.dtype), np.empty(PLANES * block * width, x.dtype)
    v_planes, m_planes = _steps(PLANES, block * depth), _steps(PLANES, block * width)
    v_rows, m_rows = _steps(block, depth), _steps(block, width)
    for item in range(start, stop):
        first, share = item // shares * block, item % shares
        count = min(block, tiles - first)
        for t in range(count):
            image, tile = divmod(first + t, per_image)
            x0, s0 = image * x_image, tile * PLANES
            _transform_input(x, x0, zeros, sources, s0, v, t * depth, scrap, v_planes, 0, depth, (energies[t],), ())
        _judge_inputs(energies, targets, per_image, first, total[:count], even, lacking)
        for panel in range(panels * share // shares, panels * (share + 1) // shares):
            for plane in range(PLANES):
                v0, m0 = plane * block * depth, plane * block * width
                b0 = (plane * panels + panel) * depth * width
                for row in range(0, count, ROWS):
                    for k in range(0, depth, DEPTH):
                        a, b, some = v0 + k, b0 + k * width, min(DEPTH, depth - k)
                        if width == lanes:
                            multiply_rows_1(v, a, zeros, v_rows, row, filters, b, m, m0, m_rows, row, 1, some, k, ())
                        else:
                            multiply_rows_2(v, a, zeros, v_rows, row, filters, b, m, m0, m_rows, row, 1, some, k, ())
            wanted = min(width, columns - panel * width)
            for t in range(count):
                image, tile = divmod(first + t, per_image)
                y0, t0 = image * y_image + panel * width, tile * 16
                end = steps, bias, panel * width, residual, floor
                if not even[t]:
                    x0, s0, b0 = image * x_image, tile * PLANES, panel * TAPS * depth * width
                    _convolve_tile(
                        x, x0, zeros, sources, s0, packed, b0, depth, width, lanes, y, y0, targets, t0, wanted, end
                    )
                else:
                    _transform_output(m, t * width, zeros, m_planes, 0, y, y0, scrap, targets, t0, wanted, (), end)


@kernel
def _convolve_tile(x, x0, zeros, sources, s0, packed, b0, depth, width, lanes, y, y0, targets, t0, wanted, end):
    """The outputs of one tile, in the plain way: a block or two of pixels, tap by tap."""
    steps, bias, bias0, residual, floor = end
    windows, sums, rows = np.empty(ROWS, np.int32), np.empty(ROWS * width, x.dtype), _steps(ROWS, width)
    for begin in range(0, 16, ROWS):
        for tap in range(TAPS):
            for i in range(ROWS):
                p, q = divmod(min(begin + i, 15), 4)
                windows[i] = sources[s0 + (p + tap // 3) * 6 + q + tap % 3]
            b = b0 + tap * depth * width
            if width == lanes:
                multiply_rows_1(x, x0, zeros, windows, 0, packed, b, sums, 0, rows, 0, 1, depth, tap, ())
            else:
                multiply_rows_2(x, x0, zeros, windows, 0, packed, b, sums, 0, rows, 0, 1, depth, tap, ())
        for i in range(min(ROWS, 16 - begin)):
            target = targets[t0 + begin + i]
            if target >= 0:
                for j in range(wanted):
                    at = y0 + target + j
                    added = residual[at] if steps == BIAS_AND_RESIDUAL else 0
                    y[at] = finish(sums[i * width + j], steps, bias[bias0 + j], added, floor)


@kernel
def _multiply_shares(
    start,
    stop,
    uneven,
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
        _sum_tiles(first_block, last_block, first_panel, last_panel, uneven, *numbers, *sizes, totals[share])


@kernel
def _sum_tiles(
    first_block,
    last_block,
    first_panel,
    last_panel,
    uneven,
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
    them. Tiles that are uneven are left out, and marked in ``uneven`` (tiles, panels).
    """
    _, panels, rows, width = planes.shape
    per_image = sources.shape[0]
    sources, targets, flat = sources.reshape(-1), targets.reshape(-1), planes.reshape(-1)
    v, z = np.zeros(PLANES * block * depth + ROWS, x.dtype), np.zeros(PLANES * block * width, x.dtype)
    v_planes, z_planes, v_rows = _steps(PLANES, block * depth), _steps(PLANES, block * width), _steps(block, depth)
    x_energies, x_total = np.empty((block, 16), x.dtype), np.empty(block, x.dtype)
    x_even, x_lacking = np.empty(block, np.bool_), np.empty(block, np.bool_)
    dy_energies, dy_total = np.empty((block, 16), x.dtype), np.empty(block, x.dtype)
    dy_even, dy_lacking = np.empty(block, np.bool_), np.empty(block, np.bool_)
    for index in range(first_block, last_block):
        first = index * block
        count, add = min(block, tiles - first), index > first_block
        x_totals, dy_totals = x_total[:count], dy_total[:count]
        for t in range(count):
            image, tile = divmod(first + t, per_image)
            x0, s0 = image * x_image, tile * PLANES
            _transform_input(x, x0, zeros, sources, s0, v, t * depth, scrap, v_planes, 0, depth, (x_energies[t],), ())
        _judge_inputs(x_energies, targets, per_image, first, x_totals, x_even, x_lacking)
        for t in range(count):
            if not x_even[t]:
                for plane in range(PLANES):
                    v[(plane * block + t) * depth :][:depth] = 0
        for panel in range(first_panel, last_panel):
            wanted = min(width, columns - panel * width)
            for t in range(count):
                image, tile = divmod(first + t, per_image)
                y0, t0, energies = image * dy_image + panel * width, tile * 16, dy_energies[t]
                _transform_output_grad(
                    dy, y0, zeros, targets, t0, z, t * width, scrap, z_planes, 0, wanted, (energies,), ()
                )
            _judge_outputs(dy_energies, targets, per_image, first, dy_totals, dy_even, dy_lacking)
            for t in range(count):
                even = x_even[t] and dy_even[t]
                # What meets only zeros of the other is seen by no filter: it must be small enough to vanish.
                even = even and (not x_lacking[t] or _is_usual(dy_totals, t))
                even = even and (not dy_lacking[t] or _is_usual(x_totals, t))
                if not even:
                    uneven[first + t, panel] = True
                    for plane in range(PLANES):
                        z[(plane * block + t) * width :][:width] = 0
            for plane in range(PLANES):
                v0, z0 = plane * block * depth, plane * block * width
                for row in range(0, rows, ROWS):
                    c0 = ((plane * panels + panel) * rows + row) * width
                    if width == lanes:
                        multiply_depth_1(v, v0 + row, zeros, v_rows, 0, z, z0, flat, c0, width, count, add)
                    else:
                        multiply_depth_2(v, v0 + row, zeros, v_rows, 0, z, z0, flat, c0, width, count, add)
