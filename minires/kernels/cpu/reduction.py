"""Sums over axes, in double precision, row after row as they lie in memory.

Rows are numbers next to each other that are kept. Short ones are put together to rows of at least WIDTH numbers, which
run in vector lanes; long ones are cut. Where neighbours are summed themselves, the lanes share a sum. Parts depend on
the shape alone, so that any number of threads gives the same bits.
"""

from __future__ import annotations

import numpy as np

from minires.device import Array
from minires.kernels import reference
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.memory import empty
from minires.kernels.layout import in_memory_order, reduce_axes

WIDTH, MOST = 256, 2048  # numbers in a row that is summed at once
PART = 1 << 16  # numbers to a part, at least
DOUBLE = np.dtype(np.float64)
LEAST = 1 << 13  # numbers: fewer are left to NumPy
MANY = 64  # sums of neighbours: enough for the threads to share


def sum_axes(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over axes, which are kept with length 1; see the reference kernel of this name."""
    dense, back = in_memory_order(x)
    if x.size < LEAST or x.dtype.kind != "f" or not dense.flags.c_contiguous:
        return reference.sum_axes(x, axes)
    return reduce_axes(dense, back, axes, _sum_middle).astype(x.dtype, copy=False)


def _sum_middle(x: Array, outer: int, length: int, inner: int) -> Array:
    """(outer, length, inner) -> (outer * inner,), in double precision."""
    if inner == 1 and outer >= MANY:
        y = empty((outer,), DOUBLE)
        launch(_sum_rows, outer, x.size, x.reshape(outer, length), y)
        return y
    together = max(1, WIDTH // inner)
    columns = min(inner, MOST) if together == 1 else inner
    rows, across = -(-length // together), -(-inner // columns)
    parts = max(1, min(rows, length * columns // PART))
    y = empty((outer, parts, inner), DOUBLE)
    launch(_sum_parts, outer * parts * across, x.size, x.reshape(-1), length, together, columns, rows, y)
    return y.reshape(-1) if parts == 1 else y.sum(axis=1).reshape(-1)


@kernel
def _sum_rows(start, stop, x, y):
    for row in range(start, stop):
        total, numbers = 0.0, x[row]
        for k in range(numbers.size):
            total += numbers[k]
        y[row] = total


@kernel
def _sum_parts(start, stop, x, length, together, columns, rows, y):
    """A work item is a part of the rows, for some columns of them, written to y (outer, parts, inner)."""
    _, parts, inner = y.shape
    across = (inner + columns - 1) // columns
    total = np.empty(together * columns)
    for item in range(start, stop):
        place, block = divmod(item, across)
        outer, part = divmod(place, parts)
        first = block * columns
        wanted = min(columns, inner - first)
        total[:] = 0
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            numbers = x[(outer * length + row * together) * inner + first :]
            count = min(together, length - row * together) * inner if together > 1 else wanted
            for c in range(count):
                total[c] += numbers[c]
        for c in range(wanted):
            y[outer, part, first + c] = total[c : together * columns : columns].sum()
