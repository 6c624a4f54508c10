"""2-D convolution (cross-correlation) and its two gradients.

    y[n, o, p, q] = sum over c, r, s of  x[n, c, p*stride + r*dilation - padding, q*... + s*...] * w[o, c, r, s]

The map is linear in x and linear in w. So its gradients are two more bilinear maps of the same kind,

    dx = conv2d_input_grad(dy, w)       the transpose of x -> y (a transposed convolution)
    dw = conv2d_weight_grad(x, dy)      every output gradient times the patch it came from

and the derivatives of each of the three are the other two. That closes the family: any order of differentiation
needs no further formula. Only x and w are kept for the backward pass; the columns of im2col are never stored.
"""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.kernels import kernels_for
from minires.ops.autocast import computes_in_half, rounds_once
from minires.ops.geometry import Conv2dGeometry, IntOrPair, as_batch, check_operands, conv2d_geometry, unbatched


class Conv2d(Function):
    """(x, w) -> y; x (N, C, H, W), w (O, C/groups, R, S), y (N, O, P, Q)."""

    def __init__(self, geometry: Conv2dGeometry):
        self.geometry = geometry

    def forward(self, x, w):
        self.save(x if self.needs_grad[1] else None, w if self.needs_grad[0] else None)
        return kernels_for(x).conv2d(x, w, self.geometry)

    def backward(self, dy):
        x, w = self.saved
        dw = Conv2dWeightGrad(self.geometry)(x, dy) if self.needs_grad[1] else None
        del x  # it may have been remade for this: its memory is then free for dx
        dx = Conv2dInputGrad(self.geometry)(dy, w) if self.needs_grad[0] else None
        return dx, dw


class Conv2dInputGrad(Function):
    """(dy, w) -> dx."""

    def __init__(self, geometry: Conv2dGeometry):
        self.geometry = geometry

    def forward(self, dy, w):
        self.save(dy if self.needs_grad[1] else None, w if self.needs_grad[0] else None)
        return kernels_for(dy).conv2d_input_grad(dy, w, self.geometry)

    def backward(self, ddx):
        dy, w = self.saved
        ddy = Conv2d(self.geometry)(ddx, w) if self.needs_grad[0] else None
        dw = Conv2dWeightGrad(self.geometry)(ddx, dy) if self.needs_grad[1] else None
        return ddy, dw


class Conv2dWeightGrad(Function):
    """(x, dy) -> dw."""

    def __init__(self, geometry: Conv2dGeometry):
        self.geometry = geometry

    def forward(self, x, dy):
        self.save(x if self.needs_grad[1] else None, dy if self.needs_grad[0] else None)
        return kernels_for(x).conv2d_weight_grad(x, dy, self.geometry)

    def backward(self, ddw):
        x, dy = self.saved
        dx = Conv2dInputGrad(self.geometry)(dy, ddw) if self.needs_grad[0] else None
        ddy = Conv2d(self.geometry)(x, ddw) if self.needs_grad[1] else None
        return dx, ddy


@computes_in_half
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve a batch of images with a bank of filters, as ``torch.nn.functional.conv2d`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    weight : Tensor (O, C / groups, R, S) of the same dtype
    bias : Tensor (O,) of the same dtype, optional
    stride, dilation : int or (int, int), positive
    padding : int or (int, int), not negative; or "valid" for none, or "same" (stride 1 only) for P = H, Q = W, where an
        odd pixel of padding goes to the bottom or the right
    groups : int dividing both C and O

    Returns
    -------
    Tensor (N, O, P, Q) with P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1, and Q alike.

    Raises
    ------
    TypeError
        If an operand is not a Tensor or a number not an integer.
    RuntimeError
        If shapes, dtypes or numbers do not fit together; the message gives them and says what to change.

    Examples
    --------
    >>> x = minires.ones(1, 1, 3, 3, requires_grad=True)
    >>> conv2d(x, minires.ones(1, 1, 2, 2)).sum().backward()
    >>> x.grad.numpy()[0, 0]  # how many windows each pixel lies in
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]], dtype=float32)
    """
    check_operands("conv2d", input, bias, weight=weight)
    x = as_batch("conv2d", input)
    geometry = conv2d_geometry(x.shape, weight.shape, stride, padding, dilation, groups)
    check_bias("conv2d", bias, geometry.weight_shape[0])
    return unbatched(convolved(Conv2d(geometry), x, weight, bias), input)


def check_bias(op: str, bias: Tensor | None, channels: int) -> None:
    """Refuse a bias that is not one number for each output channel.

    Raises
    ------
    RuntimeError
        If its shape is another.
    """
    if bias is not None and bias.shape != (channels,):
        raise RuntimeError(
            f"{op}: the bias needs one number for each of the {channels} output channels, shape ({channels},), "
            f"got shape {bias.shape}"
        )


def convolved(function: Function, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """Return function(x, w), with one number added to each channel of it unless ``bias`` is None."""
    if bias is None:
        return function(x, w)
    # In 16 bits a GPU multiplies faster, and rounds before the bias is added; the CPU computes in float32 anyway.
    return (_biased if x.is_cuda else _biased_rounding_once)(function, x, w, bias)


def _biased(function: Function, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return function(x, w) + bias.reshape(1, -1, 1, 1)


_biased_rounding_once = rounds_once(_biased)
