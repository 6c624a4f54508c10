"""Every kernel in plain array code: the readable truth that the compiled ones are held to.

`conv` is convolution as a matrix product over patches (im2col), `matmul` that product, `pool` the maximum or sum over
windows, `norm` batch norm, `elementwise` the ReLU and the like, `reduction` sums over axes, `images` what turns bytes
to floats. Loops run over the R * S taps of a kernel or the windows of an adaptive pool, never over images, channels or
pixels, so the same text serves NumPy and CuPy.

Shapes are logical, (N, C, H, W) and (O, I/groups, R, S), in any memory order; results of four dimensions lie
channels-last. Results have the dtype of the input. Nothing is checked and no input is written to.
"""

from minires.kernels.reference.conv import col2im, conv2d, conv2d_input_grad, conv2d_weight_grad, im2col
from minires.kernels.reference.conv_add_relu import conv2d_add_relu
from minires.kernels.reference.elementwise import add, cast, erf, relu, relu_grad
from minires.kernels.reference.images import crop_flip_normalize
from minires.kernels.reference.matmul import linear, matmul
from minires.kernels.reference.norm import batch_norm, batch_norm_grad, batch_norm_statistics
from minires.kernels.reference.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_input_grad,
    adaptive_max_pool2d,
    gather_planes,
    max_pool2d,
    max_pool2d_input_grad,
    sum_pool2d,
    sum_pool2d_input_grad,
)
from minires.kernels.reference.reduction import sum_axes

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
