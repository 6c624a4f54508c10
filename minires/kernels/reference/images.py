"""Images of bytes to floats: cut out, mirrored, and each byte replaced by the number that stands for it."""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.geometry import Pair
from minires.kernels.layout import from_nhwc


def crop_flip_normalize(images: Array, values: Array, crops: Array, size: Pair, fill: int) -> Array:
    """uint8 (N, C, H, W) -> (N, C, height, width) of ``size``, in the dtype of ``values``.

    ``values`` (C, 256) holds what each byte becomes in each channel, (byte / 255 - mean) / std for one. Row n of
    ``crops``, int32 (N, 3), is where image n is cut out, (top, left), and whether it is mirrored then, 0 or 1. What
    lies outside the image is ``fill``, a byte too.
    """
    xp = array_module(images)
    n, c, h, w = images.shape
    top, left, mirrored = crops.T[:, :, None]  # each (N, 1)
    across = xp.arange(size[1])
    rows = top + xp.arange(size[0])  # (N, height)
    columns = left + xp.where(mirrored != 0, size[1] - 1 - across, across)  # (N, width)
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    rows, columns = xp.clip(rows, 0, h - 1)[:, :, None], xp.clip(columns, 0, w - 1)[:, None]
    pixels = images.transpose(0, 2, 3, 1)[xp.arange(n)[:, None, None], rows, columns]  # (N, height, width, C)
    pixels = xp.where(inside[..., None], pixels, xp.uint8(fill))
    return from_nhwc(values[xp.arange(c), pixels])
