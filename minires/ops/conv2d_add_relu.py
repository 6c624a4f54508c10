"""Convolution, bias, residual add and ReLU as one operation: what is left of a ResNet's layer in inference.

    z = conv2d(x, w) + bias + residual        y = relu(z) or z

and backward, with dz = dy where y > 0 (all of dy without the activation):

    dx, dw : the gradients of conv2d at dz        dbias = sum dz        dresidual = dz
"""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.device import Array
from minires.kernels import kernels_for
from minires.ops.activation import relu
from minires.ops.autocast import computes_in_half
from minires.ops.batch_norm import check_residual
from minires.ops.conv2d import Conv2dInputGrad, Conv2dWeightGrad, check_bias, conv2d
from minires.ops.fusion import is_fused
from minires.ops.geometry import Conv2dGeometry, IntOrPair, check_operands, conv2d_geometry
from minires.ops.where import where


class Conv2dAddRelu(Function):
    """(x, w, bias, residual) -> y; the residual may be None."""

    def __init__(self, geometry: Conv2dGeometry, activation: str | None, kept: dict[str, Array] | None):
        self.geometry = geometry
        self.activation = activation
        self.kept = kept

    def forward(self, x, w, bias, residual):
        relu = self.activation == "relu"
        y = kernels_for(x).conv2d_add_relu(x, w, bias, residual, relu, self.geometry, self.kept)
        self.save(x if self.needs_grad[1] else None, w if self.needs_grad[0] else None, y if self.activation else None)
        return y

    def backward(self, dy):
        x, w, y = self.saved
        dz = dy if y is None else where(y <= 0, 0.0, dy)
        return (
            Conv2dInputGrad(self.geometry)(dz, w) if self.needs_grad[0] else None,
            Conv2dWeightGrad(self.geometry)(x, dz) if self.needs_grad[1] else None,
            dz.sum((0, 2, 3)) if self.needs_grad[2] else None,
            dz if self.needs_grad[3] else None,
        )


@computes_in_half
def conv2d_add_relu(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    kept: dict[str, Array] | None = None,
) -> Tensor:
    """Convolve, then add ``bias`` and ``residual`` and apply ``activation``, in one pass.

    Parameters
    ----------
    input, weight, stride, padding, dilation, groups : see `minires.nn.functional.conv2d`; images come in a batch
    bias : Tensor (O,)
    residual : Tensor of the shape of the output, optional
    activation : None or "relu"
    kept : a dictionary that belongs to these values of ``weight``, where kernels may keep what they make of them, to
        have it ready at the next call; optional

    Returns
    -------
    Tensor (N, O, P, Q).

    Raises
    ------
    TypeError
        If an operand is not a Tensor or a number not an integer.
    ValueError
        If the residual has another shape than the output, or there is no such activation.
    RuntimeError
        If shapes, dtypes or numbers do not fit together.
    """
    others = {"weight": weight} if residual is None else {"weight": weight, "residual": residual}
    check_operands("conv2d_add_relu", input, bias, **others)
    if input.ndim != 4:
        raise RuntimeError(f"conv2d_add_relu needs a batch of images (N, C, H, W), got shape {input.shape}")
    if activation not in (None, "relu"):
        raise ValueError(f'conv2d_add_relu: activation must be None or "relu", got {activation!r}')
    geometry = conv2d_geometry(input.shape, weight.shape, stride, padding, dilation, groups)
    check_bias("conv2d_add_relu", bias, geometry.weight_shape[0])
    if residual is not None:
        check_residual(geometry.output_shape, residual)
    if is_fused():
        return Conv2dAddRelu(geometry, activation, kept)(input, weight, bias, residual)
    out = conv2d(input, weight, bias, stride, padding, dilation, groups)
    if residual is not None:
        out = out + residual
    return relu(out) if activation == "relu" else out
