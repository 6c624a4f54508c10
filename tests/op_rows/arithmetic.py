import operator

import torch
from op_table import Row, Sample, integers, normal, uniform, values

import minires

BROADCASTS = [
    Sample(normal(2, 3), normal(2, 3)),
    Sample(normal(2, 3), normal(3)),
    Sample(normal(3), normal(2, 3)),
    Sample(normal(2, 1, 4), normal(5, 1)),
    Sample(normal(), normal(2, 2)),
    Sample(normal(2, 2), normal()),
    Sample(normal(), normal()),
    Sample(normal(0, 3), normal(3)),
    Sample(normal(3, 4, layout="transposed"), normal(3, 4, layout="strided")),
    Sample(normal(2, 3, 4, 5, layout="channels_last"), normal(2, 3, 1, 1)),
    Sample(normal(2, 3), 2.5),
    Sample(normal(2, 3), 3),
    Sample(normal(2, 3), integers(2, 3, low=1)),
    Sample(integers(2, 3), normal(3)),
    Sample(integers(2, 3, low=1), integers(3, low=1)),
]
BAD_SHAPES = [Sample(normal(2, 3), normal(4)), Sample(normal(2, 3), normal(3, 2)), Sample(normal(2), "a")]
POSITIVE = {"low": 0.5, "high": 2.0}

ROWS = [
    Row("add", minires.add, torch.add, [*BROADCASTS, Sample(normal(3), normal(3), alpha=2.5)], BAD_SHAPES),
    Row("sub", minires.sub, torch.sub, [*BROADCASTS, Sample(normal(3), normal(3), alpha=2)], BAD_SHAPES),
    Row("mul", minires.mul, torch.mul, BROADCASTS, BAD_SHAPES),
    Row("div", minires.div, torch.div, BROADCASTS, BAD_SHAPES),
    Row("rsub", lambda x: 2 - x, None, [Sample(normal(2, 3)), Sample(integers(3))]),
    Row("rdiv", lambda x: 2 / x, None, [Sample(uniform(2, 3, **POSITIVE)), Sample(integers(3, low=1))]),
    Row("neg", operator.neg, None, [Sample(normal(2, 3)), Sample(integers(3))], [Sample(values([True, False]))]),
    Row(
        "pow",
        operator.pow,
        None,
        [
            Sample(uniform(2, 3, **POSITIVE), normal(2, 3)),
            Sample(uniform(2, 3, **POSITIVE), normal(3)),
            Sample(normal(2, 3), 3),
            Sample(normal(2, 3), 2.0),
            Sample(normal(2, 3), 1),
            Sample(normal(2, 3), 0),
            Sample(uniform(2, 3, **POSITIVE), -1.5),
            Sample(2.0, normal(2, 3)),
            Sample(values([0.0, 0.0]), 2),
            Sample(integers(3, high=5), 2),
        ],
        [Sample(integers(3), -1), Sample(normal(2), normal(3))],
    ),
    Row(
        "pow_of_zero",  # PyTorch's second derivative is NaN there: it multiplies log(0) by a masked zero
        operator.pow,
        None,
        [Sample(values([0.0, 1.0, 2.0]), values([2.0, 0.0, 1.0]), kink=True)],
        second_order=False,
    ),
]
