"""What convolution and pooling share: padded planes, and the slices of them that each kernel tap meets."""

from __future__ import annotations

from collections.abc import Iterator

from minires.device import Array, array_module
from minires.kernels.geometry import Pair
from minires.kernels.layout import from_nhwc

Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def taps(kernel_size: Pair, stride: Pair, dilation: Pair, output_size: Pair) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each kernel tap (i, j) with the rows and columns of the padded plane it meets, one per output pixel."""
    (r, s), (p, q) = kernel_size, output_size
    for i in range(r):
        top = i * dilation[0]
        rows = slice(top, top + (p - 1) * stride[0] + 1, stride[0])
        for j in range(s):
            left = j * dilation[1]
            yield i, j, rows, slice(left, left + (q - 1) * stride[1] + 1, stride[1])


def pad(x: Array, padding: Padding) -> Array:
    """Surround the planes of x (N, C, H, W) with zeros; x itself where there is nothing to add."""
    (top, bottom), (left, right) = padding
    if top == bottom == left == right == 0:
        return x
    n, c, h, w = x.shape
    padded = from_nhwc(array_module(x).zeros((n, top + h + bottom, left + w + right, c), x.dtype))
    crop(padded, padding, (h, w))[...] = x
    return padded


def crop(padded: Array, padding: Padding, size: Pair) -> Array:
    """Return the view of the (H, W) pixels inside the padding."""
    (top, _), (left, _) = padding
    return padded[:, :, top : top + size[0], left : left + size[1]]


def channels_last(x: Array) -> Array:
    """Return x (N, C, ...) with its channels innermost in memory, copied only if they are not."""
    xp = array_module(x)
    return xp.moveaxis(xp.ascontiguousarray(xp.moveaxis(x, 1, -1)), -1, 1)
