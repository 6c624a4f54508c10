"""Bugs of pooling and resampling."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, first, normal, put, scaled


def windows(x, kernel, stride):
    """Each window of a plane: where it lies, and its output pixel."""
    for p, top in enumerate(range(0, x.shape[2] - kernel + 1, stride)):
        for q, left in enumerate(range(0, x.shape[3] - kernel + 1, stride)):
            yield (..., slice(top, top + kernel), slice(left, left + kernel)), (..., p, q)


def pooled(x, kernel, stride, reduce):
    side = (x.shape[2] - kernel) // stride + 1
    y = np.zeros((*x.shape[:2], side, side))
    for where, out in windows(x, kernel, stride):
        y[out] = reduce(x[where], axis=(2, 3))
    return y


def max_pool(x, kernel=2, stride=2):
    return pooled(x, kernel, stride, np.max)


def max_pool_vjp(x, dy, kernel=2, stride=2, pick=np.argmax, overwrite=False, ties=False):
    dx = np.zeros_like(x)
    for where, out in windows(x, kernel, stride):
        flat = x[where].reshape(*x.shape[:2], -1)
        share = np.zeros_like(flat)
        if ties:
            share[flat == flat.max(-1, keepdims=True)] = 1
        else:
            np.put_along_axis(share, pick(flat, axis=-1)[..., None], 1, -1)
        part = share.reshape(x[where].shape) * dy[out][..., None, None]
        dx[where] = np.where(part != 0, part, dx[where]) if overwrite else dx[where] + part
    return [dx]


def avg_pool(x, kernel=2, stride=2):
    return pooled(x, kernel, stride, np.mean)


def avg_pool_vjp(x, dy, kernel=2, stride=2):
    dx = np.zeros_like(x)
    for where, out in windows(x, kernel, stride):
        dx[where] += dy[out][..., None, None] / kernel**2
    return [dx]


def global_avg_pool(x):
    return x.mean((2, 3))


def global_avg_pool_vjp(x, dy):
    return [np.broadcast_to(dy[..., None, None], x.shape) / (x.shape[2] * x.shape[3])]


def uneven(x):
    """Adaptive average pooling of a row of 5 to 2: windows of 3 that share a pixel."""
    return np.stack([x[:, :3].mean(1), x[:, 2:].mean(1)], 1)


def uneven_vjp(x, dy):
    dx = np.zeros_like(x)
    dx[:, :3] += dy[:, :1] / 3
    dx[:, 2:] += dy[:, 1:] / 3
    return [dx]


def nearest(x):
    return x.repeat(2, 2).repeat(2, 3)


def nearest_vjp(x, dy):
    n, c, h, w = x.shape
    return [dy.reshape(n, c, h, 2, w, 2).sum((3, 5))]


def overlapping(**options):
    return lambda i, dy, right: max_pool_vjp(*i, dy, 3, 2, **options)


X = normal(2, 2, 4, 4)
OPS = [
    Op(
        "max pool",
        max_pool,
        max_pool_vjp,
        (X,),
        [
            Bug(
                "to the first pixel instead of the largest",
                lambda i, dy, right: max_pool_vjp(*i, dy, pick=lambda a, axis: np.zeros(a.shape[:-1], int)),
            ),
            Bug("to the smallest pixel", lambda i, dy, right: max_pool_vjp(*i, dy, pick=np.argmin)),
            Bug("to every pixel", lambda i, dy, right: [nearest(dy)]),
            Bug("shared by all pixels", lambda i, dy, right: [nearest(dy) / 4]),
            Bug("off by 1e-4 in one window", first(lambda g: scaled(g, (0, 0, slice(0, 2), slice(0, 2)), 1 + 1e-4))),
        ],
    ),
    Op(
        "max pool, overlapping",
        lambda x: max_pool(x, 3, 2),
        lambda x, dy: max_pool_vjp(x, dy, 3, 2),
        (np.arange(98.0).reshape(2, 1, 7, 7) % 11 + normal(2, 1, 7, 7) / 4,),
        [
            Bug("overwritten where windows overlap", overlapping(overwrite=True)),
            Bug("one pixel too far left", first(lambda g: np.roll(g, -1, 3))),
        ],
    ),
    Op(
        "max pool at ties",
        max_pool,
        max_pool_vjp,
        (np.round(X),),
        [Bug("all of the gradient to each of the equal largest", lambda i, dy, right: max_pool_vjp(*i, dy, ties=True))],
    ),
    Op(
        "average pool",
        lambda x: avg_pool(x, 3, 1),
        lambda x, dy: avg_pool_vjp(x, dy, 3, 1),
        (normal(2, 2, 5, 5),),
        [
            Bug("not divided by the window", first(lambda g: g * 9)),
            Bug("divided by one side of the window", first(lambda g: g * 3)),
            Bug("border pixels divided by fewer", first(lambda g: scaled(g, (..., 0, slice(None)), 1.5))),
            Bug("one corner pixel is 0", first(lambda g: put(g, (0, 0, -1, -1), 0))),
        ],
    ),
    Op(
        "global average pool",
        global_avg_pool,
        global_avg_pool_vjp,
        (normal(2, 3, 4, 5),),
        [
            Bug("divided by the height only", first(lambda g: g * 5)),
            Bug("to one pixel only", lambda i, dy, right: [put(np.zeros_like(i[0]), (..., 0, 0), dy)]),
        ],
    ),
    Op(
        "adaptive average pool",
        uneven,
        uneven_vjp,
        (normal(2, 5),),
        [
            Bug("the shared pixel counts once", first(lambda g: scaled(g, (slice(None), 2), 0.5))),
            Bug("windows divided by the mean size", first(lambda g: g * 3 / 2.5)),
        ],
    ),
    Op(
        "upsample nearest",
        nearest,
        nearest_vjp,
        (normal(1, 2, 3, 3),),
        [
            Bug("averaged instead of summed", first(lambda g: g / 4)),
            Bug("only one of the copies counts", lambda i, dy, right: [dy[..., ::2, ::2]]),
        ],
    ),
]
