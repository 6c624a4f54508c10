import math

import torch
from op_table import Row, Sample, booleans, integers, normal, values

import minires

AXES = [
    Sample(normal(2, 3)),
    Sample(normal(2, 3), 0),
    Sample(normal(2, 3), -1),
    Sample(normal(2, 3), 1, keepdim=True),
    Sample(normal(2, 3, 4), (0, 2)),
    Sample(normal(2, 3, 4), (-1, 0), keepdim=True),
    Sample(normal(2, 3, 4), [1]),
    Sample(normal(2, 3), ()),
    Sample(normal(2, 3, 2, 4, layout="channels_last"), (2, 3)),
    Sample(normal(2, 3, 2, 4, layout="channels_last"), (0, 2, 3), keepdim=True),
    Sample(normal(3, 4, layout="transposed"), 0),
    Sample(normal(3, 4, layout="strided"), 1),
]
SCALARS = [Sample(normal()), Sample(normal(), 0), Sample(normal(), -1, keepdim=True)]
EMPTY = [Sample(normal(0, 3)), Sample(normal(0, 3), 0), Sample(normal(0, 3), 1), Sample(normal(0), keepdim=True)]
BAD_AXES = [
    Sample(normal(2, 3), 2),
    Sample(normal(2, 3), -3),
    Sample(normal(2, 3), (0, 0)),
    Sample(normal(2, 3), "a"),
    Sample(normal(), 1),
]
ONE_AXIS = [
    Sample(normal(2, 3), 0),
    Sample(normal(2, 3), -1),
    Sample(normal(2, 3, 4), 1, keepdim=True),
    Sample(normal(), 0),
    Sample(normal(), -1, keepdim=True),
    Sample(normal(0, 3), 1),
    Sample(normal(2, 3, 2, 4, layout="channels_last"), 1),
    Sample(integers(2, 3), 1),
    Sample(values([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]]), 1, kink=True),
    Sample(values([[1.0, float("nan"), 3.0], [2.0, 1.0, 1.0]]), 1, kink=True),
]
BAD_AXIS = [Sample(normal(2, 3), 2), Sample(normal(0, 3), 0), Sample(normal(2, 3), (0, 1)), Sample(normal(2), 0.5)]
TIES = values([[1.0, 3.0, 3.0], [3.0, 2.0, 1.0]])
WHOLE = [Sample(integers(2, 3)), Sample(integers(2, 3), 0), Sample(booleans(2, 3), 1)]
TRUTH = [*WHOLE, *AXES[:6], Sample(values([0.0, 1.0])), Sample(booleans(0, 3)), Sample(booleans(0, 3), 0), *SCALARS]


def row(name, samples, bad):
    return Row(name, getattr(minires, name), getattr(torch, name), samples, bad)


def var_samples():
    return [
        *[sample for sample in AXES if sample.inputs[1:] != ((),)],
        Sample(normal(2, 3, 4), (0, 2), False),
        Sample(normal(2, 3), 1, True, True),
        Sample(normal(2, 3), False),
        Sample(normal(2, 3), unbiased=False),
        Sample(normal(2, 3), dim=1, correction=0),
        Sample(normal(2, 3), 1, correction=0, keepdim=True),
        Sample(normal(5), 0, correction=2),
        Sample(normal(), correction=0),
        Sample(normal(2, 1), 1, correction=0),
    ]


BAD_VAR = [*BAD_AXES[:3], Sample(integers(3)), Sample(normal(3), 0, unbiased=True, correction=1)]

ROWS = [
    row("sum", [*AXES, *SCALARS, *EMPTY[:3], *WHOLE], BAD_AXES),
    row("mean", [*AXES, *SCALARS, EMPTY[2]], [*BAD_AXES, Sample(integers(3))]),
    # NaN; the second derivative of NaN times nothing is 0 in PyTorch and NaN here.
    Row("mean_of_nothing", minires.mean, torch.mean, [Sample(normal(0, 3), kink=True)], [], False),
    Row("sum_as_float", lambda x: x.sum(dtype=minires.float32), lambda x: x.sum(dtype=torch.float32), [WHOLE[0]]),
    Row("mean_as_float", lambda x: x.mean(dtype=minires.float32), lambda x: x.mean(dtype=torch.float32), [WHOLE[0]]),
    row("var", var_samples(), BAD_VAR),
    row("std", var_samples()[:-2], BAD_VAR),
    # PyTorch's second derivative of std is NaN where std is 0.
    Row("std_at_zero", minires.std, torch.std, [Sample(values([[2.0, 2.0], [1.0, 3.0]]), 1, kink=True)], [], False),
    Row(
        "norm",
        lambda x, *args, **options: x.norm(*args, **options),
        None,
        [
            Sample(normal(2, 3)),
            Sample(normal(2, 3), 2, 1),
            Sample(normal(2, 3), "fro"),
            Sample(normal(2, 3), 1, 0, keepdim=True),
            Sample(normal(2, 3), math.inf, (0, 1)),
            Sample(normal()),
            *[Sample(normal(2, 3), p, 1, keepdim=True) for p in (0.5, 1.5, 3, 4.5, -1, -2.5)],
            Sample(normal(2, 3), 3),
            Sample(normal(2, 3), None),
            Sample(normal(2, 3, 4), 2.5, (0, 2)),
            Sample(normal(), 3),
        ],
        [Sample(integers(3)), Sample(normal(2, 3), 2, 2), Sample(normal(0, 3), -1, 0), Sample(normal(2, 3), "inf")],
    ),
    Row(
        "norm_at_corners",  # PyTorch has no second derivative where the first is constant
        lambda x, *args, **options: x.norm(*args, **options),
        None,
        [
            Sample(values([0.0, 0.0]), kink=True),
            Sample(normal(2, 3), -math.inf, 1),
            Sample(normal(0, 3), 3, 0, kink=True),
            *[Sample(values([[0.0, 1, -2], [0, 0, 0]]), p, 1, kink=True) for p in (0, 0.5, 1, 1.5, 2, 3, -1)],
            *[Sample(values([[0.0, 1, -2], [0, 0, 0]]), p, kink=True) for p in (math.inf, -math.inf, 0)],
            Sample(values([[math.inf, 1], [math.nan, 0]]), 0, 1, kink=True),
        ],
        [],
        False,
    ),
    row("amax", [*AXES, *SCALARS, *EMPTY[2:3], *WHOLE, Sample(TIES, 1, kink=True), Sample(TIES, kink=True)], BAD_AXES),
    row("amin", [*AXES, *SCALARS, *EMPTY[2:3], *WHOLE, Sample(TIES, 1, kink=True), Sample(TIES, kink=True)], BAD_AXES),
    *[
        row(
            name,
            [
                *ONE_AXIS,
                AXES[0],
                SCALARS[0],
                WHOLE[0],
                Sample(TIES, kink=True),
                Sample(values([1.0, float("nan"), 3.0]), kink=True),
                Sample(normal(2, 3), normal(3)),
            ],
            [*BAD_AXIS, Sample(normal(0)), Sample(normal(2), normal(3))],
        )
        for name in ("max", "min")
    ],
    *[
        row(
            name,
            [*ONE_AXIS, AXES[0], SCALARS[0], WHOLE[0], Sample(TIES), Sample(normal(2, 3), keepdim=True)],
            [*BAD_AXIS, Sample(normal(0))],
        )
        for name in ("argmax", "argmin")
    ],
    row("all", TRUTH, BAD_AXES[:3]),
    row("any", TRUTH, BAD_AXES[:3]),
    row(
        "prod",
        [
            *ONE_AXIS[:-1],
            *[Sample(normal(length)) for length in (0, 1, 2, 5, 7)],
            *SCALARS,
            Sample(normal(2, 3)),
            Sample(normal(0, 3), 0),
            Sample(normal(0, 3), 0, keepdim=True),
            Sample(normal(3, 5, layout="strided"), 1),
            Sample(integers(2, 3)),
            Sample(booleans(2, 3), 0),
            Sample(values([[2.0, 0.0, 3.0], [0.0, 1.0, 0.0]]), 1),
            Sample(values([2.0, 0.0, 3.0])),
        ],
        [Sample(normal(2, 3), 2), Sample(normal(2, 3), (0, 1)), Sample(normal(), 1), Sample(normal(2), 0.5)],
    ),
    *[
        Row(
            f"{name}_by_axis",
            lambda x, name=name, **options: getattr(x, name)(**options),
            None,
            [Sample(normal(2, 3), axis=1), Sample(normal(2, 3), axis=-2, keepdim=True)],
            [Sample(normal(2, 3), axis=2), Sample(normal(2, 3), axis=0, dim=0)],
        )
        for name in ("sum", "mean", "max", "min", "amax", "amin", "argmax", "argmin", "std", "var", "prod", "all")
    ],
]
