"""Filters in the order in which a block of `microkernel` reads them: panels of as many columns as a block has."""

from __future__ import annotations

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.memory import empty
from minires.kernels.cpu.microkernel import VECTOR_BYTES


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
    items = len(packed) * packed.shape[1] * len(taps)
    taps = np.ascontiguousarray(taps)
    launch(_pack_panels, items, packed.size, filters, taps, transposed, depth, columns, packed)
    return packed


@kernel
def _pack_panels(start, stop, filters, taps, transposed, depth, columns, packed):
    """Taps ``start`` to ``stop`` of the panels, counted through panels and groups."""
    _, panels, _, width = packed.shape
    for item in range(start, stop):
        index, t = divmod(item, taps.size)
        group, panel = divmod(index, panels)
        rows = packed[group, panel, t * depth : (t + 1) * depth]
        first, wanted = panel * width, min(width, columns - panel * width)
        if wanted < width:
            rows[:] = 0
        if transposed:
            source = filters[taps[t], first:, group * depth : (group + 1) * depth]
            for k in range(depth):
                for j in range(wanted):
                    rows[k, j] = source[j, k]
        else:
            source = filters[taps[t], :, group * columns + first :]
            for k in range(depth):
                for j in range(wanted):
                    rows[k, j] = source[k, j]
