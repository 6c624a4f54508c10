"""Bugs of losses."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal, put
from gradient_bugs.norm import softmax

TARGET = np.array([2, 0, 1, 1, 3])
CLASS_WEIGHT = np.array([0.5, 2.0, 1.0, 1.5])
SMOOTHING = 0.1
IGNORED = 1
BETA = 0.5
ONE_HOT = np.eye(4)[TARGET]
SMOOTHED = ONE_HOT * (1 - SMOOTHING) + SMOOTHING / 4
SAMPLE_WEIGHT = CLASS_WEIGHT[TARGET][:, None]
PART = np.random.default_rng(5).uniform(size=(3, 2))
POSITIVE = 3.0


def log_softmax(x):
    return np.log(softmax(x))


def cross_entropy(x):
    return np.array(-(ONE_HOT * log_softmax(x)).sum() / len(x))


def cross_entropy_vjp(x, dy):
    return [dy * (softmax(x) - ONE_HOT) / len(x)]


def smoothed(x):
    return np.array(-(SMOOTHED * log_softmax(x)).sum() / len(x))


def smoothed_vjp(x, dy):
    return [dy * (softmax(x) - SMOOTHED) / len(x)]


def weighted(x):
    return np.array(-(SAMPLE_WEIGHT * ONE_HOT * log_softmax(x)).sum() / SAMPLE_WEIGHT.sum())


def weighted_vjp(x, dy):
    return [dy * SAMPLE_WEIGHT * (softmax(x) - ONE_HOT) / SAMPLE_WEIGHT.sum()]


KEPT = (TARGET != IGNORED)[:, None]


def ignoring(x):
    return np.array(-(KEPT * ONE_HOT * log_softmax(x)).sum() / KEPT.sum())


def ignoring_vjp(x, dy):
    return [dy * KEPT * (softmax(x) - ONE_HOT) / KEPT.sum()]


def mse(x, t):
    return np.array(((x - t) ** 2).mean())


def mse_vjp(x, t, dy):
    dx = dy * 2 * (x - t) / x.size
    return [dx, -dx]


def l1(x, t):
    return np.array(np.abs(x - t).mean())


def l1_vjp(x, t, dy):
    dx = dy * np.sign(x - t) / x.size
    return [dx, -dx]


def smooth_l1(x):
    d = np.abs(x)
    return np.where(d < BETA, d * d / (2 * BETA), d - BETA / 2)


def smooth_l1_vjp(x, dy):
    return [dy * np.where(np.abs(x) < BETA, x / BETA, np.sign(x))]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(x):
    return -(POSITIVE * PART * np.log(sigmoid(x)) + (1 - PART) * np.log(sigmoid(-x)))


def bce_vjp(x, dy):
    return [dy * ((POSITIVE * PART + 1 - PART) * sigmoid(x) - POSITIVE * PART)]


LOGITS = normal(5, 4)
OPS = [
    Op(
        "cross entropy",
        cross_entropy,
        cross_entropy_vjp,
        (LOGITS,),
        [
            Bug("not divided by the batch", first(lambda g: g * 5)),
            Bug("divided by the classes too", first(lambda g: g / 4)),
            Bug("sign", first(lambda g: -g)),
            Bug("without the target", lambda i, dy, right: [dy * softmax(i[0]) / 5]),
            Bug("the target one class on", lambda i, dy, right: [dy * (softmax(i[0]) - np.roll(ONE_HOT, 1, 1)) / 5]),
            Bug("the last sample is left out", first(lambda g: put(g, -1, 0))),
            Bug("ignores the gradient that arrives", lambda i, dy, right: cross_entropy_vjp(*i, np.array(1.0))),
        ],
    ),
    Op(
        "cross entropy, smoothed",
        smoothed,
        smoothed_vjp,
        (LOGITS,),
        [
            Bug("label smoothing ignored", lambda i, dy, right: cross_entropy_vjp(*i, dy)),
            Bug(
                "smoothing over the other classes only",
                lambda i, dy, right: [dy * (softmax(i[0]) - ONE_HOT * 0.9 - (1 - ONE_HOT) * 0.1 / 3) / 5],
            ),
        ],
    ),
    Op(
        "cross entropy, weighted",
        weighted,
        weighted_vjp,
        (LOGITS,),
        [
            Bug("divided by the batch, not the weights", first(lambda g: g * SAMPLE_WEIGHT.sum() / 5)),
            Bug("class weights ignored", lambda i, dy, right: cross_entropy_vjp(*i, dy)),
        ],
    ),
    Op(
        "cross entropy, ignore_index",
        ignoring,
        ignoring_vjp,
        (LOGITS,),
        [
            Bug("ignored samples counted", first(lambda g: g * KEPT.sum() / 5)),
            Bug("ignored samples get a gradient", lambda i, dy, right: [dy * (softmax(i[0]) - ONE_HOT) / KEPT.sum()]),
        ],
    ),
    Op(
        "mean squared error",
        mse,
        mse_vjp,
        (normal(3, 4), normal(3, 4, seed=1)),
        [
            Bug("the factor 2 is missing", lambda i, dy, right: [g / 2 for g in right]),
            Bug("divided by the batch only", lambda i, dy, right: [g * 4 for g in right]),
            Bug("the target's sign", at(1, lambda g: -g)),
            Bug("the target gets nothing", at(1, np.zeros_like)),
        ],
    ),
    Op(
        "mean absolute error",
        l1,
        l1_vjp,
        (normal(3, 4), normal(3, 4, seed=1)),
        [
            Bug("the difference instead of its sign", lambda i, dy, right: [dy * (i[0] - i[1]) / 12, right[1]]),
            Bug("off by 1e-4", first(lambda g: g * (1 + 1e-4))),
        ],
    ),
    Op(
        "smooth L1",
        smooth_l1,
        smooth_l1_vjp,
        (normal(4, 4),),
        [
            Bug("not divided by beta", lambda i, dy, right: [dy * np.where(np.abs(i[0]) < BETA, i[0], np.sign(i[0]))]),
            Bug(
                "the limit at 1 instead of beta",
                lambda i, dy, right: [dy * np.where(np.abs(i[0]) < 1, i[0] / BETA, np.sign(i[0]))],
            ),
        ],
    ),
    Op(
        "binary cross entropy",
        bce,
        bce_vjp,
        (normal(3, 2),),
        [
            Bug("without the target", lambda i, dy, right: [dy * sigmoid(i[0])]),
            Bug("positive weight ignored", lambda i, dy, right: [dy * (sigmoid(i[0]) - PART)]),
        ],
    ),
]
