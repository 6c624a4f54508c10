"""Bugs in small derivatives beside large ones: mixed scales of inputs, outputs and gradients."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal, scaled

D = 10.0 ** np.array([-8, -4, 0, 4, 8, 12])
X = np.array([0.1, 0.2, 0.3, -0.4, 0.5, 1.0])
M = normal(6, 3, seed=3)
COLUMNS = 10.0 ** np.array([-3, 0, 6])
WEIGHTS = 10.0 ** np.array([-3, -1, 1, 3, 5])


def at_element(number, index, factor, what):
    """A bug in one element of one gradient."""
    return Bug(f"{what} times {factor:g}", at(number, lambda g: scaled(g, index, factor)))


def elements(factors, indices, number=0, name="element"):
    return [at_element(number, index, factor, f"{name} {index}") for index in indices for factor in factors]


def exp_at(place, factor):
    return Op(
        f"exp at [{place}, 0]",
        np.exp,
        lambda x, dy: [dy * np.exp(x)],
        (np.array([place, 0.0]),),
        elements([factor], [1]),
    )


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


def standardised_vjp(x, dy):
    y = standardised(x)
    return [(dy - dy.mean(0) - y * (dy * y).mean(0)) / x.std(0)]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


OPS = [
    *(exp_at(*pair) for pair in ((33, -1), (34, 0), (32, 2), (31, 1.2), (28, 1.01), (25, 1.001))),
    Op(
        "exp(x) - 3x at [35, 0.5]",
        lambda x: np.exp(x) - 3 * x,
        lambda x, dy: [dy * (np.exp(x) - 3)],
        (np.array([35, 0.5]),),
        [Bug("the 3 is forgotten", lambda i, dy, right: [dy * np.exp(i[0])])],
    ),
    Op(
        "x and x^9",
        lambda x: x ** np.array([1, 9]),
        lambda x, dy: [dy * [1, 9] * x ** np.array([0, 8])],
        (np.array([1.0, 60]),),
        elements([0, 1.001], [0]),
    ),
    Op(
        "outputs of many scales",
        lambda x: D * np.tanh(x),
        lambda x, dy: [dy * D * (1 - np.tanh(x) ** 2)],
        (X,),
        elements([0, 1.01], [0, 2, 4]),
    ),
    Op(
        "inputs of many scales",
        lambda x: np.tanh(D * x),
        lambda x, dy: [dy * D * (1 - np.tanh(D * x) ** 2)],
        (X / D,),
        elements([-1, 1.01], [1, 3, 5]),
    ),
    Op(
        "reciprocals of many scales",
        lambda x: 1 / x,
        lambda x, dy: [-dy / x**2],
        (D,),
        elements([0.5, 1.001], [0, 3, 5]),
    ),
    Op("squares of many scales", lambda x: x * x, lambda x, dy: [2 * x * dy], (D,), elements([0, 1.001], [1, 2, 4])),
    Op(
        "matrix with rows of many scales",
        lambda x: D * np.tanh(M @ x),
        lambda x, dy: [M.T @ (dy * D * (1 - np.tanh(M @ x) ** 2))],
        (np.array([0.3, 1.7, -2.2]),),
        [
            Bug("the smallest row is forgotten", lambda i, dy, right: [right[0] - M[0] * (dy * D * slope(i[0]))[0]]),
            Bug("the third row counts twice", lambda i, dy, right: [right[0] + M[2] * (dy * D * slope(i[0]))[2]]),
        ],
    ),
    Op(
        "a large and a small term",
        lambda a, b: 1e6 * a + np.sin(b),
        lambda a, b, dy: [1e6 * dy, dy * np.cos(b)],
        (normal(3), normal(3, seed=1)),
        [
            Bug("the small one has the wrong sign", at(1, lambda g: -g)),
            Bug("the small one stops", at(1, np.zeros_like)),
        ],
    ),
    Op(
        "outer product",
        np.outer,
        lambda a, b, dy: [dy @ b, dy.T @ a],
        (normal(3) * 1e9, normal(4, seed=1) * 1e-7),
        [at_element(0, 1, 1.01, "left element"), at_element(1, 2, 1.01, "right element")],
    ),
    Op(
        "weighted squares",
        lambda x: np.array((WEIGHTS * x**2).sum()),
        lambda x, dy: [2 * dy * WEIGHTS * x],
        (normal(5),),
        elements([0, 2], [1, 2]),
    ),
    Op(
        "columns of many scales, standardised",
        standardised,
        standardised_vjp,
        (normal(5, 3) * COLUMNS,),
        [
            Bug(
                "the largest column without its mean", lambda i, dy, right: [right[0] + last(dy).mean(0) / i[0].std(0)]
            ),
            Bug("the largest column off by 1e-3", first(lambda g: scaled(g, (slice(None), 2), 1.001))),
        ],
    ),
    Op(
        "softmax far from even",
        softmax,
        lambda x, dy: [softmax(x) * (dy - (dy * softmax(x)).sum())],
        (np.array([0.0, -14, 1]),),
        [Bug("the least likely off by 1%", first(lambda g: scaled(g, 1, 1.01)))],
    ),
]


def slope(x):
    return 1 - np.tanh(M @ x) ** 2


def last(array):
    """Only the last column."""
    return array * [0, 0, 1]
