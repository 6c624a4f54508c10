import torch.nn.functional as TF
from op_table import Row, Sample, booleans, integers, normal, uniform, values

from minires.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from minires.ops.cross_entropy import cross_entropy, nll_loss
from minires.ops.regression_losses import l1_loss, mse_loss, smooth_l1_loss

REDUCTIONS = ("none", "mean", "sum")


def constant_weight(loss):
    """Weights take no gradient, but the table differentiates every floating-point input: they are drawn as integers."""

    def call(input, target, weight=None, **options):
        if "pos_weight" in options:
            options["pos_weight"] = options["pos_weight"].to(input.dtype) / 4
        return loss(input, target, None if weight is None else weight.to(input.dtype) / 4, **options)

    return call


def classes(*shape, high=3):
    return integers(*shape, high=high)


SOME_IGNORED = values([2, -100, 0, 1, -100])
ALL_IGNORED = values([-100, -100])
WEIGHT = integers(3, low=1)
BY_CLASS = [
    *(Sample(normal(5, 3), classes(5), reduction=reduction) for reduction in REDUCTIONS),
    *(Sample(normal(5, 3), SOME_IGNORED, WEIGHT, reduction=reduction) for reduction in REDUCTIONS),
    Sample(normal(5, 3), values([2, 1, 0, 1, 1]), WEIGHT, ignore_index=1),
    Sample(normal(5, 3), classes(5), values([0, 1, 2])),
    Sample(normal(3), values(2)),
    Sample(normal(3), values(1), WEIGHT, reduction="none"),
    Sample(normal(2, 3, 4), classes(2, 4), WEIGHT),
    *(Sample(normal(2, 3, 4, 5), classes(2, 4, 5), WEIGHT, reduction=reduction) for reduction in REDUCTIONS),
    Sample(normal(2, 3, 4, 5, layout="channels_last"), classes(2, 4, 5)),
    Sample(normal(2, 3, 2, 3, 2), classes(2, 2, 3, 2), reduction="sum"),
    Sample(normal(5, 3, layout="transposed"), classes(5)),
    Sample(normal(5, 3, layout="strided"), classes(5)),
    Sample(normal(1, 1), values([0])),
    Sample(normal(2, 3), ALL_IGNORED, reduction="sum"),
    Sample(normal(0, 3), classes(0), reduction="none"),
    Sample(normal(5, 3), values([2, 1, 0, 1, 1], "uint8")),
]
WRONG_TARGETS = [
    Sample(normal(4, 3), values([0, 1, 3, 1])),
    Sample(normal(4, 3), values([0, 1, -1, 1])),
    Sample(normal(2, 3, 4), values([[0, 1, 2, 0], [0, 1, 5, 0]])),
    Sample(normal(4, 3), classes(3)),
    Sample(normal(4, 3), classes(4, 1)),
    Sample(normal(3), values([1, 2])),
    Sample(normal(2, 3, 4, 4), classes(2, 4, 5)),
    Sample(normal(2, 3, 4, 4), classes(3, 4, 4)),
    Sample(normal(4, 3), values([0, 1, 2, 1], "int32")),
    Sample(normal(4, 3), normal(4)),
    Sample(integers(4, 3), classes(4)),
    Sample(normal(4, 3), classes(4), uniform(2)),
    Sample(normal(4, 3), classes(4), values([1, 1, 1], "float32")),
    Sample(normal(4, 3), classes(4), reduction="avg"),
]
SMOOTHED = [
    *(
        Sample(normal(5, 3), SOME_IGNORED, weight, reduction=reduction, label_smoothing=smoothing)
        for smoothing in (0.1, 1.0)
        for weight in (None, WEIGHT)
        for reduction in REDUCTIONS
    ),
    Sample(normal(2, 3, 4), classes(2, 4), WEIGHT, label_smoothing=0.3),
    Sample(normal(2, 3, 4, 5, layout="channels_last"), classes(2, 4, 5), label_smoothing=0.3, reduction="none"),
    Sample(normal(3), values(2), label_smoothing=0.1),
]
PROBABILITIES = uniform(5, 3)
BY_PROBABILITY = [
    *(Sample(normal(5, 3), PROBABILITIES, reduction=reduction) for reduction in REDUCTIONS),
    *(Sample(normal(5, 3), PROBABILITIES, WEIGHT, reduction=reduction) for reduction in REDUCTIONS),
    Sample(normal(5, 3), PROBABILITIES, WEIGHT, label_smoothing=0.2),
    Sample(normal(3), uniform(3)),
    Sample(normal(3), uniform(3), WEIGHT, label_smoothing=0.2, reduction="none"),
    Sample(normal(2, 3, 4, 5), uniform(2, 3, 4, 5), WEIGHT, label_smoothing=0.2),
    Sample(normal(2, 3, 4, 5), uniform(2, 3, 4, 5), WEIGHT, reduction="none"),
]
DIFFERENCES = [
    *(Sample(normal(4, 3), normal(4, 3), reduction=reduction) for reduction in REDUCTIONS),
    Sample(normal(), normal()),
    Sample(normal(0, 2), normal(0, 2), reduction="sum"),
    Sample(normal(3, 4, layout="transposed"), normal(3, 4, layout="strided")),
    Sample(normal(2, 3, 4, 5, layout="channels_last"), normal(2, 3, 4, 5), reduction="none"),
    Sample(normal(3), integers(3)),
]
WRONG_DIFFERENCES = [
    Sample(integers(3), integers(3)),
    Sample(normal(3), normal(3), reduction="avg"),
]
TARGET_PART = uniform(4, 3)

ROWS = [
    Row("nll_loss", constant_weight(nll_loss), constant_weight(TF.nll_loss), BY_CLASS, WRONG_TARGETS),
    Row(
        "nll_loss_weight",
        nll_loss,
        TF.nll_loss,
        [],
        [
            Sample(normal(4, 3), classes(4), uniform(3)),
            Sample(normal(4, 3), uniform(4, 3)),
            Sample(normal(), values(0)),
        ],
    ),
    Row(
        "cross_entropy",
        constant_weight(cross_entropy),
        constant_weight(TF.cross_entropy),
        [*BY_CLASS, *SMOOTHED],
        [
            *WRONG_TARGETS,
            Sample(normal(4, 3), classes(4), label_smoothing=1.5),
            Sample(normal(4, 3), classes(4, 3)),
        ],
    ),
    Row(
        "cross_entropy_of_nothing",
        constant_weight(cross_entropy),
        constant_weight(TF.cross_entropy),
        [
            Sample(normal(2, 3), ALL_IGNORED, kink=True),
            Sample(normal(2, 3), ALL_IGNORED, WEIGHT, label_smoothing=0.1, kink=True),
            Sample(normal(0, 3), classes(0), kink=True),
            Sample(normal(0, 3), uniform(0, 3), kink=True),
        ],
        second_order=False,  # the loss is NaN, its gradient 0
    ),
    Row(
        "cross_entropy_probabilities",
        cross_entropy,
        TF.cross_entropy,
        BY_PROBABILITY,
        [
            Sample(normal(4, 3), uniform(4, 3), ignore_index=1),
            Sample(normal(4, 3), uniform(4, 3), uniform(2)),
            Sample(normal(4, 3), uniform(2, 3)),
            Sample(normal(4, 3), booleans(4, 3)),
        ],
    ),
    Row("mse_loss", mse_loss, TF.mse_loss, DIFFERENCES, WRONG_DIFFERENCES),
    Row(
        "l1_loss",
        l1_loss,
        TF.l1_loss,
        [*DIFFERENCES, Sample(values([1.0, 2.0]), values([1.0, 3.0]), kink=True)],
        WRONG_DIFFERENCES,
        second_order=False,  # PyTorch's is a zero without memory, which NumPy cannot read
    ),
    Row(
        "smooth_l1_loss",
        smooth_l1_loss,
        TF.smooth_l1_loss,
        [
            *DIFFERENCES,
            *(Sample(normal(4, 3), normal(4, 3), beta=beta, reduction="none") for beta in (0.25, 2.0)),
            Sample(values([1.0, 2.0]), values([1.0, 4.5]), beta=1.0),
            Sample(values([0.0, 1.0, -1.0, 0.5]), values([0.0, 0.0, 0.0, 0.0]), beta=1.0, kink=True),
        ],
        [*WRONG_DIFFERENCES, Sample(normal(3), normal(3), beta=-1.0)],
    ),
    Row(
        "binary_cross_entropy_with_logits",
        constant_weight(binary_cross_entropy_with_logits),
        constant_weight(TF.binary_cross_entropy_with_logits),
        [
            *(Sample(normal(4, 3), TARGET_PART, reduction=reduction) for reduction in REDUCTIONS),
            *(
                Sample(normal(4, 3), TARGET_PART, integers(3), pos_weight=integers(4, 1), reduction=reduction)
                for reduction in REDUCTIONS
            ),
            Sample(normal(4, 3), TARGET_PART, integers(4, 3)),
            Sample(normal(4, 3), TARGET_PART, pos_weight=integers()),
            Sample(values([-800.0, 800.0, -50.0, 50.0]), values([1.0, 0.0, 0.5, 1.0])),
            Sample(normal(), uniform()),
            Sample(normal(0, 2), uniform(0, 2), reduction="sum"),
            Sample(normal(2, 3, 4, 5, layout="channels_last"), uniform(2, 3, 4, 5), pos_weight=integers(3, 1, 1)),
        ],
        [
            Sample(normal(3), uniform(2)),
            Sample(normal(3), uniform(3, 1)),
            Sample(integers(3), uniform(3)),
            Sample(normal(3), uniform(3), integers(2)),
            Sample(normal(3), uniform(3), integers(2, 1)),
            Sample(normal(3), uniform(3), pos_weight=integers(2)),
            Sample(normal(3), uniform(3), reduction="avg"),
        ],
    ),
]
