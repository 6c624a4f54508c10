import torch
import torch.nn.functional as F
from op_table import Row, Sample, booleans, integers, normal, values

import minires
from minires.ops import activation

SHAPES = [
    Sample(normal(2, 3)),
    Sample(normal()),
    Sample(normal(0, 2)),
    Sample(normal(3, 4, layout="strided")),
    Sample(normal(2, 3, 4, 5)),
    Sample(normal(2, 3, 4, 5, layout="channels_last")),
]
KINKS = Sample(values([0.0, -0.0, 6.0, 7.0, -1.0, float("nan"), float("inf"), float("-inf")]), kink=True)
FAR = Sample(values([-800.0, -40.0, -5.0, 5.0, 40.0, 800.0]), kink=True)
WHOLE = Sample(integers(4, low=-9))
NOTHING = Sample(normal(2, 0), 1, kink=True)
ALONG = [
    Sample(normal(2, 3), 0),
    Sample(normal(2, 3), -1),
    Sample(normal(2, 3, 4), 1),
    Sample(normal(), 0),
    Sample(normal(), -1),
    Sample(normal(0, 3), 1),
    NOTHING,
    Sample(normal(2, 3, 2, 2, layout="channels_last"), 1),
    Sample(values([[1000.0, 0.0], [-1000.0, -1001.0]]), 1),
    Sample(values([[1.0, float("-inf")], [float("-inf"), float("-inf")]]), 1, kink=True),
    Sample(values([[1.0, float("inf")], [1.0, float("nan")]]), 1, kink=True),
]
BAD_ALONG = [Sample(normal(2, 3), 2), Sample(normal(2, 3), -3), Sample(normal(), 1)]

ROWS = [
    Row("relu", activation.relu, F.relu, [*SHAPES, WHOLE, KINKS], [Sample(booleans(2))]),
    Row("relu6", activation.relu6, F.relu6, [*SHAPES, WHOLE, KINKS]),
    Row(
        "leaky_relu",
        activation.leaky_relu,
        F.leaky_relu,
        [*SHAPES, KINKS, Sample(normal(3), 0.2), Sample(normal(3), negative_slope=0.0)],
        [WHOLE],
    ),
    Row("silu", activation.silu, F.silu, [*SHAPES, FAR], [WHOLE]),
    Row("gelu", activation.gelu, F.gelu, [*SHAPES, FAR], [WHOLE, Sample(normal(2), approximate="erf")]),
    Row(
        "gelu_tanh",
        lambda x: activation.gelu(x, approximate="tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
        [*SHAPES, FAR],
    ),
    Row("softmax", minires.softmax, torch.softmax, ALONG, [*BAD_ALONG, Sample(integers(2), 0)]),
    Row("log_softmax", minires.log_softmax, torch.log_softmax, ALONG, [*BAD_ALONG, Sample(integers(2), 0)]),
    Row(
        "softmax_as_float",
        lambda x: minires.softmax(x, 0, dtype=minires.float32),
        lambda x: torch.softmax(x, 0, dtype=torch.float32),
        [Sample(integers(3))],
    ),
    Row(
        "logsumexp",
        minires.logsumexp,
        torch.logsumexp,
        [
            *[sample for sample in ALONG[:-1] if sample is not NOTHING],
            Sample(normal(2, 3, 4), (0, 2)),
            Sample(normal(2, 3, 4), (0, -1), keepdim=True),
            Sample(normal(), 0, keepdim=True),
        ],
        BAD_ALONG,
    ),
    Row("logsumexp_of_nothing", minires.logsumexp, torch.logsumexp, [NOTHING], [], second_order=False),
]
