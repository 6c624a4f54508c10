"""Filters in the order in which a block of `microkernel` reads them: panels of as many columns as a block has."""

from __future__ import annotations

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.memory import empty
from minires.kernels.cpu.microkernel import VECTOR_BYTES, copy_vector

ROWS_AT_ONCE = 16  # copied to each panel: rows are read whole, a panel at a time would read them a cache line each


def panel_width(columns: int, dtype: np.dtype) -> int:
    """Return how many columns a block has, for a matrix of ``columns``: one vector of them or two."""
    lanes = VECTOR_BYTES // dtype.itemsize
    return lanes if columns <= lanes else 2 * lanes


def pack_filters(filters: Array, taps: Array, groups: int, transposed: bool = False) -> Array:
    """(R * S, C/G, O) -> (G, panels, taps * depth, width): a matrix a group, in panels of columns; zeros fill the last.

    Depth runs over input channels and columns over output channels, or the other way round if ``transposed``.
    """
    _, c, o = filters.shape
    o //= groups
    depth, columns = (o, c) if transposed else (c, o)
    width = panel_width(columns, filters.dtype)
    packed = empty((groups, -(-columns // width), len(taps) * depth, width), filters.dtype)
    taps = np.ascontiguousarray(taps)
    if transposed:
        items = len(packed) * packed.shape[1] * len(taps)
        launch(_transpose_to_panels, items, packed.size, filters, taps, depth, columns, packed)
    else:
        items = len(packed) * len(taps) * -(-depth // ROWS_AT_ONCE)
        launch(_copy_to_panels, items, packed.size, filters, taps, depth, columns, packed)
    return packed


@kernel
def _copy_to_panels(start, stop, filters, taps, depth, columns, packed):
    """Some rows of a tap to all panels, for rows ``start`` to ``stop``, counted in chunks through taps and groups."""
    _, _, o = filters.shape
    _, panels, rows, width = packed.shape
    lanes = VECTOR_BYTES // packed.itemsize
    source, target = filters.reshape(-1), packed.reshape(-1)
    chunks = (depth + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE
    for item in range(start, stop):
        index, chunk = divmod(item, chunks)
        group, t = divmod(index, taps.size)
        for panel in range(panels):
            first, wanted = panel * width, min(width, columns - panel * width)
            for k in range(chunk * ROWS_AT_ONCE, min((chunk + 1) * ROWS_AT_ONCE, depth)):
                row = (taps[t] * depth + k) * o + group * columns + first
                to = ((group * panels + panel) * rows + t * depth + k) * width
                for j in range(0, wanted - lanes + 1, lanes):
                    copy_vector(source, row + j, target, to + j)
                for j in range(wanted // lanes * lanes, width):
                    target[to + j] = source[row + j] if j < wanted else 0


@kernel
def _transpose_to_panels(start, stop, filters, taps, depth, columns, packed):
    """Taps ``start`` to ``stop`` of the panels, counted through panels and groups."""
    _, panels, _, width = packed.shape
    for item in range(start, stop):
        index, t = divmod(item, taps.size)
        group, panel = divmod(index, panels)
        rows = packed[group, panel, t * depth : (t + 1) * depth]
        first, wanted = panel * width, min(width, columns - panel * width)
        if wanted < width:
            rows[:] = 0
        for begin in range(0, depth, ROWS_AT_ONCE):  # a cache line of each column: columns fall on the same sets of L1
            end = min(begin + ROWS_AT_ONCE, depth)
            for j in range(wanted):
                source = filters[taps[t], first + j]
                for k in range(begin, end):
                    rows[k, j] = source[group * depth + k]
