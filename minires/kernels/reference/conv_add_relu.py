"""Convolution with what follows it in inference, once batch norm is folded into it: bias, residual and ReLU."""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.reference.conv import conv2d
from minires.kernels.reference.windows import channels_last


def conv2d_add_relu(
    x: Array,
    w: Array,
    bias: Array,
    residual: Array | None,
    relu: bool,
    geometry: Conv2dGeometry,
    kept: dict[str, Array] | None = None,
) -> Array:
    """y = relu(conv2d(x, w) + bias + residual); bias (O,), residual of the shape of y.

    A residual of None and ``relu=False`` leave that step out. ``kept``, if given, belongs to w: a compiled kernel keeps
    there what it makes of w alone, for the next call with the same w.
    """
    y = conv2d(x, w, geometry) + bias.reshape(1, -1, 1, 1)
    if residual is not None:
        y = y + residual
    if relu:
        y = array_module(y).maximum(y, 0)
    return channels_last(y)
