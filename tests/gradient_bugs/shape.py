"""Bugs of reductions, indexing and changes of shape."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal, put

X = normal(3, 4)
SQUARE = normal(3, 3)
INDEX = np.array([0, 2, 2, 1])


def gathered_vjp(x, dy):
    dx = np.zeros_like(x)
    np.add.at(dx, INDEX, dy)
    return [dx]


def overwritten(inputs, dy, right):
    dx = np.zeros_like(inputs[0])
    dx[INDEX] = dy
    return [dx]


def largest_vjp(x, dy):
    return [put(np.zeros_like(x), (np.arange(3), x.argmax(1)), dy)]


def product_vjp(a, b, dy):
    return [dy @ b.T, a.T @ dy]


def norm_vjp(x, dy):
    return [dy * x / np.sqrt((x * x).sum())]


OPS = [
    Op(
        "sum over an axis",
        lambda x: x.sum(1),
        lambda x, dy: [np.repeat(dy[:, None], 4, 1)],
        (X,),
        [
            Bug("to the first element only", lambda i, dy, right: [put(np.zeros_like(i[0]), (slice(None), 0), dy)]),
            Bug("divided as for a mean", first(lambda g: g / 4)),
        ],
    ),
    Op(
        "mean",
        lambda x: np.array(x.mean()),
        lambda x, dy: [np.full_like(x, dy / x.size)],
        (X,),
        [
            Bug("not divided", first(lambda g: g * 12)),
            Bug("divided by the rows only", first(lambda g: g * 4)),
        ],
    ),
    Op(
        "maximum over an axis",
        lambda x: x.max(1),
        largest_vjp,
        (X,),
        [
            Bug("to all elements", lambda i, dy, right: [np.repeat(dy[:, None], 4, 1)]),
            Bug("to the last element", lambda i, dy, right: [put(np.zeros_like(i[0]), (slice(None), -1), dy)]),
        ],
    ),
    Op(
        "norm",
        lambda x: np.array(np.sqrt((x * x).sum())),
        norm_vjp,
        (X,),
        [
            Bug("not divided by the norm", lambda i, dy, right: [dy * i[0]]),
            Bug("divided by the squared norm", lambda i, dy, right: [dy * i[0] / (i[0] ** 2).sum()]),
        ],
    ),
    Op(
        "gather with repeats",
        lambda x: x[INDEX],
        gathered_vjp,
        (X,),
        [
            Bug("repeats overwritten", overwritten),
        ],
    ),
    Op(
        "cumulative sum",
        lambda x: x.cumsum(1),
        lambda x, dy: [dy[:, ::-1].cumsum(1)[:, ::-1]],
        (X,),
        [
            Bug("not reversed", lambda i, dy, right: [dy.cumsum(1)]),
        ],
    ),
    Op(
        "transpose",
        lambda x: x.T.copy(),
        lambda x, dy: [dy.T],
        (X,),
        [
            Bug("reshaped instead", lambda i, dy, right: [dy.reshape(i[0].shape)]),
        ],
    ),
    Op(
        "pad",
        lambda x: np.pad(x, 1),
        lambda x, dy: [dy[1:-1, 1:-1]],
        (X,),
        [
            Bug("cropped at the wrong corner", lambda i, dy, right: [dy[:-2, :-2]]),
            Bug("cropped one column off", lambda i, dy, right: [dy[1:-1, 2:]]),
        ],
    ),
    Op(
        "concatenate",
        lambda a, b: np.concatenate([a, b]),
        lambda a, b, dy: [dy[:3], dy[3:]],
        (X, normal(3, 4, seed=1)),
        [
            Bug("parts swapped", lambda i, dy, right: right[::-1]),
            Bug("the second part is 0", at(1, np.zeros_like)),
        ],
    ),
    Op(
        "flip",
        lambda x: x[:, ::-1].copy(),
        lambda x, dy: [dy[:, ::-1]],
        (X,),
        [
            Bug("not flipped back", lambda i, dy, right: [dy]),
        ],
    ),
    Op(
        "matrix product",
        lambda a, b: a @ b,
        product_vjp,
        (SQUARE, normal(3, 3, seed=1)),
        [
            Bug("left factor without the transpose", lambda i, dy, right: [dy @ i[1], right[1]]),
            Bug("right factor without the transpose", lambda i, dy, right: [right[0], i[0] @ dy]),
            Bug("right factor transposed", at(1, lambda g: g.T)),
        ],
    ),
]
