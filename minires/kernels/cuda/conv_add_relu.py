"""Convolution with what follows it in inference: bias, residual and ReLU, in one pass in place over its output."""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.cuda.conv import conv2d
from minires.kernels.cuda.launch import launch_over, named, vector_width
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.layout import to_nhwc


def conv2d_add_relu(
    x: Array,
    w: Array,
    bias: Array,
    residual: Array | None,
    relu: bool,
    geometry: Conv2dGeometry,
    kept: dict[str, Array] | None = None,
) -> Array:
    """y = relu(conv2d(x, w) + bias + residual); see the reference kernel of this name."""
    y = conv2d(x, w, geometry)
    flat = to_nhwc(y)  # the memory of y, which lies channels-last
    bias, added = array_module(bias).ascontiguousarray(bias), None if residual is None else to_nhwc(residual)
    width = vector_width(len(bias), flat, bias, added)
    launch_over(
        "elementwise", named("add_bias_relu", y, width), y.size, width, flat, bias, added, bool(relu), len(bias)
    )
    return y
