"""Rows found through a table, times panels of columns: the product beneath convolutions and matrix products.

Rows are cut into blocks of ROWS, as `microkernel` multiplies them; the table tells where each row of a block begins in
the input, for each tap, and where it goes in the output. Columns come in the panels of `panels`. Sums run in an order
that does not depend on the threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minires.device import Array
from minires.kernels.cpu.epilogue import BIAS_AND_RESIDUAL, NOTHING, Epilogue, finish
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.microkernel import ROWS, multiply_rows_1, multiply_rows_2
from minires.kernels.cpu.panels import panel_width
from minires.kernels.threads import get_num_threads

SPAN_BYTES = 1 << 19  # of input and output that one work item passes over, panel after panel: stay in L2
PANEL_BYTES = 1 << 15  # of filters that are multiplied with all blocks of a work item before the next: stay in L1
WORK_ITEMS = 8  # at least, if there are so many panels: an even share for each thread


class Windows(NamedTuple):
    """Which numbers each output pixel meets, in a tile of some images.

    images : how many images are in a tile
    offsets : (pixels, taps) int32, how far into the tile each tap begins; -1 is padding
    taps : (taps,) which rows of the filters, as (R * S, C/G, O), these taps are
    """

    images: int
    offsets: Array
    taps: Array


class Blocks(NamedTuple):
    """`Windows` in the order of `multiply_rows`: by blocks of ROWS pixels, the last of which may be part empty.

    sources : (blocks, taps, ROWS) int32, how far into the tile each tap begins; -1 is padding or no pixel
    targets : (blocks, ROWS) int32, how far into the tile's output the pixel begins; -1 is no pixel
    """

    images: int
    sources: Array
    targets: Array
    taps: Array


def in_blocks(windows: Windows, targets: Array) -> Blocks:
    """Cut windows into blocks; ``targets`` (pixels,) tell how far into the tile's output each pixel begins."""
    pixels, taps = windows.offsets.shape
    missing = -pixels % ROWS
    sources = np.pad(windows.offsets, ((0, missing), (0, 0)), constant_values=-1).reshape(-1, ROWS, taps)
    targets = np.pad(targets, (0, missing), constant_values=-1).reshape(-1, ROWS)
    return Blocks(windows.images, np.ascontiguousarray(sources.swapaxes(1, 2)), targets, windows.taps)


def multiply(x: Array, filters: Array, blocks: Blocks, y: Array, epilogue: Epilogue) -> None:
    """Write the products of the blocks' numbers in x (N, ...) with `pack_filters` to y (N, ..., channels)."""
    groups, panels, rows, _ = filters.shape
    count, taps, _ = blocks.sources.shape
    depth = rows // taps
    tiles = len(x) // blocks.images
    spans = min(count, -(-count * ROWS * (depth + y.shape[-1]) * x.itemsize // SPAN_BYTES))  # of blocks
    shares = min(groups * panels, -(-WORK_ITEMS * get_num_threads() // (tiles * spans)))  # of panels
    arguments = (
        *(tiles, spans, shares, x.reshape(-1), x.size // tiles, np.zeros(depth, x.dtype), blocks.sources),
        *(filters, panel_width(1, x.dtype), y.shape[-1] // groups, y.reshape(-1), y.size // tiles, blocks.targets),
    )
    launch(_multiply_items, tiles * spans * shares, tiles * count * ROWS * rows * y.shape[-1], *arguments, *epilogue)


@kernel
def _multiply_items(
    start,
    stop,
    tiles,
    spans,
    shares,
    x,
    x_tile,
    zeros,
    sources,
    filters,
    lanes,
    columns,
    y,
    y_tile,
    targets,
    steps,
    bias,
    residual,
    floor,
):
    """A work item is a tile's span of blocks times a share of all panels: the blocks stay in cache for each panel.

    Where there are several shares, input and output are small, and it is the filters that come from memory: share after
    share, each thread reads its own.

    Panels too large for L1 are multiplied in portions: some taps, or where a single tap is too much, some of its depth.
    """
    blocks, taps, _ = sources.shape
    groups, panels, rows, width = filters.shape
    depth = zeros.size
    portions = (depth * width * x.itemsize + PANEL_BYTES - 1) // PANEL_BYTES  # of the depth of a tap
    depth_at_once = (depth + portions - 1) // portions
    taps_at_once = max(1, PANEL_BYTES // (depth * width * x.itemsize))
    sources, filters = sources.reshape(-1), filters.reshape(-1)
    part = np.empty(ROWS * width, y.dtype)  # a block that is not all wanted is computed here, then copied
    part_targets = (np.arange(ROWS) * width).astype(np.int32)
    for item in range(start, stop):
        share, tile_span = divmod(item, tiles * spans)
        tile, span = divmod(tile_span, spans)
        for index in range(groups * panels * share // shares, groups * panels * (share + 1) // shares):
            group, panel = divmod(index, panels)
            wanted = min(width, columns - panel * width)
            first_column = group * columns + panel * width
            y0 = tile * y_tile + first_column
            for portion in range((taps + taps_at_once - 1) // taps_at_once * portions):
                tap, k = portion // portions * taps_at_once, portion % portions * depth_at_once
                some, some_depth = min(taps_at_once, taps - tap), min(depth_at_once, depth - k)
                add, last = portion > 0, tap + some == taps and k + some_depth == depth
                x0, b0 = tile * x_tile + group * depth + k, (index * rows + tap * depth + k) * width
                c_steps = steps if last else NOTHING
                for block in range(blocks * span // spans, blocks * (span + 1) // spans):
                    s0 = (block * taps + tap) * ROWS
                    whole = wanted == width and targets[block, ROWS - 1] >= 0
                    c, c0, c_targets = (y, y0, targets[block]) if whole else (part, 0, part_targets)
                    c_add, end = whole and add, (c_steps if whole else NOTHING, bias, first_column, residual, floor)
                    if width == lanes:
                        multiply_rows_1(
                            x, x0, zeros, sources, s0, filters, b0, c, c0, c_targets, 0, some, some_depth, c_add, end
                        )
                    else:
                        multiply_rows_2(
                            x, x0, zeros, sources, s0, filters, b0, c, c0, c_targets, 0, some, some_depth, c_add, end
                        )
                    if not whole:
                        for i in range(ROWS):
                            if targets[block, i] >= 0:
                                for j in range(wanted):
                                    at = y0 + targets[block, i] + j
                                    total = part[i * width + j] + (y[at] if add else 0)
                                    added = residual[at] if c_steps == BIAS_AND_RESIDUAL else 0
                                    y[at] = finish(total, c_steps, bias[first_column + j], added, floor)
