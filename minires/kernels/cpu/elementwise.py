"""Elementwise kernels: the ReLU, a sum of two and the error function over all numbers in memory order."""

from __future__ import annotations

import math

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import SERIAL_WORK, kernel, launch
from minires.kernels.cpu.memory import empty
from minires.kernels.layout import from_nhwc, to_nhwc


def add(a: Array, b: Array, out: Array | None = None) -> Array:
    """a + b, of one shape and dtype; see the reference kernel of this name."""
    if a.size < SERIAL_WORK or a.dtype.kind != "f":
        return np.asarray(np.add(a, b, out=out))  # NumPy makes a scalar of a 0-dimensional result
    first, second = _flat(a), _flat(b)
    total = empty(first.shape, first.dtype) if out is None else _flat(out)
    if out is not None and not np.may_share_memory(total, out):  # a copy, in another order
        return np.add(a, b, out=out)
    launch(_add, total.size, 2 * total.size, first, second, total)
    return _unflat(total, a) if out is None else out


def relu(x: Array) -> Array:
    """max(x, 0), any shape; a NaN stays NaN."""
    flat = _flat(x)
    y = empty(flat.shape, flat.dtype)
    launch(_relu, flat.size, flat.size, flat, y)
    return _unflat(y, x)


def relu_grad(dy: Array, y: Array) -> Array:
    """Gradient of `relu` from its output: dy where y is positive or NaN, else 0."""
    g, output = _flat(dy), _flat(y)
    dx = empty(g.shape, g.dtype)
    launch(_relu_grad, g.size, 2 * g.size, g, output, dx)
    return _unflat(dx, dy)


def erf(x: Array) -> Array:
    """Gauss error function, 2 / sqrt(pi) * integral from 0 to x of exp(-t^2) dt, any shape."""
    flat = _flat(x)
    y = empty(flat.shape, flat.dtype)
    launch(_erf, flat.size, 8 * flat.size, flat, y)
    return _unflat(y, x)


def _flat(x: Array) -> Array:
    """All elements in one row, channels innermost in four dimensions."""
    return (to_nhwc(x) if x.ndim == 4 else np.ascontiguousarray(x)).reshape(-1)


def _unflat(flat: Array, x: Array) -> Array:
    """Undo `_flat`: the shape of x, channels-last in four dimensions."""
    if x.ndim != 4:
        return flat.reshape(x.shape)
    n, c, h, w = x.shape
    return from_nhwc(flat.reshape(n, h, w, c))


@kernel
def _add(start, stop, a, b, total):
    for i in range(start, stop):
        total[i] = a[i] + b[i]


@kernel
def _relu(start, stop, x, y):
    for i in range(start, stop):
        y[i] = 0 if x[i] <= 0 else x[i]


@kernel
def _relu_grad(start, stop, dy, y, dx):
    for i in range(start, stop):
        dx[i] = 0 if y[i] <= 0 else dy[i]


@kernel
def _erf(start, stop, x, y):
    for i in range(start, stop):
        y[i] = math.erf(x[i])
