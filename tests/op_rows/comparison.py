import operator

import torch
from op_table import Row, Sample, booleans, integers, normal, values

import minires

PAIRS = [
    Sample(normal(2, 3), normal(2, 3)),
    Sample(normal(2, 1), normal(3)),
    Sample(normal(), normal(2)),
    Sample(normal(0), normal()),
    Sample(values([1.0, 2.0, float("nan")]), values([1.0, 3.0, float("nan")])),
    Sample(integers(4, high=3), integers(4, high=3)),
    Sample(values([1, 2, 3]), values([1.0, 2.5, 2.0])),
    Sample(values([1, 2, 3]), 2.5),
    Sample(values([1, 2, 3]), 2),
    Sample(booleans(4), booleans(4)),
]
BAD_PAIRS = [Sample(normal(2), normal(3))]
CLOSE = [
    Sample(values([1.0, 2.0, float("inf"), float("nan")]), values([1.0 + 1e-9, 2.1, float("inf"), float("nan")])),
    Sample(values([1.0, float("nan")]), values([1.2, float("nan")]), rtol=0.5, equal_nan=True),
    Sample(values([1, 2]), values([1, 3]), atol=0.5),
    Sample(normal(2, 1), normal(3)),
]
TESTED = [Sample(values([1.0, float("inf"), float("-inf"), float("nan")])), Sample(integers(2)), Sample(normal())]
BITS = [Sample(integers(4), integers(4)), Sample(booleans(2, 1), booleans(3)), Sample(integers(4), 3)]

ROWS = [
    *[
        Row(name, getattr(minires, name), getattr(torch, name), PAIRS, BAD_PAIRS)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    ],
    *[
        Row(name, getattr(minires, name), getattr(torch, name), PAIRS[:7], BAD_PAIRS)
        for name in ("logical_and", "logical_or", "logical_xor")
    ],
    *[Row(name, getattr(minires, name), getattr(torch, name), TESTED) for name in ("isnan", "isinf", "isfinite")],
    Row("logical_not", minires.logical_not, torch.logical_not, [*TESTED, Sample(booleans(3))]),
    *[
        Row(name, getattr(operator, name), None, BITS, [Sample(normal(2), normal(2)), Sample(integers(2), 1.5)])
        for name in ("and_", "or_", "xor")
    ],
    Row("invert", operator.invert, None, [Sample(integers(3)), Sample(booleans(3))], [Sample(normal(2))]),
    Row(
        "isclose", minires.isclose, torch.isclose, CLOSE, [Sample(normal(2), integers(2)), Sample(normal(2), normal(3))]
    ),
]
