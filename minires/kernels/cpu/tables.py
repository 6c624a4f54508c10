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


def _inside(table: Array, size: int) -> Array:
    return np.where((table >= 0) & (table < size), table, -1)
