"""The kernels of `minires.kernels.reference`, compiled by Numba for the CPU.

Nothing is compiled at import. `im2col`, `col2im` and `gather_planes` are the reference's own: they are for looking at,
or for second derivatives, and mere copies of memory. So are `cast`, which NumPy does as well, and
`crop_flip_normalize`, which the transforms of images do not need on the CPU.
"""

from minires.kernels.cpu.conv import conv2d, conv2d_add_relu, conv2d_input_grad, conv2d_weight_grad
from minires.kernels.cpu.elementwise import add, erf, relu, relu_grad
from minires.kernels.cpu.matmul import linear, matmul
from minires.kernels.cpu.norm import batch_norm, batch_norm_grad, batch_norm_statistics
from minires.kernels.cpu.optim import step_tensors as step_tensors  # not in the readable ones
from minires.kernels.cpu.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_input_grad,
    adaptive_max_pool2d,
    max_pool2d,
    max_pool2d_input_grad,
    sum_pool2d,
    sum_pool2d_input_grad,
)
from minires.kernels.cpu.reduction import sum_axes
from minires.kernels.reference import cast, col2im, crop_flip_normalize, gather_planes, im2col

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_input_grad",
    "adaptive_max_pool2d",
    "add",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_statistics",
    "cast",
    "col2im",
    "conv2d",
    "conv2d_add_relu",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "crop_flip_normalize",
    "erf",
    "gather_planes",
    "im2col",
    "linear",
    "matmul",
    "max_pool2d",
    "max_pool2d_input_grad",
    "relu",
    "relu_grad",
    "sum_axes",
    "sum_pool2d",
    "sum_pool2d_input_grad",
]
