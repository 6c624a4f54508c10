import torch
from op_table import Row, Sample, booleans, integers, normal, values

import minires

NAN = values([[1.0, float("nan"), -2.0], [float("nan"), 0.5, float("inf")]])
ALONG = [
    Sample(normal(3, 4)),
    Sample(normal(3, 4), 0),
    Sample(normal(2, 3, 4), dim=1, descending=True),
    Sample(normal(5), descending=True),
    Sample(normal()),
    Sample(normal(), -1, True),
    Sample(normal(0, 3), 0),
    Sample(normal(3, 0)),
    Sample(normal(2, 3, 2, 4, layout="channels_last"), 1),
    Sample(normal(3, 4, layout="strided"), descending=True),
    Sample(values([5, 2, 9, 1])),
    Sample(NAN, 1, kink=True),
    Sample(NAN, descending=True, kink=True),
    Sample(integers(3, 8, high=3), stable=True),
    Sample(integers(3, 8, high=3), dim=1, stable=True, descending=True),
    Sample(booleans(9), stable=True),
    Sample(values([2.0, 1.0, 2.0, 1.0]), stable=True, descending=True, kink=True),
]
BAD = [Sample(normal(2, 3), 2), Sample(normal(), 1), Sample(normal(2), 0.5)]

ROWS = [
    *[Row(name, getattr(minires, name), getattr(torch, name), ALONG, BAD) for name in ("sort", "argsort")],
    Row(
        "topk",
        minires.topk,
        torch.topk,
        [
            Sample(normal(3, 5), 2),
            Sample(normal(3, 5), 2, 0),
            Sample(normal(3, 5), 5, dim=1, largest=False),
            Sample(normal(3, 5), 0),
            Sample(normal(2, 3, 4), 1, 1, True, True),
            Sample(normal(), 1),
            Sample(values([5, 2, 9, 1]), 3),
            Sample(values([1.0, float("nan"), 3.0]), 2, kink=True),
            Sample(values([1.0, float("nan"), 3.0]), 2, largest=False, kink=True),
            Sample(normal(3, 4, layout="strided"), 2),
        ],
        [Sample(normal(3, 5), 6), Sample(normal(3, 5), -1), Sample(normal(3), 1, 1), Sample(normal(), 2)],
    ),
]
