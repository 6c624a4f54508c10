"""2-D average pooling: the sum over each window, divided by how many pixels it counts.

The sum is linear. Its transpose lets every pixel collect the gradients of the windows it lies in, and each of the
two is the derivative of the other. Only the divisor knows about padding: a constant for each window position.
"""

from __future__ import annotations

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import module_for
from minires.kernels import kernels_for
from minires.ops.autocast import rounds_once
from minires.ops.geometry import (
    IntOrPair,
    Pool2dGeometry,
    as_batch,
    check_operands,
    checked_int,
    pool2d_geometry,
    unbatched,
)


class SumPool2d(Function):
    """x (N, C, H, W) -> y (N, C, P, Q), the sum over each window."""

    def __init__(self, geometry: Pool2dGeometry):
        self.geometry = geometry

    def forward(self, x):
        return kernels_for(x).sum_pool2d(x, self.geometry)

    def backward(self, dy):
        return SumPool2dInputGrad(self.geometry)(dy)


class SumPool2dInputGrad(Function):
    """dy -> dx, the transpose."""

    def __init__(self, geometry: Pool2dGeometry):
        self.geometry = geometry

    def forward(self, dy):
        return kernels_for(dy).sum_pool2d_input_grad(dy, self.geometry)

    def backward(self, ddx):
        return SumPool2d(self.geometry)(ddx)


@rounds_once
def avg_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean over windows of each plane, as ``torch.nn.functional.avg_pool2d`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) or (C, H, W) of floats; N may be 0
    kernel_size : int or (int, int), positive
    stride : the same; the kernel size if left out
    padding : int or (int, int), at most half of the kernel size; padded pixels are zeros
    ceil_mode : also count a last window that reaches beyond the padded input; what lies beyond is never counted
    count_include_pad : whether padded pixels count in the mean
    divisor_override : divide every sum by this instead; not 0

    Returns
    -------
    Tensor (N, C, P, Q) with P = (H + 2 * padding - kernel) / stride + 1, rounded down (up with ``ceil_mode``), Q alike.

    Raises
    ------
    TypeError
        If the input is not a Tensor or a number not an integer.
    RuntimeError
        If shape, dtype or numbers do not fit together.
    """
    check_operands("avg_pool2d", input)
    x = as_batch("avg_pool2d", input)
    geometry = pool2d_geometry("avg_pool2d", x.shape, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None and checked_int("avg_pool2d", "divisor_override", divisor_override) == 0:
        raise RuntimeError("avg_pool2d: divisor_override must not be 0: leave it out to divide by the window's size")
    divisor = _divisor(geometry, count_include_pad) if divisor_override is None else divisor_override
    if isinstance(divisor, np.ndarray):
        return unbatched(SumPool2d(geometry)(x) / Tensor(module_for(x.device).asarray(divisor, x.dtype)), input)
    return unbatched(SumPool2d(geometry)(x) / divisor, input)


def _divisor(geometry: Pool2dGeometry, count_include_pad: bool) -> int | np.ndarray:
    """How many pixels each window counts: one number where all agree, else an array (P, Q)."""
    counts = []
    for size, kernel, stride, padding, outputs in zip(
        geometry.input_shape[2:],
        geometry.kernel_size,
        geometry.stride,
        geometry.padding,
        geometry.output_size,
        strict=True,
    ):
        start = np.arange(outputs) * stride - padding
        end = np.minimum(start + kernel, size + padding)
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, size)
        counts.append(end - start)
    divisor = np.outer(*counts)
    first = int(divisor[0, 0])
    return first if (divisor == first).all() else divisor
