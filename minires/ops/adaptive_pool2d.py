"""2-D pooling to a given output size: P x Q windows that cover the plane, whatever its size.

Window p spans the rows floor(p * H / P) to ceil((p + 1) * H / P), and the columns alike. Neighbours overlap where P
does not divide H. With an output size of 1 the mean is the global average pooling at the end of a ResNet.
"""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.kernels import kernels_for
from minires.ops.geometry import (
    IntOrPair,
    Pair,
    adaptive_output_size,
    as_batch,
    check_operands,
    checked_planes,
    unbatched,
)
from minires.ops.max_pool2d import ScatterPlanes

OutputSize = IntOrPair | tuple[int | None, int | None]


class AdaptiveAvgPool2d(Function):
    """x (N, C, H, W) -> y (N, C, P, Q), the mean of each window."""

    def __init__(self, output_size: Pair):
        self.output_size = output_size

    def forward(self, x):
        return kernels_for(x).adaptive_avg_pool2d(x, self.output_size)

    def backward(self, dy):
        return AdaptiveAvgPool2dInputGrad(self.input_shapes[0])(dy)


class AdaptiveAvgPool2dInputGrad(Function):
    """dy -> dx, the transpose: each window spreads its gradient evenly over its pixels."""

    def __init__(self, input_shape: tuple[int, ...]):
        self.input_shape = input_shape

    def forward(self, dy):
        return kernels_for(dy).adaptive_avg_pool2d_input_grad(dy, self.input_shape)

    def backward(self, ddx):
        _, _, p, q = self.input_shapes[0]
        return AdaptiveAvgPool2d((p, q))(ddx)


class AdaptiveMaxPool2d(Function):
    """x -> (y, index), the maximum of each window and its flat position; conventions as in `max_pool2d`."""

    def __init__(self, output_size: Pair):
        self.output_size = output_size

    def forward(self, x):
        y, index = kernels_for(x).adaptive_max_pool2d(x, self.output_size)
        self.save(index)
        return y, index

    def backward(self, dy, _):
        (index,) = self.saved
        return ScatterPlanes(self.input_shapes[0])(dy, index)


def adaptive_avg_pool2d(input: Tensor, output_size: OutputSize) -> Tensor:
    """Return the mean over P x Q windows that cover each plane, as ``torch.nn.functional.adaptive_avg_pool2d`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    output_size : int or (int, int), positive; None in the pair keeps that size of the input

    Returns
    -------
    Tensor (N, C, P, Q) or (C, P, Q)

    Raises
    ------
    TypeError
        If the input is not a Tensor or a size neither an integer nor None.
    RuntimeError
        If shape, dtype or sizes do not fit.
    """
    check_operands("adaptive_avg_pool2d", input)
    x = as_batch("adaptive_avg_pool2d", input)
    checked_planes("adaptive_avg_pool2d", x.shape, channels_may_be_zero=True)
    size = adaptive_output_size("adaptive_avg_pool2d", output_size, x.shape)
    return unbatched(AdaptiveAvgPool2d(size)(x), input)


def adaptive_max_pool2d(
    input: Tensor, output_size: OutputSize, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the maximum over P x Q windows that cover each plane, as ``torch.nn.functional.adaptive_max_pool2d`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    output_size : int or (int, int), positive; None in the pair keeps that size of the input
    return_indices : also return where each maximum was

    Returns
    -------
    Tensor (N, C, P, Q) or (C, P, Q); with ``return_indices`` also an int64 Tensor of that shape, positions in the flat
    H * W plane.

    Raises
    ------
    TypeError
        If the input is not a Tensor or a size neither an integer nor None.
    RuntimeError
        If shape, dtype or sizes do not fit.
    """
    check_operands("adaptive_max_pool2d", input)
    x = as_batch("adaptive_max_pool2d", input)
    checked_planes("adaptive_max_pool2d", x.shape)
    size = adaptive_output_size("adaptive_max_pool2d", output_size, x.shape)
    y, index = AdaptiveMaxPool2d(size)(x)
    return (unbatched(y, input), unbatched(index, input)) if return_indices else unbatched(y, input)
