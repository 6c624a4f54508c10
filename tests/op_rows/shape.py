import torch
from op_table import Row, Sample, integers, normal

import minires

PARTS = [normal(2, 3), normal(4, 3), normal(1, 3)]
BAD_DIM = [Sample(normal(2, 3), 2), Sample(normal(2, 3), -3)]


def method(name):
    return lambda x, *arguments, **options: getattr(x, name)(*arguments, **options)


def method_row(name, samples, bad=()):
    return Row(name, method(name), None, list(samples), list(bad))


RESHAPES = [
    Sample(normal(2, 6), 3, 4),
    Sample(normal(2, 6), (4, -1)),
    Sample(normal(2, 6), -1),
    Sample(normal(), 1, 1),
    Sample(normal(1), ()),
    Sample(normal(0, 3), 3, 0),
    Sample(normal(0, 3), -1, 3),
    Sample(normal(2, 3), 2, 3),
    Sample(normal(2, 6), [3, 4]),
]
BAD_RESHAPES = [
    Sample(normal(2, 6), 5, 2),
    Sample(normal(2, 6), -1, -1),
    Sample(normal(2, 6), 5, -1),
    Sample(normal(2, 6), -2, 6),
    Sample(normal(0, 3), 0, -1),
    Sample(normal(2, 6), 12.0),
]
COPIES = [
    Sample(normal(3, 4, layout="transposed"), 6, 2),
    Sample(normal(2, 3, 2, 2, layout="channels_last"), 2, -1),
    Sample(normal(3, 4, layout="strided"), -1),
]

ROWS = [
    Row("reshape", method("reshape"), None, [*RESHAPES, *COPIES], BAD_RESHAPES),
    Row("view", method("view"), method("reshape"), [*RESHAPES, *COPIES], BAD_RESHAPES),
    Row("view_as", lambda x, y: x.view_as(y), None, [Sample(normal(6), normal(2, 3))], [Sample(normal(6), normal(5))]),
    method_row(
        "flatten",
        [
            Sample(normal(2, 3, 4)),
            Sample(normal(2, 3, 4), 1),
            Sample(normal(2, 3, 4), 0, 1),
            Sample(normal(2, 3, 4), -2, -1),
            Sample(normal(2, 3, 4), start_dim=1, end_dim=1),
            Sample(normal()),
            Sample(normal(2, 0, 3), 1),
            Sample(normal(2, 3, 2, 2, layout="channels_last"), 1),
        ],
        [Sample(normal(2, 3), 1, 0), *BAD_DIM],
    ),
    method_row(
        "squeeze",
        [
            Sample(normal(1, 3, 1)),
            Sample(normal(1, 3, 1), 0),
            Sample(normal(1, 3, 1), 1),
            Sample(normal(1, 3, 1), -1),
            Sample(normal(1, 3, 1), (0, -1)),
            Sample(normal(1, 3, 1), ()),
            Sample(normal()),
            Sample(normal(), 0),
            Sample(normal(1, 0)),
        ],
        BAD_DIM,
    ),
    method_row(
        "unsqueeze",
        [Sample(normal(2, 3), 0), Sample(normal(2, 3), -1), Sample(normal(2, 3), 1), Sample(normal(), 0)],
        [Sample(normal(2, 3), 3), Sample(normal(2, 3), -4)],
    ),
    method_row(
        "permute",
        [
            Sample(normal(2, 3, 4), 2, 0, 1),
            Sample(normal(2, 3, 4), (0, -1, 1)),
            Sample(normal(2, 3, 2, 4, layout="channels_last"), 0, 2, 3, 1),
            Sample(normal(), ()),
            Sample(normal(0, 2), 1, 0),
        ],
        [Sample(normal(2, 3), 0), Sample(normal(2, 3), 0, 0), Sample(normal(2, 3), 0, 2), Sample(normal(2), 0, 1)],
    ),
    *[
        method_row(
            name,
            [
                Sample(normal(2, 3), 0, 1),
                Sample(normal(2, 3, 4), -1, 0),
                Sample(normal(2), 0, 0),
                Sample(normal(), 0, -1),
            ],
            [Sample(normal(2, 3), 0, 2), Sample(normal(2, 3), -3, 0)],
        )
        for name in ("transpose", "swapaxes")
    ],
    method_row(
        "movedim",
        [
            Sample(normal(2, 3, 4), 0, 2),
            Sample(normal(2, 3, 4), (0, 1), (-1, 0)),
            Sample(normal(2, 3, 4, 5), (3, 1), (0, 3)),
        ],
        [Sample(normal(2, 3), (0, 1), (0,)), Sample(normal(2, 3), (0, 0), (0, 1)), Sample(normal(2, 3), 2, 0)],
    ),
    method_row("t", [Sample(normal(2, 3)), Sample(normal(2)), Sample(normal())], [Sample(normal(2, 3, 4))]),
    Row("T", lambda x: x.T, None, [Sample(normal(2, 3))]),
    Row("mT", lambda x: x.mT, None, [Sample(normal(2, 3)), Sample(normal(2, 3, 4))], [Sample(normal(2))]),
    method_row(
        "expand",
        [
            Sample(normal(3, 1), 3, 4),
            Sample(normal(3, 1), -1, 4),
            Sample(normal(3), (2, 3)),
            Sample(normal(3), 2, -1),
            Sample(normal(), 2, 3),
            Sample(normal(1), 0),
            Sample(normal(2, 3), 2, 3),
            Sample(normal(2, 3, 1, 1), 2, 3, 4, 4),
        ],
        [
            Sample(normal(2, 3), 2, 4),
            Sample(normal(2, 3), 3),
            Sample(normal(3), -1, 3),
            Sample(normal(2, 3), 2, 1),
            Sample(normal(1), -2),
        ],
    ),
    Row("expand_as", lambda x, y: x.expand_as(y), None, [Sample(normal(3, 1), normal(2, 3, 4))]),
    Row(
        "broadcast_to",
        minires.broadcast_to,
        torch.broadcast_to,
        [Sample(normal(3, 1), (2, 3, 4)), Sample(normal(), (2,)), Sample(normal(2), (2,))],
        [Sample(normal(3), (4,)), Sample(normal(3), (1,)), Sample(normal(2, 3), (3,))],
    ),
    Row("clone", lambda x: x.clone(), None, [Sample(normal(2, 3, layout="transposed")), Sample(integers(2))]),
    Row("contiguous", lambda x: x.contiguous(), None, [Sample(normal(2, 3, layout="transposed")), Sample(normal(2))]),
    Row(
        "cat",
        minires.cat,
        torch.cat,
        [
            Sample(PARTS),
            Sample(tuple(PARTS), 0),
            Sample([normal(2, 3), normal(2, 1)], -1),
            Sample([normal(2, 3), normal(0), normal(1, 3)]),
            Sample([normal(0, 3), normal(2, 3)]),
            Sample([normal(2), integers(3)]),
            Sample([integers(2), integers(3)]),
            Sample([normal(2, 3)], dim=1),
            Sample([normal(2, 3, 2, 2, layout="channels_last"), normal(2, 1, 2, 2)], 1),
        ],
        [
            Sample([]),
            Sample([normal(), normal()]),
            Sample([normal(2, 3), normal(2, 2)]),
            Sample([normal(2, 3), normal(3)]),
            Sample(PARTS, 2),
            Sample(normal(2)),
            Sample([normal(2), 1.0]),
        ],
    ),
    Row(
        "stack",
        minires.stack,
        torch.stack,
        [
            Sample([normal(2, 3), normal(2, 3)]),
            Sample([normal(2, 3), normal(2, 3)], -1),
            Sample([normal(), normal(), normal()]),
            Sample((normal(2, 3),), dim=1),
        ],
        [
            Sample([]),
            Sample([normal(2), normal(3)]),
            Sample([normal(2), normal(2)], 2),
            Sample([normal(2), 1.0]),
        ],
    ),
    method_row(
        "split",
        [
            Sample(normal(5, 2), 2),
            Sample(normal(5, 2), [2, 0, 3]),
            Sample(normal(2, 5), 3, dim=-1),
            Sample(normal(0, 2), 3),
            Sample(normal(2), 5),
        ],
        [
            Sample(normal(5), 0),
            Sample(normal(5), -1),
            Sample(normal(5), [2, 2]),
            Sample(normal(5), [6, -1]),
            Sample(normal(5), 2, 1),
            Sample(normal(), 1),
        ],
    ),
    method_row(
        "chunk",
        [Sample(normal(5, 2), 4), Sample(normal(2, 5), 2, 1), Sample(normal(0, 2), 3), Sample(normal(2), 5)],
        [Sample(normal(5), 0), Sample(normal(5), 2, 1), Sample(normal(), 1)],
    ),
    method_row(
        "unbind",
        [Sample(normal(3, 2)), Sample(normal(2, 3), -1), Sample(normal(3))],
        [Sample(normal(2), 1), Sample(normal())],
    ),
    Row("unpacking", lambda x: tuple(x), None, [Sample(normal(3, 2)), Sample(normal(2))]),
    method_row(
        "narrow",
        [Sample(normal(5, 2), 0, 1, 3), Sample(normal(2, 5), -1, -2, 2), Sample(normal(3), 0, 3, 0)],
        [
            Sample(normal(5), 0, 3, 3),
            Sample(normal(5), 0, 6, 0),
            Sample(normal(5), 0, 0, -1),
            Sample(normal(5), 1, 0, 1),
        ],
    ),
    Row("concat", minires.concat, torch.concat, [Sample(PARTS), Sample([normal(2, 1), normal(2, 2)], dim=1)]),
    Row(
        "squeeze_by_axis",
        lambda x: x.unsqueeze(axis=1).squeeze(axis=0),
        None,
        [Sample(normal(1, 3)), Sample(normal(2, 3))],
        [Sample(normal())],
    ),
    method_row(
        "repeat",
        [
            Sample(normal(2, 3), 2, 3),
            Sample(normal(2, 3), (4, 1, 2)),
            Sample(normal(3), 1),
            Sample(normal(1, 3), 4, 1),
            Sample(normal(2, 3), 0, 2),
            Sample(normal(0, 3), 2, 2),
            Sample(normal(), 3),
            Sample(normal(), ()),
            Sample(integers(2), 2),
            Sample(normal(3, 4, layout="strided"), 2, 1),
            Sample(normal(2, 3, 2, 2, layout="channels_last"), 1, 2, 1, 1),
        ],
        [Sample(normal(2, 3), 2), Sample(normal(3), -1), Sample(normal(3), 1.5)],
    ),
    method_row(
        "flip",
        [
            Sample(normal(2, 3), 0),
            Sample(normal(2, 3), -1, 0),
            Sample(normal(2, 3), dims=(1,)),
            Sample(normal(2, 3), (1,)),
            Sample(normal(2, 3), []),
            Sample(normal(0, 3), 0, 1),
            Sample(normal(), ()),
            Sample(normal(), 0),
            Sample(integers(4), 0),
            Sample(normal(2, 3, 2, 2, layout="channels_last"), 1, 3),
        ],
        [Sample(normal(2, 3), 2), Sample(normal(2, 3), 0, 0), Sample(normal(2, 3), 0, -2), Sample(normal(2), 0.5)],
    ),
]
