"""Bugs of activations, arithmetic with broadcasting, the residual add and linear layers."""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal, put, scaled
from gradient_bugs.losses import sigmoid

X = normal(3, 4)
POSITIVE = np.abs(X) + 0.5
MASK = np.random.default_rng(3).random((3, 4)) > 0.5
cdf = np.vectorize(lambda x: 0.5 * (1 + erf(x / sqrt(2))))


def pdf(x):
    return np.exp(-x * x / 2) / sqrt(2 * pi)


def elementwise(name, fn, slope, bugs, x=X):
    """An op of one input whose derivative is ``slope(x)``; bugs are wrong slopes."""
    wrong = [Bug(what, lambda i, dy, right, bad=bad: [dy * bad(i[0])]) for what, bad in bugs]
    return Op(name, fn, lambda x, dy: [dy * slope(x)], (x,), wrong)


def relu(x):
    return np.maximum(x, 0)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def block(branch, shortcut):
    """The end of a residual block."""
    return relu(branch + shortcut)


def block_vjp(branch, shortcut, dy):
    dz = dy * (branch + shortcut > 0)
    return [dz, dz]


def linear(x, w, b):
    return x @ w.T + b


def linear_vjp(x, w, b, dy):
    return [dy @ w, dy.T @ x, dy.sum(0)]


def scale(x, s):
    return x * s[:, None, None]


def scale_vjp(x, s, dy):
    return [dy * s[:, None, None], (dy * x).sum((0, 2, 3))]


OPS = [
    elementwise(
        "relu",
        relu,
        lambda x: x > 0,
        [
            ("passes everything", lambda x: np.ones_like(x)),
            ("passes the negative", lambda x: x < 0),
            ("passes what is beyond 0.2 only", lambda x: x > 0.2),
            ("off by 1e-4", lambda x: (x > 0) * (1 + 1e-4)),
            ("one element of twelve stops", lambda x: put((x > 0) * 1.0, (0, 0), 0)),
        ],
    ),
    Op(
        "relu again",
        relu,
        lambda x, dy: [dy * (x > 0)],
        (X,),
        [
            Bug("masked by the gradient's sign", lambda i, dy, right: [dy * (dy > 0)]),
            Bug("gradients clipped at 0.9", first(lambda g: np.clip(g, -0.9, 0.9))),
            Bug("weight decay folded in", lambda i, dy, right: [right[0] + 1e-4 * i[0]]),
            Bug("a constant is added", first(lambda g: g + 1e-3)),
            Bug("not linear in the gradient that arrives", lambda i, dy, right: [right[0] * np.abs(dy)]),
        ],
    ),
    elementwise(
        "leaky relu",
        leaky,
        lambda x: np.where(x > 0, 1, 0.1),
        [
            ("the slope on the wrong side", lambda x: np.where(x > 0, 0.1, 1)),
            ("the negative side stops", lambda x: x > 0),
        ],
    ),
    elementwise(
        "relu6", lambda x: np.clip(x, 0, 6), lambda x: (x > 0) & (x < 6), [("no upper limit", lambda x: x > 0)], x=5 * X
    ),
    elementwise(
        "sigmoid",
        sigmoid,
        lambda x: sigmoid(x) * sigmoid(-x),
        [
            ("y (1 + y)", lambda x: sigmoid(x) * (1 + sigmoid(x))),
            ("of y instead of x", lambda x: sigmoid(sigmoid(x)) * sigmoid(-sigmoid(x))),
        ],
    ),
    elementwise(
        "tanh",
        np.tanh,
        lambda x: 1 - np.tanh(x) ** 2,
        [
            ("1 - y", lambda x: 1 - np.tanh(x)),
            ("1 - x^2", lambda x: 1 - x**2),
        ],
    ),
    elementwise(
        "gelu",
        lambda x: x * cdf(x),
        lambda x: cdf(x) + x * pdf(x),
        [
            ("without the density", cdf),
            ("the tanh approximation's derivative", lambda x: tanh_gelu_slope(x)),
        ],
    ),
    elementwise(
        "silu",
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
        [
            ("the sigmoid alone", sigmoid),
            ("1 - x for x (1 - s)", lambda x: sigmoid(x) * (1 + 1 - x)),
        ],
    ),
    elementwise("exp", np.exp, np.exp, [("x instead of exp(x)", lambda x: x), ("expm1", np.expm1)]),
    elementwise(
        "sqrt", np.sqrt, lambda x: 0.5 / np.sqrt(x), [("the factor 1/2 is missing", lambda x: 1 / np.sqrt(x))], POSITIVE
    ),
    elementwise(
        "log", np.log, lambda x: 1 / x, [("an epsilon of 1e-4 in the denominator", lambda x: 1 / (x + 1e-4))], POSITIVE
    ),
    elementwise(
        "dropout",
        lambda x: x * MASK * 2,
        lambda x: MASK * 2.0,
        [
            ("without the mask", lambda x: np.full_like(x, 2)),
            ("without the scale", lambda x: MASK * 1.0),
            ("another mask", lambda x: np.roll(MASK, 1) * 2.0),
        ],
    ),
    Op(
        "add with broadcasting",
        lambda x, b: x + b,
        lambda x, b, dy: [dy, dy.sum(0)],
        (X, normal(4, seed=1)),
        [
            Bug("the first row only", lambda i, dy, right: [right[0], dy[0]]),
            Bug("the last row only", lambda i, dy, right: [right[0], dy[-1]]),
            Bug("averaged instead of summed", at(1, lambda g: g / 3)),
            Bug("summed over all", lambda i, dy, right: [right[0], np.full(4, dy.sum())]),
        ],
    ),
    Op(
        "subtract",
        lambda a, b: a - b,
        lambda a, b, dy: [dy, -dy],
        (X, normal(3, 4, seed=1)),
        [
            Bug("the sign of the second", at(1, lambda g: -g)),
        ],
    ),
    Op(
        "multiply",
        lambda a, b: a * b,
        lambda a, b, dy: [dy * b, dy * a],
        (X, normal(3, 4, seed=1)),
        [
            Bug("each its own factor", lambda i, dy, right: [dy * i[0], dy * i[1]]),
        ],
    ),
    Op(
        "divide",
        lambda a, b: a / b,
        lambda a, b, dy: [dy / b, -dy * a / b**2],
        (X, POSITIVE),
        [
            Bug("the square is missing", lambda i, dy, right: [right[0], -dy * i[0] / i[1]]),
        ],
    ),
    Op(
        "scale by channel",
        scale,
        scale_vjp,
        (normal(2, 3, 2, 2), normal(3, seed=1)),
        [
            Bug(
                "scale gradient not summed over the width",
                lambda i, dy, right: [right[0], (dy * i[0])[..., 0].sum((0, 2))],
            ),
            Bug(
                "scale gradient not summed over the batch", lambda i, dy, right: [right[0], (dy * i[0])[0].sum((1, 2))]
            ),
            Bug("scale gradient without x", lambda i, dy, right: [right[0], dy.sum((0, 2, 3))]),
            Bug("channels in the wrong order", first(lambda g: g[:, ::-1])),
        ],
    ),
    Op(
        "residual add",
        block,
        block_vjp,
        (normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1)),
        [
            Bug("half through the shortcut", at(1, lambda g: g / 2)),
            Bug("nothing through the shortcut", at(1, np.zeros_like)),
            Bug("nothing through the branch", first(np.zeros_like)),
            Bug("the shortcut past the relu", lambda i, dy, right: [right[0], dy]),
            Bug("the relu's mask of the branch alone", lambda i, dy, right: [dy * (i[0] > 0)] * 2),
            Bug("doubled through the shortcut", at(1, lambda g: 2 * g)),
            Bug("the shortcut off by 1e-4 at one pixel", at(1, lambda g: scaled(g, (0, 0, 1, slice(None)), 1 + 1e-4))),
        ],
    ),
    Op(
        "linear",
        linear,
        linear_vjp,
        (X, normal(4, 4, seed=1), normal(4, seed=2)),
        [
            Bug("weight gradient transposed", at(1, lambda g: g.T)),
            Bug("input gradient by the transposed weight", lambda i, dy, right: [dy @ i[1].T, *right[1:]]),
            Bug("weight gradient divided by the batch", at(1, lambda g: g / 3)),
            Bug("bias gradient averaged", at(2, lambda g: g / 3)),
            Bug(
                "weight gradient with 1e-4 of weight decay",
                lambda i, dy, right: [right[0], right[1] + 1e-4 * i[1], right[2]],
            ),
            Bug("one weight's gradient off by 1e-4", at(1, lambda g: scaled(g, (2, 1), 1 + 1e-4))),
            Bug("weight gradient rounded to half precision", at(1, lambda g: g.astype(np.float16).astype(float))),
        ],
    ),
]


def tanh_gelu_slope(x):
    k, c = sqrt(2 / pi), 0.044715
    t = np.tanh(k * (x + c * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * c * x * x)
