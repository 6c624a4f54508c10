"""Tables of which pixels a window meets, so that compiled loops need know nothing of stride, padding and dilation."""

from __future__ import annotations

import numpy as np

from minires.device import Array


def window_table(size: int, taps: int, stride: int, padding: int, dilation: int, outputs: int) -> Array:
    """(outputs, taps): the pixel that each tap of each window meets along an axis of ``size``, -1 in the padding."""
    return _inside(np.arange(outputs)[:, None] * stride + np.arange(taps) * dilation - padding, size)


def transposed_window_table(size: int, taps: Array, stride: int, padding: int, dilation: int, pixels: Array) -> Array:
    """(pixels, taps): the window, of ``size`` many, that meets each pixel with each tap; -1 if there is none.

    All pixels and taps given must agree modulo the stride: pixel + padding - tap * dilation is a multiple of it.
    """
    return _inside((pixels[:, None] + padding - taps * dilation) // stride, size)


def tile_offsets(images: int, rows: Array, columns: Array, shape: tuple[int, int, int]) -> Array:
    """(P, R), (Q, S) -> (images * P * Q, R * S): where in a tile of images (H, W, C) each tap begins, or -1."""
    h, w, c = shape
    image = np.arange(images).reshape(-1, 1, 1, 1, 1)
    row, column = rows[:, None, :, None], columns[None, :, None, :]
    offsets = np.where((row >= 0) & (column >= 0), ((image * h + row) * w + column) * c, -1)
    return offsets.astype(np.int32).reshape(-1, rows.shape[1] * columns.shape[1])


def _inside(table: Array, size: int) -> Array:
    return np.where((table >= 0) & (table < size), table, -1)
