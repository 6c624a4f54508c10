import torch
from op_table import Row, Sample, booleans, integers, normal, values

import minires

TIES = [
    Sample(values([1.0, 2.0, 3.0]), values([1.0, 3.0, 2.0]), kink=True),
    Sample(values([1.0, float("nan")]), values([float("nan"), 1.0]), kink=True),
]
PAIRS = [
    Sample(normal(2, 3), normal(2, 3)),
    Sample(normal(2, 1), normal(3)),
    Sample(normal(), normal(2)),
    Sample(normal(0, 2), normal(2)),
    Sample(normal(2, 3, 2, 2, layout="channels_last"), normal(3, 1, 1)),
    Sample(integers(3), normal(3)),
    Sample(integers(3), integers(3)),
    *TIES,
]
CHOICES = [
    Sample(booleans(2, 3), normal(2, 3), normal(2, 3)),
    Sample(booleans(2, 1), normal(3), normal(2, 3)),
    Sample(booleans(), normal(2), normal()),
    Sample(booleans(0), normal(), normal()),
    Sample(booleans(2, 3, 2, 2), normal(2, 3, 2, 2, layout="channels_last"), 0.0),
    Sample(booleans(3), 1.0, normal(3)),
    Sample(booleans(3), normal(3), 2),
    Sample(booleans(3), 1, 2),
    Sample(booleans(3), 1, 2.5),
    Sample(booleans(3), integers(3), normal(3)),
    Sample(values([True, False]), values([1.0, float("inf")]), values([float("nan"), 1.0]), kink=True),
]
BAD_CHOICES = [
    Sample(integers(2), normal(2), normal(2)),
    Sample(booleans(2), normal(3), normal(3)),
    Sample(booleans(2), normal(2), "a"),
]

ROWS = [
    Row(
        "clamp",
        minires.clamp,
        torch.clamp,
        [
            Sample(normal(2, 3), -0.5, 0.5),
            Sample(normal(2, 3), min=0.1),
            Sample(normal(2, 3), max=0),
            Sample(normal(), -0.5, 0.5),
            Sample(normal(0, 2), 0, 1),
            Sample(normal(2, 3, 2, 2, layout="channels_last"), -0.5, 0.5),
            Sample(values([0.0, 1.0, -1.0, 2.0]), 0, 1, kink=True),
            Sample(values([0.0, 1.0, float("nan")]), 0.0, 1.0, kink=True),
            Sample(normal(3), 1.0, -1.0),
            Sample(normal(2, 3), normal(3), normal(2, 1)),
            Sample(normal(3), normal(2, 3), None),
            Sample(normal(3), None, normal(2, 3)),
            Sample(values([0.0, 1.0, -1.0]), values([0.0, 0.0, 0.0]), values([1.0, 1.0, 1.0]), kink=True),
            Sample(values([5.0, 2.5, 0.0]), values([3.0, 3.0, 3.0]), values([2.0, 2.0, 2.0])),
            Sample(integers(5), 2, 7),
            Sample(integers(5), 2.5, None),
        ],
        [Sample(normal(2)), Sample(normal(2), normal(3), None), Sample(normal(2), "a", "b")],
    ),
    Row("maximum", minires.maximum, torch.maximum, PAIRS, [Sample(normal(2), normal(3)), Sample(normal(2), 1.0)]),
    Row("minimum", minires.minimum, torch.minimum, PAIRS, [Sample(normal(2), normal(3)), Sample(normal(2), 1.0)]),
    Row("where", minires.where, torch.where, CHOICES, BAD_CHOICES),
    Row("where_method", lambda c, x, y: x.where(c, y), None, CHOICES[:3], BAD_CHOICES),
    Row(
        "masked_fill",
        lambda x, mask, value: x.masked_fill(mask, value),
        None,
        [
            Sample(normal(2, 3), booleans(2, 3), 1.5),
            Sample(normal(2, 3), booleans(3), 0),
            Sample(normal(2), booleans(3, 2), 1.0),
            Sample(normal(2, 3), booleans(2, 3), normal()),
            Sample(integers(3), booleans(3), 7),
            Sample(normal(2, 2), booleans(2, 2), float("-inf"), kink=True),
        ],
        [
            Sample(normal(2), normal(2), 1.0),
            Sample(normal(2), booleans(3), 1.0),
            Sample(normal(2), booleans(2), normal(2)),
        ],
    ),
    Row("clip", minires.clip, torch.clip, [Sample(normal(2, 3), -0.5, 0.5), Sample(normal(2, 3), max=0.2)]),
]
