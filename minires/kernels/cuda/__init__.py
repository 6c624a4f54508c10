"""The kernels of `minires.kernels.reference` in CUDA C++ (``source/``), with thin launchers.

Nothing is compiled at import. `im2col` and `col2im` are the reference's own: they are for looking at.
"""

from minires.kernels.cuda.conv import conv2d, conv2d_input_grad, conv2d_weight_grad
from minires.kernels.cuda.conv_add_relu import conv2d_add_relu
from minires.kernels.cuda.cross_entropy import cross_entropy as cross_entropy  # these two are not in the readable ones
from minires.kernels.cuda.cross_entropy import cross_entropy_grad as cross_entropy_grad
from minires.kernels.cuda.elementwise import add, cast, erf, relu, relu_grad
from minires.kernels.cuda.images import crop_flip_normalize
from minires.kernels.cuda.matmul import linear, matmul
from minires.kernels.cuda.norm import batch_norm, batch_norm_grad, batch_norm_statistics
from minires.kernels.cuda.optim import step_tensors as step_tensors  # nor are these
from minires.kernels.cuda.optim import unscale as unscale
from minires.kernels.cuda.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_input_grad,
    adaptive_max_pool2d,
    gather_planes,
    max_pool2d,
    max_pool2d_input_grad,
    sum_pool2d,
    sum_pool2d_input_grad,
)
from minires.kernels.cuda.reduction import sum_axes
from minires.kernels.reference import col2im, im2col

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
