"""Convolution of each channel with a filter of its own: groups of one channel in and one out.

There is nothing to share between channels, so no matrix product to make of it. Every output pixel, every input pixel in
the gradient, gathers its taps with all channels side by side; the weight gradient is summed in parts that are joined in
their order.
"""

from __future__ import annotations

import numpy as np

from minires.device import Array
from minires.kernels.cuda.launch import backend, launch, launch_over, named, vector_width
from minires.kernels.cuda.reduction import join_parts
from minires.kernels.geometry import Conv2dGeometry

LANES, TEAMS = 32, 8  # of a block, as in depthwise.cu
BLOCKS = 1 << 11  # twice what an H100 holds at once
STEP = 32  # pixels that a block takes at once


def is_depthwise(geometry: Conv2dGeometry) -> bool:
    """Tell whether each channel has one filter of its own."""
    o, c, _, _ = geometry.weight_shape
    return c == 1 and o == geometry.groups


def multiply(x: Array, w: Array, y: Array, geometry: Conv2dGeometry) -> None:
    """(N, H, W, C), (R, S, 1, C) -> (N, P, Q, C)."""
    _gather("depthwise", x, w, y, geometry)


def input_grad(dy: Array, w: Array, dx: Array, geometry: Conv2dGeometry) -> None:
    """(N, P, Q, C), (R, S, 1, C) -> (N, H, W, C)."""
    _gather("depthwise_input_grad", dy, w, dx, geometry)


def weight_grad(x: Array, dy: Array, dw: Array, geometry: Conv2dGeometry) -> None:
    """(N, H, W, C), (N, P, Q, C) -> (R, S, 1, C)."""
    channels, pixels = dw.shape[3], dy.size // dw.shape[3]
    taps = dw.size // channels
    width = vector_width(channels, x, dy)
    across = -(-channels // (LANES * width))
    share = -(-pixels // max(1, BLOCKS // (taps * across)))
    share += -share % STEP
    chunks = -(-pixels // share)
    parts = backend().empty((chunks, taps, channels), np.float64)
    sizes = *_sizes(geometry), across, np.int64(share), np.int64(pixels)
    kernel = named("depthwise_weight_grad", x, width)
    launch("depthwise", kernel, (chunks * taps * across,), (LANES, TEAMS), x, dy, parts, *sizes)
    join_parts(parts, dw, chunks, dw.size)


def _gather(kernel: str, source: Array, w: Array, target: Array, geometry: Conv2dGeometry) -> None:
    width = vector_width(w.shape[3], source, w, target)
    arguments = source, w, target, *_sizes(geometry)
    launch_over("depthwise", named(kernel, target, width), target.size, width, *arguments)


def _sizes(geometry: Conv2dGeometry) -> tuple[int, ...]:
    """What the kernels of depthwise.cu take between the arrays and what differs."""
    _, c, h, w = geometry.input_shape
    (top, _), (left, _) = geometry.padding
    window = *geometry.weight_shape[2:], *geometry.stride, top, left, *geometry.dilation
    return h, w, c, *geometry.output_shape[2:], *window
