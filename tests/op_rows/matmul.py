import operator

import torch
from op_table import Row, Sample, integers, normal

import minires

ROWS = [
    Row(
        "matmul",
        operator.matmul,
        None,
        [
            Sample(normal(2, 3), normal(3, 4)),
            Sample(normal(3), normal(3)),
            Sample(normal(3), normal(3, 4)),
            Sample(normal(2, 3), normal(3)),
            Sample(normal(5, 2, 3), normal(5, 3, 4)),
            Sample(normal(5, 2, 3), normal(3, 4)),
            Sample(normal(2, 3), normal(5, 3, 4)),
            Sample(normal(4, 1, 2, 3), normal(5, 3, 2)),
            Sample(normal(5, 2, 3), normal(3)),
            Sample(normal(3), normal(5, 3, 2)),
            Sample(normal(0, 3), normal(3, 2)),
            Sample(normal(2, 0), normal(0, 3)),
            Sample(normal(3, 4, layout="transposed"), normal(4, 3, layout="strided")),
            Sample(integers(2, 3), integers(3, 2)),
        ],
        [
            Sample(normal(2, 3), normal(2, 3)),
            Sample(normal(3), normal(4)),
            Sample(normal(), normal(2)),
            Sample(normal(2), 2.0),
            Sample(normal(2, 2, 3), normal(3, 3, 2)),
            Sample(normal(2, 3), integers(3, 2)),
        ],
    ),
    Row("mm", minires.mm, torch.mm, [Sample(normal(2, 3), normal(3, 4))], [Sample(normal(2, 3), normal(3))]),
    Row(
        "bmm",
        minires.bmm,
        torch.bmm,
        [Sample(normal(5, 2, 3), normal(5, 3, 4)), Sample(normal(0, 2, 3), normal(0, 3, 4))],
        [Sample(normal(5, 2, 3), normal(1, 3, 4)), Sample(normal(2, 3), normal(3, 4))],
    ),
]
