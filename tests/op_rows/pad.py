import torch
from op_table import Row, Sample, integers, normal

from minires.ops.pad import pad

MODES = ("reflect", "replicate", "circular")

ROWS = [
    Row(
        "pad",
        pad,
        torch.nn.functional.pad,
        [
            Sample(normal(3), (1, 2)),
            Sample(normal(2, 3), (1, 0, 2, 1)),
            Sample(normal(2, 3), (1, 2), value=1.5),
            Sample(normal(2, 3, 4, 5), (1, 1, 0, 2), "constant", -1),
            Sample(normal(2, 3, 2, 2, layout="channels_last"), (0, 0, 0, 0, 2, 3)),
            Sample(normal(5), (-1, -2)),
            Sample(normal(5, 4), (-1, 2, 3, -2)),
            Sample(normal(5), (-2, -3)),
            Sample(normal(2, 3), ()),
            Sample(normal(), ()),
            Sample(normal(0, 3), (1, 1)),
            Sample(normal(0, 3), (0, 0, 1, 1)),
            Sample(integers(3), [1, 1], value=7),
        ],
        [
            Sample(normal(3), (1,)),
            Sample(normal(3), (1, 1, 1, 1)),
            Sample(normal(3), (-2, -2)),
            Sample(normal(1, 3), (1, 1), mode="mirror"),
            *[Sample(normal(3), (1, 1), mode=mode) for mode in MODES],
            *[Sample(normal(1, 1, 3, 3), (1, 1), mode=mode) for mode in MODES],
            *[Sample(normal(1, 3), (4, 0), mode=mode) for mode in ("reflect", "circular")],
            *[Sample(normal(1, 1, 3), (1, 1), mode=mode, value=1.0) for mode in MODES],
            Sample(normal(1, 3), (3, 0), mode="reflect"),
        ],
    ),
    *[
        Row(
            f"pad_{mode}",
            pad,
            torch.nn.functional.pad,
            [
                Sample(normal(2, 4), (1, 2), mode=mode),
                Sample(normal(2, 3, 4), (2, 1), mode=mode),
                Sample(normal(2, 3, 4), (2, 1, 0, 2), mode=mode),
                Sample(normal(2, 3, 4, 5), (1, 2, 3, 0), mode=mode),
                Sample(normal(2, 3, 4, 5, layout="channels_last"), (1, 1, 1, 1), mode=mode),
                Sample(normal(1, 2, 3, 3, 4), (1, 1, 2, 0, 1, 2), mode=mode),
            ],
        )
        for mode in MODES
    ],
    Row(
        "pad_that_crops",
        pad,
        torch.nn.functional.pad,
        [
            Sample(normal(1, 2, 5), widths, mode=mode)
            for mode in MODES
            for widths in ((-1, 2), (2, -1), (-1, -2), (-2, 1), (0, -1), (3, -2), (-1, 0))
        ]
        + [Sample(normal(1, 2, 4, 5), (-1, 2, 1, -1), mode=mode) for mode in MODES]
        + [Sample(normal(1, 2, 1), (-4, 4), mode="replicate")],
        [Sample(normal(1, 2, 5), (-3, -3), mode=mode) for mode in MODES],
    ),
]
