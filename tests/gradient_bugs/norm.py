"""Bugs of batch normalisation, softmax and variance."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal, scaled

EPS = 1e-3
AXES = (0, 2, 3)


def column(v):
    return v[:, None, None]


def statistics(x, ddof=0):
    mean = x.mean(AXES)
    invstd = 1 / np.sqrt(x.var(AXES, ddof=ddof) + EPS)
    return (x - column(mean)) * column(invstd), invstd


def batch_norm(x, weight, bias):
    return statistics(x)[0] * column(weight) + column(bias)


def batch_norm_vjp(x, weight, bias, dy, mean=1.0, variance=1.0, ddof=0, invstd_of=None):
    """``mean`` and ``variance`` scale the terms through the batch statistics: 1 is right."""
    xhat, invstd = statistics(x)
    invstd = invstd if invstd_of is None else invstd_of(x)
    n = x.size / len(weight)
    dxhat = dy * column(weight)
    through_mean = mean * column(dxhat.sum(AXES)) / n
    through_variance = variance * xhat * column((dxhat * xhat).sum(AXES)) / (n - ddof)
    dx = column(invstd) * (dxhat - through_mean - through_variance)
    return [dx, (dy * xhat).sum(AXES), dy.sum(AXES)]


def dx_with(**options):
    def wrong(inputs, dy, right):
        return [batch_norm_vjp(*inputs, dy, **options)[0], *right[1:]]

    return wrong


def over_the_batch_only(inputs, dy, right):
    x, weight, _ = inputs
    xhat, invstd = statistics(x)
    dxhat = dy * column(weight)
    dx = column(invstd) * (dxhat - dxhat.mean(0) - xhat * (dxhat * xhat).mean(0))
    return [dx, *right[1:]]


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def softmax_vjp(x, dy):
    y = softmax(x)
    return [y * (dy - (dy * y).sum(1, keepdims=True))]


def unbiased_variance(x):
    return np.array(x.var(ddof=1))


def unbiased_variance_vjp(x, dy):
    return [dy * 2 * (x - x.mean()) / (x.size - 1)]


OPS = [
    Op(
        "batch norm",
        batch_norm,
        batch_norm_vjp,
        (normal(4, 3, 2, 2), normal(3, seed=1), normal(3, seed=2)),
        [
            Bug("nothing through the mean", dx_with(mean=0.0)),
            Bug("nothing through the variance", dx_with(variance=0.0)),
            Bug("nothing through mean and variance, as in evaluation", dx_with(mean=0.0, variance=0.0)),
            Bug("unbiased variance in the backward pass", dx_with(ddof=1)),
            Bug("unbiased variance in 1 / std", dx_with(invstd_of=lambda x: statistics(x, ddof=1)[1])),
            Bug("eps forgotten in 1 / std", dx_with(invstd_of=lambda x: 1 / x.std(AXES))),
            Bug("sign of the variance term", dx_with(variance=-1.0)),
            Bug("sum where the mean is meant", dx_with(mean=16.0)),
            Bug("means over the batch only", over_the_batch_only),
            Bug("momentum folded in", first(lambda g: g * 0.9)),
            Bug("without the weight", lambda i, dy, right: [right[0] / column(i[1]), *right[1:]]),
            Bug("with the weight twice", lambda i, dy, right: [right[0] * column(i[1]), *right[1:]]),
            Bug("variance term off by 1e-3", dx_with(variance=1.001)),
            Bug(
                "weight gradient of x instead of xhat", lambda i, dy, right: [right[0], (dy * i[0]).sum(AXES), right[2]]
            ),
            Bug("weight gradient averaged", at(1, lambda g: g / 16)),
            Bug("bias gradient averaged", at(2, lambda g: g / 16)),
            Bug("bias gradient off by 1e-4 in one channel", at(2, lambda g: scaled(g, 1, 1 + 1e-4))),
        ],
    ),
    Op(
        "softmax",
        softmax,
        softmax_vjp,
        (normal(3, 4),),
        [
            Bug("diagonal only", lambda i, dy, right: [dy * softmax(i[0])]),
            Bug("the sigmoid's formula", lambda i, dy, right: [dy * softmax(i[0]) * (1 - softmax(i[0]))]),
            Bug("sum over the other axis", lambda i, dy, right: [softmax(i[0]) * (dy - (dy * softmax(i[0])).sum(0))]),
        ],
    ),
    Op(
        "unbiased variance",
        unbiased_variance,
        unbiased_variance_vjp,
        (normal(9),),
        [
            Bug("biased in the backward pass", first(lambda g: g * 8 / 9)),
            Bug("not centred", lambda i, dy, right: [dy * 2 * i[0] / 8]),
        ],
    ),
]
