import operator

import torch
from op_table import Row, Sample, booleans, integers, normal, uniform, values

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


def _floor_divide(a, b):
    return torch.div(a, b, rounding_mode="floor")


POSITIVE = {"low": 0.5, "high": 2.0}

NONZERO = [
    Sample(values([7.0, -7.0, 5.5]), values([2.0, 2.0, -1.5])),
    Sample(values([[7.0], [-7.0]]), values([2.0, -3.0])),
    Sample(values([7.5, -7.5]), 2),
    Sample(values([7, -7, 6]), values([2, 2, -3])),
    Sample(values([7, -7, 6]), 3),
    Sample(values([7, -7]), 2.5),
    Sample(values([1.0, -1.0, 0.0]), values([0.0, 0.0, 0.0]), kink=True),
]
BY_ZERO = [Sample(values([7, 1]), 0), Sample(values([7, 1]), values([1, 0])), Sample(normal(2), normal(3))]

ROWS = [
    Row(
        "add",
        minires.add,
        torch.add,
        [
            *BROADCASTS,
            Sample(normal(3), normal(3), alpha=2.5),
            Sample(normal(3), 2, alpha=0.3),
            Sample(booleans(3), booleans(3)),
        ],
        [*BAD_SHAPES, Sample(integers(2), integers(2), alpha=1.5)],
    ),
    Row(
        "sub",
        minires.sub,
        torch.sub,
        [*BROADCASTS, Sample(normal(3), normal(3), alpha=2), Sample(normal(3), 2, alpha=0.3)],
        [*BAD_SHAPES, Sample(booleans(2), booleans(2)), Sample(normal(2), booleans(2))],
    ),
    Row("mul", minires.mul, torch.mul, [*BROADCASTS, Sample(booleans(3), booleans(3))], BAD_SHAPES),
    Row(
        "div",
        minires.div,
        torch.div,
        [
            *BROADCASTS,
            Sample(values([1.0, -1.0, 0.0]), 0.0, kink=True),
            Sample(values([7.5, -7.5]), values([2.0, 2.0]), rounding_mode="floor"),
            Sample(values([7.5, -7.5]), values([2.0, 2.0]), rounding_mode="trunc"),
            Sample(values([7, -7, 6]), values([2, 2, -3]), rounding_mode="trunc"),
        ],
        [*BAD_SHAPES, Sample(normal(2), 2.0, rounding_mode="up")],
    ),
    Row("remainder", operator.mod, None, NONZERO, BY_ZERO),
    Row("rmod", lambda x: 7 % x.detach(), None, [Sample(values([2.0, -3.0])), Sample(values([2, -3]))]),
    Row("rfloordiv", lambda x: 7 // x.detach(), None, [Sample(values([2.0, -3.0])), Sample(values([2, -3]))]),
    # PyTorch gives // no derivative at all; ours is the 0 of div(rounding_mode="floor").
    Row("floor_divide", minires.floor_divide, _floor_divide, NONZERO, BY_ZERO),
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
            Sample(values([-1.5, 0.0, 2.0]), 3.0),
            Sample(values([-1.5, 2.0]), 0.5, kink=True),
            Sample(values([0.0, 2.0]), -1.0, kink=True),
            Sample(values([0.0, 2.0]), 0.5, kink=True),
            Sample(-2.0, values([2.0, 3.0]), kink=True),
            Sample(values([-2.0, 3.0]), values([2.0, -1.0]), kink=True),
            Sample(normal(), 2),
            Sample(normal(0, 2), 3),
            Sample(integers(3, high=5), 2),
            Sample(integers(3, high=5), 0.5),
            Sample(integers(3, low=1, high=5), integers(3, high=4)),
            Sample(values([True, False]), 2),
        ],
        [Sample(integers(3), -1), Sample(normal(2), normal(3)), Sample(booleans(2), booleans(2))],
    ),
    Row(
        "pow_of_zero",  # PyTorch's second derivative is NaN there: it multiplies log(0) by a masked zero
        operator.pow,
        None,
        [
            Sample(values([0.0, 1.0, 2.0]), values([2.0, 0.0, 1.0]), kink=True),
            Sample(0.0, values([2.0, 0.0]), kink=True),
        ],
        second_order=False,
    ),
]
