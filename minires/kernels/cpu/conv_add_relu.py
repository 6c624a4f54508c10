"""Convolution with what follows it in inference: bias, residual and ReLU, in one pass in place over its output.

In place matters: the pass reads and writes one array less than batch norm does, and takes about half its time.
"""

from __future__ import annotations

import math

import numpy as np

from minires.device import Array
from minires.kernels.cpu.conv import conv2d
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.layout import to_nhwc

ROW_NUMBERS = 256  # pixels of few channels are put together to rows of about so many, for the vector loops' sake


def conv2d_add_relu(
    x: Array, w: Array, bias: Array, residual: Array | None, relu: bool, geometry: Conv2dGeometry
) -> Array:
    """y = relu(conv2d(x, w) + bias + residual); see the reference kernel of this name."""
    y = conv2d(x, w, geometry)
    pixels, channels = y.size // len(bias), len(bias)
    fold = math.gcd(pixels, max(1, ROW_NUMBERS // channels))
    shape = (pixels // fold, fold * channels)
    added = np.empty((0, 0), y.dtype) if residual is None else to_nhwc(residual).reshape(shape)
    floor = y.dtype.type(0 if relu else -np.inf)
    rows = to_nhwc(y).reshape(shape)  # the memory of y, which lies channels-last
    launch(_add_and_clip, len(rows), 2 * rows.size, np.tile(bias, fold), added, floor, rows)
    return y


@kernel
def _add_and_clip(start, stop, bias, residual, floor, y):
    for i in range(start, stop):
        if residual.size == 0:
            for c in range(bias.size):
                value = y[i, c] + bias[c]
                y[i, c] = floor if value < floor else value  # in this form a NaN stays
        else:
            for c in range(bias.size):
                value = y[i, c] + bias[c] + residual[i, c]
                y[i, c] = floor if value < floor else value
