"""im2col and col2im as ops: every patch of an image as a column, and columns added back into an image.

    columns[n, (c, r, s), (p, q)] = x[n, c, p*stride + r*dilation - padding, q*... + s*...]

A convolution is this and a matrix product: ``weight.reshape(O, -1) @ unfold(x, (R, S))``. `fold` is the transpose of
`unfold`, hence its derivative, and the other way round. It is not its inverse: a pixel that lies in k patches comes
back k times.
"""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.kernels import kernels_for
from minires.ops.geometry import (
    Conv2dGeometry,
    IntOrPair,
    as_batch,
    check_operands,
    pair,
    unfold_geometry,
)


class Unfold(Function):
    """x (N, C, H, W) -> columns (N, C*R*S, P*Q)."""

    def __init__(self, geometry: Conv2dGeometry):
        self.geometry = geometry

    def forward(self, x):
        return kernels_for(x).im2col(x, self.geometry)

    def backward(self, dcolumns):
        return Fold(self.geometry)(dcolumns)


class Fold(Function):
    """columns (N, C*R*S, P*Q) -> x (N, C, H, W), overlaps added."""

    def __init__(self, geometry: Conv2dGeometry):
        self.geometry = geometry

    def forward(self, columns):
        return kernels_for(columns).col2im(columns, self.geometry)

    def backward(self, dx):
        return Unfold(self.geometry)(dx)


def unfold(
    input: Tensor, kernel_size: IntOrPair, dilation: IntOrPair = 1, padding: IntOrPair = 0, stride: IntOrPair = 1
) -> Tensor:
    """Return the patches of each image as columns, as ``torch.nn.functional.unfold`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    kernel_size : int or (int, int): the size R x S of a patch
    dilation, stride : int or (int, int), positive
    padding : int or (int, int), not negative; padded pixels are zeros

    Returns
    -------
    Tensor (N, C * R * S, L) or (C * R * S, L): one column for each of the L = P * Q positions, row by row, with P and Q
    as in `conv2d`.

    Raises
    ------
    TypeError
        If the input is not a Tensor or a number not an integer.
    RuntimeError
        If shape, dtype or numbers do not fit together.
    """
    check_operands("unfold", input)
    x = as_batch("unfold", input)
    columns = Unfold(unfold_geometry("unfold", x.shape, kernel_size, dilation, padding, stride))(x)
    return columns if input.ndim == 4 else columns.reshape(columns.shape[1:])


def fold(
    input: Tensor,
    output_size: IntOrPair,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: IntOrPair = 0,
    stride: IntOrPair = 1,
) -> Tensor:
    """Add columns of patches into images, as ``torch.nn.functional.fold`` does.

    Parameters
    ----------
    input : Tensor (N, C * R * S, L) or (C * R * S, L) of floats; N may be 0
    output_size : int or (int, int): the size H x W of the images
    kernel_size, dilation, padding, stride : as in `unfold`

    Returns
    -------
    Tensor (N, C, H, W) or (C, H, W)

    Raises
    ------
    TypeError
        If the input is not a Tensor or a number not an integer.
    RuntimeError
        If the columns are not those of such images, or dtype or numbers do not fit.
    """
    check_operands("fold", input)
    if input.ndim not in (2, 3):
        raise RuntimeError(f"fold needs columns of shape (N, C * R * S, L) or (C * R * S, L), got shape {input.shape}")
    columns = input if input.ndim == 3 else input.reshape(1, *input.shape)
    output_size = pair("fold", "output_size", output_size, lengths=(2,))
    r, s = pair("fold", "kernel_size", kernel_size, lengths=(2,))
    n, depth, length = columns.shape
    if depth == 0 or depth % (r * s):
        raise RuntimeError(
            f"fold: columns of {depth} rows (shape {input.shape}) are no patches of {r} x {s} pixels: the rows must be "
            f"a multiple of {r * s}, one for each channel and pixel"
        )
    geometry = unfold_geometry("fold", (n, depth // (r * s), *output_size), (r, s), dilation, padding, stride)
    _, _, p, q = geometry.output_shape
    if length != p * q:
        raise RuntimeError(
            f"fold: images of {output_size[0]} x {output_size[1]} pixels have {p} * {q} = {p * q} patches, but the "
            f"input of shape {input.shape} has {length} columns: give the kernel_size, dilation, padding and stride of "
            "the unfold that made them"
        )
    x = Fold(geometry)(columns)
    return x if input.ndim == 3 else x.reshape(x.shape[1:])
