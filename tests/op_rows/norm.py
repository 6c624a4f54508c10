import numpy as np
import torch
import torch.nn.functional as TF
from op_table import Row, Sample, integers, normal

from minires.autograd import Tensor
from minires.ops.batch_norm import batch_norm
from minires.ops.linear import linear

MEAN, VAR = np.array([0.25, -0.5, 0.125]), np.array([0.5, 1.0, 2.0])  # exact in 16 bits too


def theirs(x, running, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, residual=None, activation=None):
    """What the fused op stands for, in PyTorch's words. The running statistics are no inputs to differentiate."""
    mean, var = (torch.tensor(a[:running]).to(x) for a in (MEAN, VAR)) if running else (None, None)
    out = TF.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    if residual is not None:
        if residual.shape != out.shape:
            raise ValueError("PyTorch would broadcast this add; a residual add that does is a mistake")
        out = out + residual
    if activation not in (None, "relu"):
        raise ValueError("unknown activation")
    return (torch.relu(out) if activation else out), mean, var


def ours(x, running, *args, **options):
    mean, var = (Tensor(a[:running].astype(x.dtype)).to(x.device) for a in (MEAN, VAR)) if running else (None, None)
    return batch_norm(x, mean, var, *args, **options), mean, var


def first(function):
    return lambda *args, **options: function(*args, **options)[0]


ROWS = [
    Row(
        "batch_norm and its running statistics",  # which change with x although no gradient flows through them
        ours,
        theirs,
        [
            Sample(normal(4, 3, 5, 6), 3, normal(3), normal(3), True, kink=True),
            Sample(normal(4, 3), 3, normal(3), normal(3), True, 0.3, 1e-3, kink=True),
            Sample(normal(0, 3, 4, 4), 3, normal(3), normal(3), True, kink=True),
            Sample(normal(4, 3, 5), 3, normal(3), normal(3), kink=True),
        ],
    ),
    Row(
        "batch_norm",
        first(ours),
        first(theirs),
        [
            Sample(normal(4, 3, 5, 6), 3, normal(3), normal(3), True),
            Sample(normal(4, 3, 5, 6, layout="channels_last"), 3, normal(3), normal(3), True, 0.3, 1e-3),
            Sample(normal(4, 3, 5, 6), 3, normal(3), normal(3)),
            Sample(normal(4, 3, 5, 6), 0, None, None, True),
            Sample(normal(4, 3, 5, 6), 3),
            Sample(normal(6, 3, 1, 1), 0, normal(3), None, True),
            Sample(normal(1, 3, 4, 4), 3, normal(3), None, True),
            Sample(normal(8, 3), 3, normal(3), normal(3), True),
            Sample(normal(4, 3, 7), 3, normal(3), normal(3), True),
            Sample(normal(4, 3), 3, normal(3), normal(3)),
            Sample(normal(0, 3, 4, 4), 3, normal(3), normal(3)),
            *[
                Sample(normal(2, 3, 4, 5), 3, normal(3), normal(3), training, residual=residual, activation=act)
                for training in (True, False)
                for residual in (None, normal(2, 3, 4, 5), normal(2, 3, 4, 5, layout="channels_last"))
                for act in (None, "relu")
            ],
        ],
        [
            Sample(normal(2, 3, 4, 4), 2),
            Sample(normal(2, 3, 4, 4), 3, normal(2)),
            Sample(normal(1, 3, 1, 1), 3, training=True),
            Sample(normal(2, 3, 4, 4), 0),
            Sample(normal(2, 3, 4, 4), 3, residual=normal(2, 3, 2, 2)),
            Sample(normal(2, 3, 4, 4), 3, activation="tanh"),
            Sample(normal(3), 3),
        ],
    ),
    Row(
        "linear",
        linear,
        TF.linear,
        [
            Sample(normal(4, 3), normal(5, 3), normal(5)),
            Sample(normal(4, 3), normal(5, 3)),
            Sample(normal(3), normal(5, 3), normal(5)),
            Sample(normal(2, 4, 3), normal(5, 3), normal(5)),
            Sample(normal(0, 3), normal(5, 3), normal(5)),
            Sample(normal(4, 3, layout="transposed"), normal(5, 3, layout="strided"), normal(5)),
            Sample(normal(4, 3), normal(3)),
        ],
        [
            Sample(normal(4, 3), normal(5, 4)),
            Sample(normal(4, 3), normal(5, 3), normal(4)),
            Sample(integers(4, 3), normal(5, 3)),
        ],
    ),
]
