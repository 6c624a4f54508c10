"""Batch norm with residual and ReLU in as few passes over memory as there can be.

In channels-last memory x is a matrix of M pixels by C channels, cut into chunks of rows that fit in cache.

    statistics   one pass: mean and squared deviations of each chunk, two passes over what is in cache; chunks are then
                 joined by the formula of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
                 computing sample variances", 1979. As accurate as two passes over memory.
    forward      one pass: normalise, add the residual, apply the ReLU.
    backward     one pass for the sums of g and g * (x - mean), one for dx; without a residual neither reads y, since
                 computing it from x again takes less time than fetching it from memory.

Sums are in double precision. Chunks depend on the shape alone, so that any number of threads gives the same bits.
"""

from __future__ import annotations

import math

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.memory import empty

CHUNK_BYTES = 1 << 17  # a few arrays of this size fit in L2 together


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """(N, C, ...) -> mean and biased variance of each channel, both (C,); see the reference kernel of this name."""
    rows = _rows(x)
    height, chunks = _chunks(rows)
    means, squares = np.zeros((2, chunks, rows.shape[1]))
    launch(_moments, chunks, rows.size, height, rows, means, squares)
    channels = x.shape[1]
    mean, var = np.zeros((2, channels))
    # A folded row holds several pixels: each is a chunk of its own from here on.
    fold = rows.shape[1] // max(1, channels)
    _join(rows.shape[0], height, fold, means.reshape(-1, channels), squares.reshape(-1, channels), mean, var)
    return mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm(
    x: Array,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
) -> Array:
    """y = relu((x - mean) * invstd * weight + bias + residual); see the reference kernel of this name."""
    rows = _rows(x)
    height, chunks = _chunks(rows)
    scale = _folded(invstd if weight is None else invstd * weight, rows)
    offset = _folded(np.zeros_like(mean) if bias is None else bias, rows)
    added = np.empty((0, 0), x.dtype) if residual is None else _rows(residual)
    floor = x.dtype.type(0 if relu else -np.inf)
    y = empty(rows.shape, rows.dtype)
    launch(_normalise, chunks, 2 * rows.size, height, rows, _folded(mean, rows), scale, offset, added, floor, y)
    return _unrows(y, x)


def batch_norm_grad(
    dy: Array,
    x: Array,
    y: Array | None,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    bias: Array | None,
    relu: bool,
    training: bool,
    needs_residual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients of `batch_norm`: (dx, dweight, dbias, dresidual); see the reference kernel of this name."""
    rows, dy_rows = _rows(x), _rows(dy)
    height, chunks = _chunks(rows)
    channels = x.shape[1]
    centre = _folded(mean, rows)
    scale = _folded(invstd if weight is None else invstd * weight, rows)
    # Where the ReLU was open is read from y; where there is none, it is computed from x once more in both passes.
    output = _rows(y) if relu and y is not None else np.empty((0, 0), x.dtype)
    g = empty(rows.shape, rows.dtype) if output.size else dy_rows
    if not relu or output.size:
        offset = np.full(rows.shape[1], np.inf, x.dtype)  # a gate that is always open
    else:
        offset = _folded(np.zeros_like(mean) if bias is None else bias, rows)
    sums, products = np.zeros((2, chunks, rows.shape[1]))
    vectors = centre, scale, offset
    launch(_gradient_sums, chunks, 3 * rows.size, height, dy_rows, rows, output, *vectors, g, sums, products)
    dbias = sums.reshape(-1, channels).sum(axis=0)
    dweight = products.reshape(-1, channels).sum(axis=0) * invstd

    # dx = scale * (g - shift - (x - mean) * slope), over g where nobody else sees it
    count = max(1, x.size // max(1, channels))
    shift = _folded((dbias / count).astype(x.dtype), rows)
    slope = _folded((dweight / count * invstd).astype(x.dtype), rows)
    dx = g if output.size and not needs_residual else empty(rows.shape, rows.dtype)
    launch(_input_grad, chunks, 2 * rows.size, height, g, rows, *vectors, shift, slope, training, dx)
    dresidual = None
    if needs_residual:
        dresidual = _unrows(g, x) if relu else dy
    return _unrows(dx, x), dweight.astype(x.dtype), dbias.astype(x.dtype), dresidual


def _rows(x: Array) -> Array:
    """(N, C, ...) -> (M / k, k * C): pixels by channels, k pixels to a row where C alone is short for a vector loop."""
    channels = x.shape[1]
    pixels = x.size // max(1, channels)
    fold = math.gcd(pixels, max(1, 256 // max(1, channels)))
    channels_last = x.transpose(0, *range(2, x.ndim), 1)
    return np.ascontiguousarray(channels_last).reshape(pixels // fold, fold * channels)


def _unrows(rows: Array, x: Array) -> Array:
    """Undo `_rows`: the logical shape of x, channels innermost in memory."""
    channels_last = rows.reshape(x.shape[0], *x.shape[2:], x.shape[1])
    return channels_last.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def _folded(v: Array, rows: Array) -> Array:
    """(C,) -> (k * C,): values per channel, for rows of k pixels."""
    times = rows.shape[1] // max(1, v.size)
    if times == 1:
        return v.astype(rows.dtype, copy=False)
    repeated = np.empty((times, v.size), rows.dtype)
    repeated[...] = v
    return repeated.reshape(-1)


def _chunks(rows: Array) -> tuple[int, int]:
    """(rows to a chunk, number of chunks)."""
    height = max(1, CHUNK_BYTES // max(1, rows.itemsize * rows.shape[1]))
    return height, -(-rows.shape[0] // height)


@kernel
def _moments(start, stop, height, x, means, squares):
    """Mean and sum of squared deviations of each column in chunks ``start`` to ``stop``."""
    for chunk in range(start, stop):
        rows = x[chunk * height : (chunk + 1) * height]
        mean, square = means[chunk], squares[chunk]
        for i in range(rows.shape[0]):
            for c in range(mean.size):
                mean[c] += rows[i, c]
        for c in range(mean.size):
            mean[c] /= rows.shape[0]
        for i in range(rows.shape[0]):
            for c in range(mean.size):
                square[c] += (rows[i, c] - mean[c]) ** 2


@kernel
def _join(total, height, fold, means, squares, mean, var):
    """Mean and variance of each channel from the moments of chunks; ``fold`` of them have the same rows."""
    for part in range(means.shape[0]):
        count = min(height, total - part // fold * height)
        for c in range(mean.size):
            mean[c] += count * means[part, c]
    mean /= max(1, total * fold)
    for part in range(means.shape[0]):
        count = min(height, total - part // fold * height)
        for c in range(mean.size):
            var[c] += squares[part, c] + count * (means[part, c] - mean[c]) ** 2
    var /= max(1, total * fold)


@kernel
def _affine(x, mean, scale, offset):
    """One number normalised; forward and backward share it, so that they agree to the bit on the ReLU's side."""
    return (x - mean) * scale + offset


@kernel
def _normalise(start, stop, height, x, mean, scale, offset, residual, floor, y):
    for i in range(start * height, min(stop * height, x.shape[0])):
        if residual.size == 0:
            for c in range(mean.size):
                value = _affine(x[i, c], mean[c], scale[c], offset[c])
                y[i, c] = floor if value < floor else value  # in this form a NaN stays
        else:
            for c in range(mean.size):
                value = _affine(x[i, c], mean[c], scale[c], offset[c]) + residual[i, c]
                y[i, c] = floor if value < floor else value


@kernel
def _gated(g, x, mean, scale, offset):
    """What a ReLU behind `_affine` lets through of a gradient."""
    return type(g)(0) if _affine(x, mean, scale, offset) <= 0 else g


@kernel
def _gradient_sums(start, stop, height, dy, x, y, mean, scale, offset, g, sums, products):
    """Sums of g and g * (x - mean) over each chunk; with a ReLU output y, g is dy where y is not <= 0, and kept."""
    for chunk in range(start, stop):
        total, product = sums[chunk], products[chunk]
        for i in range(chunk * height, min((chunk + 1) * height, x.shape[0])):
            if y.size > 0:
                for c in range(mean.size):
                    g[i, c] = 0 if y[i, c] <= 0 else dy[i, c]
                for c in range(mean.size):
                    total[c] += g[i, c]
                    product[c] += np.float64(g[i, c]) * (x[i, c] - mean[c])
            else:
                for c in range(mean.size):
                    value = np.float64(_gated(dy[i, c], x[i, c], mean[c], scale[c], offset[c]))
                    total[c] += value
                    product[c] += value * (x[i, c] - mean[c])


@kernel
def _input_grad(start, stop, height, g, x, mean, scale, offset, shift, slope, training, dx):
    for i in range(start * height, min(stop * height, x.shape[0])):
        if training:
            for c in range(mean.size):
                value = _gated(g[i, c], x[i, c], mean[c], scale[c], offset[c])
                dx[i, c] = (value - shift[c] - (x[i, c] - mean[c]) * slope[c]) * scale[c]
        else:
            for c in range(mean.size):
                dx[i, c] = _gated(g[i, c], x[i, c], mean[c], scale[c], offset[c]) * scale[c]
