"""Convolution and its two gradients as matrix products over patches, some images at a time.

The patches of as many images as stay in L2 are written out, multiplied and forgotten. Where every pixel is its own
patch, as in most layers of a bottleneck ResNet, nothing is written out at all; nor where each channel has a filter of
its own (`depthwise`).

            matrices (rows, columns) of a group, K = R * S * C/G, M pixels
    y       patches (M, K) by filters (K, O/G)
    dx      from the patches (M, K) = dy (M, O/G) by filters^T
    dw      patches^T (K, M) by dy (M, O/G), summed over the images in their order
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minires.device import Array
from minires.kernels.cuda import depthwise
from minires.kernels.cuda.blas import Matrices
from minires.kernels.cuda.launch import backend, launch_over, named, vector_width, zeros
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.layout import from_nhwc, from_rsio, to_nhwc, to_rsio

PATCH_BYTES = 1 << 25  # of patches at once: they stay in the L2 of an H100, 50 MB, or in most of an A100's 40 MB


def conv2d(x: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (O, C/G, R, S) -> (N, O, P, Q); see the reference kernel of this name."""
    n, o, p, q = geometry.output_shape
    x, w = to_nhwc(x), to_rsio(w)
    if x.size == 0 or w.size == 0 or p * q == 0:
        return from_nhwc(zeros((n, p, q, o), x.dtype))
    y = backend().empty((n, p, q, o), x.dtype)
    if depthwise.is_depthwise(geometry):
        depthwise.multiply(x, w, y, geometry)
        return from_nhwc(y)
    groups, depth = geometry.groups, _depth(geometry)
    for images in _chunks(geometry, x.itemsize):
        rows = len(x[images]) * p * q
        patches = _patches(x[images], geometry)
        target = Matrices(y[images], o, o // groups)
        backend().blas().multiply(patches, _filters(w, geometry), target, (rows, o // groups, depth), groups)
    return from_nhwc(y)


def conv2d_input_grad(dy: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, O, P, Q), (O, C/G, R, S) -> (N, C, H, W); see the reference kernel of this name."""
    n, c, h, width = geometry.input_shape
    _, o, p, q = geometry.output_shape
    dy, w = to_nhwc(dy), to_rsio(w)
    if dy.size == 0 or w.size == 0:
        return from_nhwc(zeros((n, h, width, c), dy.dtype))
    dx = backend().empty((n, h, width, c), dy.dtype)
    if depthwise.is_depthwise(geometry):
        depthwise.input_grad(dy, w, dx, geometry)
        return from_nhwc(dx)
    groups, depth = geometry.groups, _depth(geometry)
    for images in _chunks(geometry, dy.itemsize):
        rows = len(dy[images]) * p * q
        if _is_pointwise(geometry):
            columns, target = None, Matrices(dx[images], c, c // groups)
        else:
            columns = backend().empty((groups, rows, depth), dy.dtype)
            target = Matrices(columns, depth, rows * depth)
        gradient = Matrices(dy[images], o, o // groups)
        filters = _filters(w, geometry, transposed=True)
        backend().blas().multiply(gradient, filters, target, (rows, depth, o // groups), groups)
        if columns is not None:
            part = dx[images]
            lanes = vector_width(c // groups, columns, part)
            sizes = _sizes(geometry, len(part))
            launch_over("conv", named("from_patches", part, lanes), part.size, lanes, columns, part, *sizes)
    return from_nhwc(dx)


def conv2d_weight_grad(x: Array, dy: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, R, S); see the reference kernel of this name."""
    o, c, r, s = geometry.weight_shape
    p, q = geometry.output_shape[2:]
    x, dy = to_nhwc(x), to_nhwc(dy)
    if x.size == 0 or dy.size == 0:
        return from_rsio(zeros((r, s, c, o), x.dtype))
    dw = backend().empty((r, s, c, o), x.dtype)
    if depthwise.is_depthwise(geometry):
        depthwise.weight_grad(x, dy, dw, geometry)
        return from_rsio(dw)
    groups, depth = geometry.groups, _depth(geometry)
    for number, images in enumerate(_chunks(geometry, x.itemsize)):
        rows = len(x[images]) * p * q
        patches = _patches(x[images], geometry, transposed=True)
        gradient, target = Matrices(dy[images], o, o // groups), Matrices(dw, o, o // groups)
        backend().blas().multiply(patches, gradient, target, (depth, o // groups, rows), groups, add=number > 0)
    return from_rsio(dw)


def _chunks(geometry: Conv2dGeometry, itemsize: int) -> Iterator[slice]:
    """Yield the images of each chunk: all of them where no patches are written out."""
    n, _, p, q = geometry.output_shape
    bytes_each = p * q * _depth(geometry) * geometry.groups * itemsize
    some = n if _is_pointwise(geometry) else max(1, PATCH_BYTES // bytes_each)
    for first in range(0, n, some):
        yield slice(first, first + some)


def _patches(x: Array, geometry: Conv2dGeometry, transposed: bool = False) -> Matrices:
    """(N, H, W, C) -> the patches under N * P * Q output pixels, a matrix for each group."""
    c, groups, depth = x.shape[3], geometry.groups, _depth(geometry)
    if _is_pointwise(geometry):
        return Matrices(x, c, c // groups, transposed)
    p, q = geometry.output_shape[2:]
    columns = backend().empty((groups, len(x) * p * q, depth), x.dtype)
    lanes = vector_width(c // groups, x, columns)
    sizes = _sizes(geometry, len(x))
    launch_over("conv", named("patches", x, lanes), columns.size, lanes, x, columns, *sizes)
    return Matrices(columns, depth, columns.size // groups, transposed)


def _filters(w: Array, geometry: Conv2dGeometry, transposed: bool = False) -> Matrices:
    """(R, S, C/G, O) -> a matrix (R * S * C/G, O/G) for each group, side by side."""
    o = w.shape[3]
    return Matrices(w, o, o // geometry.groups, transposed)


def _sizes(geometry: Conv2dGeometry, images: int) -> tuple[int | np.int64, ...]:
    """What both kernels of conv.cu take between the arrays and the size."""
    _, c, h, w = geometry.input_shape
    (top, _), (left, _) = geometry.padding
    _, group_channels, r, s = geometry.weight_shape
    window = *geometry.output_shape[2:], r, s, *geometry.stride, top, left, *geometry.dilation
    return h, w, c, group_channels, *window, np.int64(images)


def _is_pointwise(geometry: Conv2dGeometry) -> bool:
    """Tell whether every pixel is its own patch: 1x1 filters, stride 1, no padding."""
    return (
        geometry.weight_shape[2:] == (1, 1)
        and geometry.stride == (1, 1)
        and not any(pad for pads in geometry.padding for pad in pads)
    )


def _depth(geometry: Conv2dGeometry) -> int:
    """K = R * S * C/G: how many products are summed into one output pixel."""
    _, c, r, s = geometry.weight_shape
    return c * r * s
