"""2-D transposed convolution: the map from y back to the shape of x in ``y = conv2d(x, w)``.

    out[n, o, p*stride + r*dilation - padding, q*... + s*...]  +=  x[n, c, p, q] * w[c, o, r, s]

Every input pixel stamps the filter, scaled, on the output. That is the input gradient of a convolution and no new map:
its forward is `Conv2dInputGrad`, whose derivatives are conv2d and its weight gradient (Zeiler et al., "Deconvolutional
Networks", 2010; Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4).
"""

from __future__ import annotations

from minires.autograd import Tensor
from minires.ops.autocast import computes_in_half
from minires.ops.conv2d import Conv2dInputGrad, check_bias, convolved
from minires.ops.geometry import IntOrPair, as_batch, check_operands, conv_transpose2d_geometry, unbatched
from minires.ops.pad import pad


@computes_in_half
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """Apply the transpose of a convolution, as ``torch.nn.functional.conv_transpose2d`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    weight : Tensor (C, O / groups, R, S) of the same dtype
    bias : Tensor (O,) of the same dtype, optional
    stride, dilation : int or (int, int), positive
    padding : int or (int, int), not negative: how much is cut off each side of the output
    output_padding : int or (int, int), less than the stride or the dilation: rows and columns more at the end, to tell
        apart the input sizes that a strided convolution brings to one output size
    groups : int dividing both C and O

    Returns
    -------
    Tensor (N, O, P, Q) with P = (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1, Q alike.

    Raises
    ------
    TypeError
        If an operand is not a Tensor or a number not an integer.
    RuntimeError
        If shapes, dtypes or numbers do not fit together; the message gives them and says what to change.
    """
    check_operands("conv_transpose2d", input, bias, weight=weight)
    x = as_batch("conv_transpose2d", input)
    geometry = conv_transpose2d_geometry(x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    check_bias("conv_transpose2d", bias, geometry.input_shape[1])
    if x.shape != geometry.output_shape:  # output_padding leaves room for more windows: they stamp nothing
        rows, cols = (places - size for places, size in zip(geometry.output_shape[2:], x.shape[2:], strict=True))
        x = pad(x, (0, cols, 0, rows))
    return unbatched(convolved(Conv2dInputGrad(geometry), x, weight, bias), input)
