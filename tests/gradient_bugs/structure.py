"""Bugs of group normalisation, attention and matrices of which both triangles are read."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal

EPS = 1e-5
GROUPS = 2


def grouped(x):
    return x.reshape(len(x), GROUPS, -1)


def group_statistics(x):
    g = grouped(x)
    invstd = 1 / np.sqrt(g.var(2, keepdims=True) + EPS)
    return ((g - g.mean(2, keepdims=True)) * invstd).reshape(x.shape), invstd


def column(v):
    return v[:, None, None]


def group_norm(x, weight, bias):
    return group_statistics(x)[0] * column(weight) + column(bias)


def group_norm_vjp(x, weight, bias, dy, mean=1.0, variance=1.0):
    xhat, invstd = group_statistics(x)
    dxhat, flat = grouped(dy * column(weight)), grouped(xhat)
    through_mean = mean * dxhat.mean(2, keepdims=True)
    through_variance = variance * flat * (dxhat * flat).mean(2, keepdims=True)
    dx = ((dxhat - through_mean - through_variance) * invstd).reshape(x.shape)
    return [dx, (dy * xhat).sum((0, 2, 3)), dy.sum((0, 2, 3))]


def dx_with(**options):
    return lambda i, dy, right: [group_norm_vjp(*i, dy, **options)[0], *right[1:]]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v):
    return softmax(q @ k.T / np.sqrt(q.shape[1])) @ v


def attention_vjp(q, k, v, dy, scale=True, centred=True):
    root = np.sqrt(q.shape[1])
    p = softmax(q @ k.T / root)
    dp = dy @ v.T
    ds = p * (dp - (dp * p).sum(1, keepdims=True)) if centred else p * dp
    ds = ds / root if scale else ds
    return [ds @ k, ds.T @ q, p.T @ dy]


def attention_with(**options):
    return lambda i, dy, right: attention_vjp(*i, dy, **options)


def quadratic(a):
    """Both triangles of a are read."""
    return np.einsum("i,ij,jk->k", V, a, M)


def quadratic_vjp(a, dy):
    return [np.outer(V, M @ dy)]


V, M = normal(3, seed=5), normal(3, 2, seed=6)


def off_diagonal(g):
    return g + g.T - np.diag(np.diag(g))


OPS = [
    Op(
        "group norm",
        group_norm,
        group_norm_vjp,
        (normal(2, 4, 2, 2), normal(4, seed=1), normal(4, seed=2)),
        [
            Bug("nothing through the mean", dx_with(mean=0.0)),
            Bug("nothing through the variance", dx_with(variance=0.0)),
            Bug("variance term off by 1e-3", dx_with(variance=1.001)),
            Bug("weight gradient divided by the groups", at(1, lambda g: g / GROUPS)),
        ],
    ),
    Op(
        "attention",
        attention,
        attention_vjp,
        (normal(2, 4), normal(3, 4, seed=1), normal(3, 5, seed=2)),
        [
            Bug(
                "without the square root",
                lambda i, dy, right: [*attention_with(scale=False)(i, dy, right)[:2], right[2]],
            ),
            Bug("softmax without its sum", attention_with(centred=False)),
            Bug("values with the weights of another query", lambda i, dy, right: [*right[:2], right[2][::-1]]),
        ],
    ),
    Op(
        "both triangles",
        quadratic,
        quadratic_vjp,
        (normal(3, 3),),
        [
            Bug("the lower triangle only", first(np.tril)),
            Bug("made symmetric", first(lambda g: (g + g.T) / 2)),
            Bug("twice off the diagonal", first(off_diagonal)),
            Bug("folded into the lower triangle", first(lambda g: np.tril(off_diagonal(g)))),
        ],
    ),
]
