"""Convolution as a matrix product over patches.

`im2col` writes the patch under each output pixel as a column,

    columns[n, (c, r, s), (p, q)] = padded[n, c, p * stride + r * dilation, q * stride + s * dilation],

and then y = w @ columns. Both steps are linear, so the gradients are their transposes in reverse order:
dx = col2im(w^T @ dy) and dw = dy @ columns^T.

With G groups, the O/G output channels of a group meet only its own C/G input channels: one matrix product per
group, of depth K = C/G * R * S. matmul takes G as a batch axis.
"""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.layout import from_nhwc, from_rsio, to_rsio
from minires.kernels.reference.windows import channels_last, crop, pad, taps


def im2col(x: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W) -> (N, C * R * S, P * Q): the patch under each output pixel as a column.

    The layout is that of PyTorch's ``unfold``. Memory grows R * S-fold.
    """
    n, c, _, _ = geometry.input_shape
    r, s = geometry.weight_shape[2:]
    p, q = geometry.output_shape[2:]
    padded = pad(x, geometry.padding)
    columns = array_module(x).empty((n, c, r, s, p, q), x.dtype)
    for i, j, rows, cols in taps((r, s), geometry.stride, geometry.dilation, (p, q)):
        columns[:, :, i, j] = padded[:, :, rows, cols]  # (N, C, P, Q): what tap (i, j) meets at every position
    return columns.reshape(n, c * r * s, p * q)


def col2im(columns: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C * R * S, P * Q) -> (N, C, H, W): add every patch back where it came from.

    The transpose of `im2col` (not its inverse: a pixel that lies in k patches is counted k times).
    """
    n, c, h, w = geometry.input_shape
    r, s = geometry.weight_shape[2:]
    p, q = geometry.output_shape[2:]
    columns = columns.reshape(n, c, r, s, p, q)
    (top, bottom), (left, right) = geometry.padding
    padded = array_module(columns).zeros((n, top + h + bottom, left + w + right, c), columns.dtype)
    padded = from_nhwc(padded)
    for i, j, rows, cols in taps((r, s), geometry.stride, geometry.dilation, (p, q)):
        padded[:, :, rows, cols] += columns[:, :, i, j]
    return channels_last(crop(padded, geometry.padding, (h, w)))


def conv2d(x: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (O, C/G, R, S) -> (N, O, P, Q): y = w @ im2col(x), group by group."""
    n, o, p, q = geometry.output_shape
    g, k = geometry.groups, _depth(geometry)
    columns = im2col(x, geometry).reshape(n, g, k, p * q)
    w_matrix = w.reshape(g, o // g, k)
    y = array_module(x).matmul(columns.swapaxes(2, 3), w_matrix.swapaxes(1, 2))  # (N, G, PQ, O/G)
    y = y.swapaxes(1, 2).reshape(n, p, q, o)  # from (N, PQ, G, O/G)
    return channels_last(from_nhwc(y))


def conv2d_input_grad(dy: Array, w: Array, geometry: Conv2dGeometry) -> Array:
    """(N, O, P, Q), (O, C/G, R, S) -> (N, C, H, W): dx = col2im(w^T @ dy), the transpose of x -> y."""
    n, o, p, q = geometry.output_shape
    g, k = geometry.groups, _depth(geometry)
    w_matrix = w.reshape(g, o // g, k)
    columns = array_module(dy).matmul(w_matrix.swapaxes(1, 2), dy.reshape(n, g, o // g, p * q))  # (N, G, K, PQ)
    return col2im(columns.reshape(n, g * k, p * q), geometry)


def conv2d_weight_grad(x: Array, dy: Array, geometry: Conv2dGeometry) -> Array:
    """(N, C, H, W), (N, O, P, Q) -> (O, C/G, R, S): dw = dy @ im2col(x)^T, summed over images and pixels."""
    n, o, p, q = geometry.output_shape
    g, k = geometry.groups, _depth(geometry)
    columns = im2col(x, geometry).reshape(n, g, k, p * q)
    columns = columns.transpose(1, 0, 3, 2).reshape(g, n * p * q, k)
    dy_matrix = dy.reshape(n, g, o // g, p * q).transpose(1, 2, 0, 3).reshape(g, o // g, n * p * q)
    dw = array_module(x).matmul(dy_matrix, columns)  # (G, O/G, K)
    return from_rsio(to_rsio(dw.reshape(geometry.weight_shape)))


def _depth(geometry: Conv2dGeometry) -> int:
    """K = C/G * R * S: how many products are summed into one output pixel."""
    _, c, r, s = geometry.weight_shape
    return c * r * s
