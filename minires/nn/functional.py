"""The operations under the names and signatures of ``torch.nn.functional``: ``import minires.nn.functional as F``."""

from minires.ops.activation import gelu, leaky_relu, leaky_relu_, relu, relu6, relu_, silu
from minires.ops.adaptive_pool2d import adaptive_avg_pool2d, adaptive_max_pool2d
from minires.ops.avg_pool2d import avg_pool2d
from minires.ops.batch_norm import batch_norm
from minires.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from minires.ops.conv2d import conv2d
from minires.ops.conv_transpose2d import conv_transpose2d
from minires.ops.cross_entropy import cross_entropy, nll_loss
from minires.ops.dropout import dropout
from minires.ops.indexing import one_hot
from minires.ops.interpolate import interpolate
from minires.ops.linear import linear
from minires.ops.max_pool2d import max_pool2d
from minires.ops.pad import pad
from minires.ops.pointwise import sigmoid, tanh
from minires.ops.regression_losses import l1_loss, mse_loss, smooth_l1_loss
from minires.ops.softmax import log_softmax, softmax
from minires.ops.unfold import fold, unfold

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "fold",
    "gelu",
    "interpolate",
    "l1_loss",
    "leaky_relu",
    "leaky_relu_",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "relu",
    "relu6",
    "relu_",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "tanh",
    "unfold",
]
