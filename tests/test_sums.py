"""Sums of a million float32 numbers, in every operation that adds them, against what arithmetic says."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minires
from minires.nn import functional as F

N = 1_000_000
TENTH = float(np.float32(0.1))  # added a million times one after another in float32, it is off by 1 %
CLASSES = 100_000


def full(*shape):
    return minires.full(shape, 0.1)


def gradient_of(shape, function, dy):
    x = minires.ones(shape, requires_grad=True)
    function(x).backward(dy)
    return x.grad.reshape(-1)[0]


def labels(*shape):
    return minires.zeros(shape, dtype=minires.int64)


def spread():
    """Two columns of 1, 1.5, 1, 1.5 and so on."""
    return minires.tensor(np.tile(np.float32([[1, 1], [1.5, 1.5]]), (N // 2, 1)))


CASES = {
    "sum": (lambda: full(N, 2).sum(0), TENTH * N),
    "sum of neighbours": (lambda: full(2, N).sum(1), TENTH * N),
    "mean": (lambda: full(N, 2).mean(0), TENTH),
    "mean of all": (lambda: full(N, 2).mean(), TENTH),
    "var": (lambda: spread().var(0, unbiased=False), 0.0625),
    "std": (lambda: spread().std(0, unbiased=False), 0.25),
    "norm": (lambda: minires.norm(full(N, 2), dim=0), TENTH * math.sqrt(N)),
    "norm, p = 1": (lambda: minires.norm(full(N, 2), p=1, dim=0), TENTH * N),
    "norm, p = 3": (lambda: minires.norm(full(N, 2), p=3, dim=0), TENTH * N ** (1 / 3)),
    "logsumexp": (lambda: minires.logsumexp(full(N, 2), 0), TENTH + math.log(N)),
    "softmax": (lambda: F.softmax(full(N, 2), 0)[0] * N, 1),
    "log_softmax": (lambda: F.log_softmax(full(N, 2), 0)[0], -math.log(N)),
    "cross entropy of many": (lambda: F.cross_entropy(full(N, 2), labels(N)), math.log(2)),
    "cross entropy over many": (
        lambda: F.cross_entropy(minires.zeros(1, CLASSES, 2, 2), labels(1, 2, 2)),
        math.log(CLASSES),
    ),
    "mse_loss": (lambda: F.mse_loss(full(N, 2), minires.zeros(N, 2)), TENTH**2),
    "l1_loss": (lambda: F.l1_loss(full(N, 2), minires.zeros(N, 2), reduction="sum"), TENTH * 2 * N),
    "nll_loss": (lambda: F.nll_loss(-full(N, 2), labels(N)), TENTH),
    "average pooling": (lambda: F.avg_pool2d(full(1, 2, 1000, 1000), 1000), TENTH),
    "global pooling": (lambda: F.adaptive_avg_pool2d(full(1, 2, 1000, 1000), 1), TENTH),
    "gradient of a bias": (
        lambda: gradient_of((2,), lambda b: F.linear(minires.zeros(N, 1), minires.zeros(2, 1), b), full(N, 2)),
        TENTH * N,
    ),
    "gradient of a convolution's bias": (
        lambda: gradient_of(
            (2,),
            lambda b: F.conv2d(minires.zeros(1, 1, 1000, 1000), minires.zeros(2, 1, 1, 1), b),
            full(1, 2, 1000, 1000),
        ),
        TENTH * N,
    ),
    "gradient of what is broadcast": (
        lambda: gradient_of((2,), lambda s: s * full(N, 2), minires.ones(N, 2)),
        TENTH * N,
    ),
    "gradient of what is expanded": (lambda: gradient_of((1, 2), lambda x: x.expand(N, 2), full(N, 2)), TENTH * N),
    "gradient of what an index takes": (lambda: gradient_of((2, 2), lambda x: x[labels(N)], full(N, 2)), TENTH * N),
    "gradient of gather": (lambda: gradient_of((2, 1), lambda x: x.gather(1, labels(2, N)), full(2, N)), TENTH * N),
    "gradient of batch norm's bias": (
        lambda: gradient_of((2,), lambda b: F.batch_norm(spread(), None, None, None, b, True), full(N, 2)),
        TENTH * N,
    ),
    "gradient of depthwise filters": (
        lambda: gradient_of(
            (2, 1, 1, 1), lambda w: F.conv2d(full(1, 2, 1000, 1000), w, groups=2), minires.ones(1, 2, 1000, 1000)
        ),
        TENTH * N,
    ),
    "gradient of an enlarged pixel": (
        lambda: gradient_of((1, 1, 1, 1), lambda x: F.interpolate(x, size=(1000, 1000)), full(1, 1, 1000, 1000)),
        TENTH * N,
    ),
}


@pytest.mark.parametrize(("compute", "right"), CASES.values(), ids=list(CASES))
def test_a_million_numbers_lose_no_digits(compute, right):
    results = compute().numpy()
    assert results.dtype == np.float32
    np.testing.assert_allclose(results, right, rtol=3e-7)
