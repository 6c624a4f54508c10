import numpy as np
import torch.nn.functional as F
from op_table import Recipe, Row, Sample, integers, normal, values

from minires.ops.adaptive_pool2d import adaptive_avg_pool2d, adaptive_max_pool2d
from minires.ops.avg_pool2d import avg_pool2d
from minires.ops.max_pool2d import max_pool2d


def distinct(*shape, layout="contiguous"):
    """Values far enough apart that a step of finite differences changes no maximum."""
    return Recipe(lambda rng: rng.permutation(np.arange(np.prod(shape, dtype=int)) / 8.0).reshape(shape) - 3, layout)


def specials(*shape, layout="contiguous"):
    """Few distinct values with NaN and -inf among them: ties, several NaNs and windows of -inf alone."""
    return Recipe(lambda rng: rng.choice([0.0, 1.0, 2.0, -np.inf, -np.inf, -np.inf, np.inf, np.nan], shape), layout)


def ties(*shape):
    return Recipe(lambda rng: rng.integers(0, 3, shape).astype(float))


X = distinct(2, 3, 6, 5)
LAYOUTS = ["channels_last", "transposed", "strided"]

MAX_POOL2D = [
    Sample(X, 2),
    Sample(X, 3, 2, 1),
    Sample(X, 1),
    Sample(X, (6, 5)),
    Sample(X, (2,), ()),
    Sample(X, 2, []),
    Sample(X, (3, 2), stride=(1, 2), padding=(1, 0)),
    Sample(X, (2, 4), stride=(2, 1), padding=(1, 2)),
    Sample(X, 2, 5),
    Sample(X, 3, 1, 1),
    Sample(X, 3, dilation=2, stride=1),
    Sample(X, (2, 3), dilation=(3, 2), stride=(2, 1), padding=1),
    Sample(X, 2, ceil_mode=True),
    Sample(X, 3, 2, ceil_mode=True),
    Sample(X, 3, 2, 1, ceil_mode=True),
    Sample(X, 3, (4, 3), 1, ceil_mode=True),
    Sample(X, 2, 3, dilation=2, ceil_mode=True),
    Sample(distinct(1, 2, 2, 2), 3, 2, ceil_mode=True),  # a window larger than the plane
    Sample(distinct(1, 1, 1, 1), 3, 5, ceil_mode=True),
    Sample(distinct(1, 1, 1, 1), 2, 1, 1),
    Sample(X, 2, return_indices=True),
    Sample(X, 3, 2, 1, 1, True, True),
    Sample(distinct(3, 6, 5), 3, 2, 1),
    Sample(distinct(3, 6, 5), 2, return_indices=True),
    Sample(distinct(0, 3, 6, 5), 2),
    Sample(distinct(0, 3, 6, 5), 3, 2, 1, return_indices=True),
    *(Sample(distinct(2, 3, 6, 5, layout=layout), 3, 2, 1, return_indices=True) for layout in LAYOUTS),
    Sample(ties(2, 3, 6, 5), 3, 2, 1, return_indices=True, kink=True),
    Sample(ties(2, 3, 6, 5), 2, 1, dilation=2, return_indices=True, kink=True),
    Sample(values(np.zeros((1, 2, 4, 4))), 2, return_indices=True, kink=True),
    Sample(specials(2, 3, 6, 5), 2, return_indices=True, kink=True),
    Sample(specials(2, 3, 6, 5), 3, 1, 1, return_indices=True, kink=True),
    Sample(specials(2, 3, 6, 5), 3, 2, 1, 2, return_indices=True, kink=True),
    Sample(specials(2, 3, 6, 5, layout="channels_last"), 3, 2, 1, ceil_mode=True, return_indices=True, kink=True),
    Sample(values(np.full((1, 2, 4, 4), -np.inf)), 3, 2, 1, return_indices=True, kink=True),
    Sample(values(np.full((1, 2, 4, 4), np.nan)), 3, 2, 1, return_indices=True, kink=True),
]
BAD_WINDOWS = [  # what max and average pooling refuse alike
    Sample(X, 0),
    Sample(X, -1),
    Sample(X, 2.0),
    Sample(X, (2, 2, 2)),
    Sample(X, 7),
    Sample(X, (6, 6)),
    Sample(X, 2, 0),
    Sample(X, 2, -1),
    Sample(X, 2, (1, 2, 3)),
    Sample(X, 3, padding=2),
    Sample(X, 1, padding=1),
    Sample(X, 3, padding=-1),
    Sample(X, 3, padding=(1, 1, 1)),
    Sample(distinct(1, 1, 1, 1), 3, 1, ceil_mode=True),
    Sample(distinct(2, 0, 6, 5), 2),
    Sample(distinct(2, 3, 0, 5), 2, padding=1),
    Sample(distinct(0, 6, 5), 2),
    Sample(distinct(6, 5), 2),
    Sample(distinct(1, 2, 3, 6, 5), 2),
    Sample(None, 2),
]
BAD_MAX_POOL2D = [
    *BAD_WINDOWS,
    Sample(X, 3, dilation=0),
    Sample(X, 3, dilation=3),
    Sample(X, 3, padding=2, dilation=2),
]

AVG_POOL2D = [
    Sample(X, 2),
    Sample(X, 3, 2, 1),
    Sample(X, 1),
    Sample(X, (6, 5)),
    Sample(X, (2,), ()),
    Sample(X, (3, 2), stride=(1, 2), padding=(1, 0)),
    Sample(X, (2, 4), stride=(2, 1), padding=(1, 2)),
    Sample(X, 2, 5),
    Sample(X, 3, 2, 1, count_include_pad=False),
    Sample(X, (2, 4), 1, (1, 2), count_include_pad=False),
    Sample(X, 2, ceil_mode=True),
    Sample(X, 3, 2, 1, True),
    Sample(X, 3, 2, 1, True, False),
    Sample(X, 3, (4, 3), 1, ceil_mode=True),
    Sample(X, 4, 3, 2, ceil_mode=True),
    Sample(X, 4, 3, 2, ceil_mode=True, count_include_pad=False),
    Sample(distinct(1, 1, 1, 1), 3, 5, ceil_mode=True),
    Sample(distinct(1, 2, 2, 2), 3, 2, ceil_mode=True),
    Sample(X, 2, divisor_override=3),
    Sample(X, 3, 2, 1, ceil_mode=True, divisor_override=-2),
    Sample(distinct(3, 6, 5), 3, 2, 1),
    Sample(distinct(0, 3, 6, 5), 3, 2, 1),
    *(Sample(distinct(2, 3, 6, 5, layout=layout), 3, 2, 1, count_include_pad=False) for layout in LAYOUTS),
]
BAD_AVG_POOL2D = [*BAD_WINDOWS, Sample(X, 2, divisor_override=0), Sample(X, 2, divisor_override=2.5)]

ADAPTIVE = [
    Sample(X, 1),
    Sample(X, 2),
    Sample(X, (3, 5)),
    Sample(X, [4, 3]),
    Sample(X, (6, 5)),
    Sample(X, (9, 7)),  # more windows than pixels
    Sample(X, (None, 2)),
    Sample(X, (4, None)),
    Sample(X, (None, None)),
    Sample(distinct(2, 2, 1, 1), 3, kink=True),
    Sample(distinct(3, 6, 5), (2, 3)),
    Sample(distinct(0, 3, 6, 5), 2),
    *(Sample(distinct(2, 3, 6, 5, layout=layout), (4, 2)) for layout in LAYOUTS),
]
BAD_ADAPTIVE = [
    Sample(X, -1),
    Sample(X, 2.0),
    Sample(X, None),
    Sample(X, [2]),
    Sample(X, (1, 2, 3)),
    Sample(X, (2, 1.5)),
    Sample(integers(2, 3, 6, 5), 2),
    Sample(distinct(2, 3, 0, 5), 2),
    Sample(distinct(6, 5), 2),
    Sample(distinct(1, 2, 3, 6, 5), 2),
]

ROWS = [
    Row("max_pool2d", max_pool2d, F.max_pool2d, MAX_POOL2D, BAD_MAX_POOL2D),
    Row("avg_pool2d", avg_pool2d, F.avg_pool2d, AVG_POOL2D, BAD_AVG_POOL2D),
    Row(
        "adaptive_avg_pool2d",
        adaptive_avg_pool2d,
        F.adaptive_avg_pool2d,
        [*ADAPTIVE, Sample(normal(0, 6, 5), 2)],
        BAD_ADAPTIVE,
    ),
    Row(
        "adaptive_max_pool2d",
        adaptive_max_pool2d,
        F.adaptive_max_pool2d,
        [
            *ADAPTIVE,
            Sample(X, (4, 3), return_indices=True),
            Sample(distinct(3, 6, 5), (4, 3), return_indices=True),
            Sample(ties(2, 3, 6, 5), (4, 3), return_indices=True, kink=True),
            Sample(specials(2, 3, 6, 5), (4, 3), return_indices=True, kink=True),
            Sample(specials(2, 3, 6, 5), 1, return_indices=True, kink=True),
            Sample(values(np.full((1, 2, 4, 5), -np.inf)), (3, 2), return_indices=True, kink=True),
        ],
        [*BAD_ADAPTIVE, Sample(distinct(2, 0, 6, 5), 2)],
    ),
]
