"""2-D max pooling, and the scatter and gather that are its derivatives.

    y[n, c, p, q] = max over the window (p, q) of x[n, c],     at flat position index[n, c, p, q] of the H x W plane

Once the winners are known the map is linear: it gathers the pixels at ``index``. Its transpose scatters dy back to
them, adding where a pixel won in several windows. Each of the two is the derivative of the other.

Conventions, measured on PyTorch: padding never wins; among equals the first in row order wins; a NaN beats every
number, and a later NaN an earlier one.
"""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.kernels import kernels_for
from minires.ops.geometry import IntOrPair, Pool2dGeometry, as_batch, check_operands, pool2d_geometry, unbatched


class MaxPool2d(Function):
    """x -> (y, index); x (N, C, H, W), y and index (N, C, P, Q), index int64."""

    def __init__(self, geometry: Pool2dGeometry):
        self.geometry = geometry

    def forward(self, x):
        y, index = kernels_for(x).max_pool2d(x, self.geometry)
        self.save(index)
        return y, index

    def backward(self, dy, _):
        (index,) = self.saved
        return ScatterPlanes(self.geometry.input_shape)(dy, index)


class ScatterPlanes(Function):
    """(dy, index) -> dx: zeros (N, C, H, W) with dy (N, C, P, Q) added at the flat positions ``index``."""

    def __init__(self, input_shape: tuple[int, ...]):
        self.input_shape = input_shape

    def forward(self, dy, index):
        self.save(index)
        return kernels_for(dy).max_pool2d_input_grad(dy, index, self.input_shape)

    def backward(self, ddx):
        (index,) = self.saved
        return GatherPlanes()(ddx, index), None


class GatherPlanes(Function):
    """(x, index) -> y: the pixels of x (N, C, H, W) at the flat positions ``index`` (N, C, P, Q) of each plane."""

    def forward(self, x, index):
        self.save(index)
        return kernels_for(x).gather_planes(x, index)

    def backward(self, dy):
        (index,) = self.saved
        return ScatterPlanes(self.input_shapes[0])(dy, index), None


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum over windows of each plane, as ``torch.nn.functional.max_pool2d`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    kernel_size, dilation : int or (int, int), positive
    stride : the same; the kernel size if left out
    padding : int or (int, int), at most half of the kernel size; padded pixels never win
    ceil_mode : also count a last window that reaches beyond the padded input
    return_indices : also return where each maximum was

    Returns
    -------
    Tensor (N, C, P, Q) with P = (H + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1, rounded down (up with
    ``ceil_mode``), and Q alike; with ``return_indices`` also an int64 Tensor of that shape, positions in the flat
    H * W plane.

    Raises
    ------
    TypeError
        If the input is not a Tensor or a number not an integer.
    RuntimeError
        If shape, dtype or numbers do not fit together.

    Examples
    --------
    >>> x = minires.tensor([[[1.0, 3.0], [2.0, 0.0]]], requires_grad=True)
    >>> max_pool2d(x, 2).backward()
    >>> x.grad.numpy()[0]  # the winner takes it all
    array([[0., 1.],
           [0., 0.]], dtype=float32)
    """
    check_operands("max_pool2d", input)
    x = as_batch("max_pool2d", input)
    geometry = pool2d_geometry("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    y, index = MaxPool2d(geometry)(x)
    return (unbatched(y, input), unbatched(index, input)) if return_indices else unbatched(y, input)
