import torch
from op_table import Row, Sample, booleans, integers, normal, uniform, values

import minires

SHAPES = [
    Sample(normal(2, 3)),
    Sample(normal()),
    Sample(normal(0, 2)),
    Sample(normal(3, 4, layout="strided")),
    Sample(normal(2, 3, 2, 2, layout="channels_last")),
]
POSITIVE = [
    Sample(uniform(2, 3, low=0.2, high=3.0)),
    Sample(uniform(low=0.2, high=3.0)),
    Sample(uniform(0, 2)),
    Sample(uniform(3, 4, low=0.2, high=3.0, layout="transposed")),
]
WHOLE = [Sample(integers(3)), Sample(booleans(3))]
EDGES = values([0.0, -0.0, 1.0, float("inf"), float("nan")])
AT_EDGES = [Sample(EDGES, kink=True), Sample(values([-1.0, float("-inf")]), kink=True)]
LARGE = Sample(values([-800.0, -40.0, 40.0, 800.0]), kink=True)
HALVES = values([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.0, 1.2, -1.7])
STEPS = [Sample(normal(2, 3)), Sample(normal()), Sample(normal(0, 2)), Sample(HALVES, kink=True), Sample(integers(3))]


def row(name, samples, bad=(), **options):
    return Row(name, getattr(minires, name), getattr(torch, name), list(samples), list(bad), **options)


ROWS = [
    row("exp", [*SHAPES, *WHOLE, LARGE]),
    row("expm1", [*SHAPES, *WHOLE]),
    row("log", [*POSITIVE, *WHOLE, *AT_EDGES]),
    row("log1p", [*POSITIVE, *WHOLE, *AT_EDGES]),
    row("sqrt", [*POSITIVE, *WHOLE]),
    row("rsqrt", [*POSITIVE, *WHOLE]),
    # At 0 the second derivatives are differences of infinities, and PyTorch's formulas order them otherwise.
    Row("sqrt_at_edges", minires.sqrt, torch.sqrt, AT_EDGES, second_order=False),
    Row("rsqrt_at_edges", minires.rsqrt, torch.rsqrt, AT_EDGES, second_order=False),
    row("abs", [*SHAPES, Sample(integers(3, low=-5)), Sample(values([0.0, -0.0]), kink=True)], [Sample(booleans(2))]),
    row("tanh", [*SHAPES, *WHOLE, LARGE]),
    row("sigmoid", [*SHAPES, *WHOLE, LARGE]),
    row("sin", [*SHAPES, *WHOLE]),
    row("cos", [*SHAPES, *WHOLE]),
    row("erf", [*SHAPES, *WHOLE, Sample(values([-7.0, -3.0, -1e-9, 0.0, 1e-300, 0.7, 2.0, 6.0]))]),
    row("square", [*SHAPES, Sample(integers(3))]),
    row("reciprocal", [*POSITIVE, Sample(integers(3, low=1))]),
    row("floor", STEPS),
    row("ceil", STEPS),
    row("round", [*STEPS, *[Sample(normal(2, 3), decimals=d) for d in (1, 3, -1)]]),
    row("trunc", STEPS),
    row("sign", [*STEPS, Sample(booleans(2))]),
]
