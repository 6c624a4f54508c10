import warnings

import torch
import torch.nn.functional as F
from op_table import Row, Sample, integers, normal

from minires.ops.conv2d import conv2d
from minires.ops.conv2d_add_relu import conv2d_add_relu
from minires.ops.conv_transpose2d import conv_transpose2d
from minires.ops.unfold import fold, unfold


def quiet_conv2d(*inputs, **options):
    """PyTorch warns that "same" with an even kernel may copy its input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return F.conv2d(*inputs, **options)


def separate_steps(*inputs, residual=None, activation=None, **options):
    """What conv2d_add_relu stands for, in PyTorch's words."""
    if inputs[0].ndim != 4 or len(inputs) < 3:
        raise ValueError("PyTorch takes these; here nobody needs them")
    out = F.conv2d(*inputs, **options)
    if residual is not None:
        if getattr(residual, "shape", None) != out.shape:
            raise ValueError("PyTorch would broadcast this add; a residual add that does is a mistake")
        out = out + residual
    if activation not in (None, "relu"):
        raise ValueError("unknown activation")
    return torch.relu(out) if activation else out


X, W, B = normal(2, 4, 6, 5), normal(6, 4, 3, 3), normal(6)

CONV2D = [
    Sample(X, W),
    Sample(X, W, B),
    Sample(normal(2, 3, 5, 4), normal(2, 3, 1, 1), normal(2)),
    Sample(normal(2, 3, 5, 4), normal(2, 3, 1, 1), stride=2),
    Sample(normal(2, 3, 5, 4), normal(2, 3, 1, 1), padding=1),
    Sample(normal(1, 2, 4, 5), normal(3, 2, 4, 5)),  # a kernel as large as the input
    Sample(normal(1, 2, 3, 3), normal(3, 2, 5, 5), padding=1),  # ... as the padded input
    Sample(normal(1, 1, 1, 1), normal(1, 1, 3, 3), padding=4),  # windows wholly in the padding
    Sample(X, normal(3, 4, 2, 4), stride=(2, 1), padding=(1, 2)),
    Sample(X, W, stride=2, padding=1),
    Sample(X, W, stride=(3, 2), padding=(0, 3)),
    Sample(X, W, stride=7, padding=1),  # one window, pixels that no window meets
    Sample(X, W, dilation=2),
    Sample(X, normal(2, 4, 3, 2), dilation=(1, 3), padding=1, stride=(1, 2)),
    Sample(X, normal(6, 2, 3, 3), B, groups=2),
    Sample(X, normal(6, 2, 2, 3), groups=2, stride=2, padding=(1, 0), dilation=(2, 1)),
    Sample(X, normal(4, 1, 3, 3), groups=4, padding=1),  # depthwise
    Sample(X, normal(8, 1, 3, 3), groups=4, padding=1, stride=2, dilation=2),  # two filters for each channel
    Sample(X, normal(4, 1, 1, 1), groups=4),
    Sample(X, W, padding="valid", stride=2),
    Sample(X, W, B, padding="same"),
    Sample(X, normal(2, 4, 2, 4), padding="same"),  # even: one pixel more at the end
    Sample(X, normal(2, 4, 4, 3), padding="same", dilation=(1, 2)),
    Sample(X, normal(2, 2, 2, 2), padding="same", dilation=(3, 2), groups=2),
    Sample(normal(1, 2, 3, 3), normal(2, 2, 7, 7), padding="same"),
    Sample(normal(0, 4, 6, 5), W, B, padding=1),
    Sample(normal(1, 4, 6, 5), W, B, padding=1),
    Sample(normal(4, 6, 5), W, B, padding=1),
    Sample(normal(4, 6, 5), normal(4, 2, 2, 2), groups=2, padding="same"),
    Sample(X, W, None, [2, 1], (1,)),
    Sample(X, W, B, 2, 1, 1, 1),
    Sample(normal(2, 4, 6, 5, layout="channels_last"), normal(6, 4, 3, 3, layout="channels_last"), B, padding=1),
    Sample(normal(2, 4, 6, 5, layout="transposed"), normal(6, 4, 3, 3, layout="transposed"), stride=2),
    Sample(normal(2, 4, 6, 5, layout="strided"), normal(6, 4, 3, 3, layout="strided"), normal(6, layout="strided")),
    Sample(normal(2, 4, 6, 5, layout="channels_last"), normal(6, 4, 1, 1, layout="transposed")),
    Sample(normal(2, 4, 6, 5, layout="strided"), normal(4, 1, 3, 3), groups=4),
]
BAD_CONV2D = [
    Sample(X, normal(6, 3, 3, 3)),
    Sample(X, W, groups=2),
    Sample(X, normal(5, 2, 3, 3), groups=2),
    Sample(X, W, groups=0),
    Sample(X, W, groups=-1),
    Sample(X, W, groups=1.0),
    Sample(X, W, normal(5)),
    Sample(X, W, normal(6, 1)),
    Sample(X, W, stride=0),
    Sample(X, W, stride=-1),
    Sample(X, W, stride=(1, -1)),
    Sample(X, W, stride=1.5),
    Sample(X, W, stride=True),
    Sample(X, W, stride=()),
    Sample(X, W, stride=(1, 2, 3)),
    Sample(X, W, padding=-1),
    Sample(X, W, padding=(1, 2, 3)),
    Sample(X, W, padding=((1, 2), (1, 2))),
    Sample(X, W, padding="full"),
    Sample(X, W, padding="same", stride=2),
    Sample(X, W, dilation=0),
    Sample(X, W, dilation=-1),
    Sample(X, W, dilation=3),
    Sample(X, normal(6, 4, 7, 3)),
    Sample(normal(0, 4, 2, 5), W),
    Sample(X, normal(6, 4, 0, 3)),
    Sample(X, normal(0, 4, 3, 3)),
    Sample(X, normal(4, 3, 3)),
    Sample(normal(2, 4, 0, 5), normal(6, 4, 1, 1), padding=1),
    Sample(normal(6, 5), W),
    Sample(normal(1, 2, 4, 6, 5), W),
    Sample(X, integers(6, 4, 3, 3)),
    Sample(X, None),
    Sample(X, 2.0),
]

SUM = normal(2, 6, 4, 3)
CONV2D_ADD_RELU = [
    *[Sample(X, W, B, residual=residual, activation=act) for residual in (None, SUM) for act in (None, "relu")],
    Sample(X, W, B, 2, 1, residual=normal(2, 6, 3, 3, layout="strided"), activation="relu"),
    Sample(X, normal(6, 2, 3, 3), B, dilation=(1, 2), groups=2, activation="relu"),
    Sample(X, W, B, padding="same", activation="relu"),
    Sample(normal(0, 4, 6, 5), W, B, residual=normal(0, 6, 4, 3), activation="relu"),
]
BAD_CONV2D_ADD_RELU = [
    Sample(X, W),
    Sample(normal(4, 6, 5), W, B),
    Sample(X, W, normal(5)),
    Sample(X, W, B, residual=normal(2, 6, 4, 1)),
    Sample(X, W, B, residual=2.0),
    Sample(X, W, B, activation="tanh"),
    Sample(X, W, B, groups=3),
    Sample(X, W, integers(6)),
]

T = normal(4, 3, 3, 2)  # (C, O, R, S): the other way round than W

CONV_TRANSPOSE2D = [
    Sample(X, T),
    Sample(X, T, normal(3)),
    Sample(X, normal(4, 3, 1, 1), stride=2),
    Sample(X, T, stride=2, padding=1),
    Sample(X, T, stride=2, padding=1, output_padding=1),
    Sample(X, T, normal(3), (3, 2), (0, 1), (2, 0)),
    Sample(X, T, padding=(3, 1)),
    Sample(X, T, dilation=2, padding=1),
    Sample(X, normal(4, 3, 2, 4), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    Sample(X, T, dilation=2, output_padding=1),  # an output padding as large as the stride
    Sample(X, T, dilation=3, stride=2, output_padding=2, padding=1),
    Sample(X, T, dilation=(4, 1), stride=(1, 2), output_padding=(3, 1), padding=(0, 1)),
    Sample(X, T, normal(6), groups=2),
    Sample(X, T, groups=2, stride=2, output_padding=1, padding=1),
    Sample(X, normal(4, 1, 3, 3), groups=4, stride=2),
    Sample(X, normal(4, 2, 2, 2), groups=4, dilation=2),
    Sample(normal(0, 4, 6, 5), T, normal(3)),
    Sample(normal(1, 4, 1, 1), normal(4, 2, 5, 5)),
    Sample(normal(4, 6, 5), T, normal(3), stride=2),
    Sample(normal(4, 6, 5), T, dilation=2, output_padding=1),
    Sample(normal(2, 4, 6, 5, layout="channels_last"), normal(4, 3, 3, 2, layout="channels_last"), stride=2),
    Sample(normal(2, 4, 6, 5, layout="transposed"), normal(4, 3, 3, 2, layout="strided"), stride=2),
]
BAD_CONV_TRANSPOSE2D = [
    Sample(X, W),
    Sample(X, T, normal(4)),
    Sample(X, T, groups=3),
    Sample(X, T, groups=0),
    Sample(X, T, stride=0),
    Sample(X, T, stride=-2),
    Sample(X, T, padding=-1),
    Sample(X, T, padding="same"),
    Sample(X, T, padding=5),
    Sample(X, T, padding=(4, 0)),
    Sample(X, T, dilation=0),
    Sample(X, T, output_padding=-1),
    Sample(X, T, output_padding=1),
    Sample(X, T, stride=2, output_padding=2),
    Sample(X, T, stride=(2, 1), output_padding=(1, 1)),
    Sample(X, normal(4, 3, 3)),
    Sample(normal(6, 5), T),
    Sample(normal(2, 4, 0, 5), T),
    Sample(X, integers(4, 3, 3, 2)),
]

UNFOLD = [
    Sample(X, 2),
    Sample(X, (2, 3), 2, 1, 2),
    Sample(X, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3)),
    Sample(X, 1),
    Sample(X, (6, 5)),
    Sample(X, 2, padding=3),
    Sample(normal(4, 6, 5), 3),
    Sample(normal(0, 4, 6, 5), 3),
    Sample(normal(2, 4, 6, 5, layout="channels_last"), 3, padding=1),
    Sample(normal(2, 4, 6, 5, layout="transposed"), 2),
]
BAD_UNFOLD = [
    Sample(X, 7),
    Sample(X, 0),
    Sample(X, 2.0),
    Sample(X, (2,)),
    Sample(X, (2, 2, 2)),
    Sample(X, 2, dilation=0),
    Sample(X, 2, padding=-1),
    Sample(X, 2, stride=0),
    Sample(normal(6, 5), 2),
    Sample(normal(2, 0, 6, 5), 2),
    Sample(integers(2, 4, 6, 5), 2),
]
COLUMNS = normal(2, 16, 20)
FOLD = [
    Sample(COLUMNS, (6, 5), 2),
    Sample(normal(2, 16, 16), 5, 2),
    Sample(normal(2, 24, 6), (6, 5), (2, 3), 2, 1, 2),
    Sample(normal(2, 12, 12), (6, 5), (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3)),
    Sample(normal(16, 20), (6, 5), 2),
    Sample(normal(0, 16, 20), (6, 5), 2),
    Sample(normal(2, 16, 20, layout="transposed"), (6, 5), 2),
    Sample(normal(2, 16, 20, layout="strided"), (6, 5), 2),
]
BAD_FOLD = [
    Sample(normal(2, 15, 20), (6, 5), 2),
    Sample(normal(2, 16, 19), (6, 5), 2),
    Sample(COLUMNS, (6, 5), 0),
    Sample(COLUMNS, (6, 5), 7),
    Sample(COLUMNS, (6, -5), 2),
    Sample(COLUMNS, (6, 5), 2, stride=2),
    Sample(COLUMNS, (6, 5), 2, padding=-1),
    Sample(normal(2, 0, 20), (6, 5), 2),
    Sample(normal(2, 16, 20, 1), (6, 5), 2),
    Sample(normal(20), (6, 5), 2),
    Sample(integers(2, 16, 20), (6, 5), 2),
]

ROWS = [
    Row("conv2d", conv2d, quiet_conv2d, CONV2D, BAD_CONV2D),
    Row("conv2d_add_relu", conv2d_add_relu, separate_steps, CONV2D_ADD_RELU, BAD_CONV2D_ADD_RELU),
    Row("conv_transpose2d", conv_transpose2d, F.conv_transpose2d, CONV_TRANSPOSE2D, BAD_CONV_TRANSPOSE2D),
    Row("unfold", unfold, F.unfold, UNFOLD, BAD_UNFOLD),
    Row("fold", fold, F.fold, FOLD, BAD_FOLD),
]
