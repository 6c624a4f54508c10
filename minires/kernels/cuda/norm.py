"""Batch norm with residual and ReLU in as few passes over memory as there can be.

In channels-last memory x is a matrix of pixels by channels. Blocks take chunks of its rows.

    statistics   one pass: mean and squared deviations of each chunk, joined as by Chan, Golub and LeVeque 1979
    forward      one pass: normalise, add the residual, apply the ReLU
    backward     one pass for the sums of g and g * (x - mean), one for dx

Chunks depend on the shape alone and nothing is summed by atomics, so that results repeat bit for bit. Where x has 16
bits, what belongs to a channel is in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minires.device import Array, array_module
from minires.dtypes import wide_dtype
from minires.kernels.cuda.launch import backend, launch, named, vector_width, zeros

LANES, TEAMS = 32, 8  # of a block: across columns and down rows, as in norm.cu
STEP = 32  # rows that a block takes at once
BLOCKS = 1 << 10  # about as many as an H100 holds at once
ROW_NUMBERS = 256  # pixels of few channels are put together to rows of about so many


class Cut(NamedTuple):
    """How a matrix is cut into blocks.

    rows, columns : of the matrix, which may have several pixels in a row.
    width : how many columns a thread moves at once.
    height : rows to a chunk.
    grid : (chunks, blocks side by side).
    """

    rows: int
    columns: int
    width: int
    height: int
    grid: tuple[int, int]


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """(N, C, ...) -> mean and biased variance of each channel, both (C,); see the reference kernel of this name."""
    channels = x.shape[1]
    if x.size == 0:
        return zeros((channels,), wide_dtype(x.dtype)), zeros((channels,), wide_dtype(x.dtype))
    flat = _flat(x)
    cut = _cut(channels, flat)
    chunks = cut.grid[0]
    means, squares = (backend().empty((chunks, cut.columns), np.float64) for _ in range(2))
    rows, height = np.int64(cut.rows), np.int64(cut.height)
    kernel = named("moments", flat, cut.width)
    launch("norm", kernel, cut.grid, (LANES, TEAMS), flat, means, squares, rows, cut.columns, height)
    mean, var = (backend().empty((channels,), wide_dtype(x.dtype)) for _ in range(2))
    arguments = means, squares, mean, var, rows, cut.columns, height, chunks, channels
    launch("norm", named("join_moments", flat), (-(-channels // TEAMS),), (LANES, TEAMS), *arguments)
    return mean, var


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
    flat, added = _flat(x), None if residual is None else _flat(residual)
    y = backend().empty(flat.shape, x.dtype)
    if x.size:
        cut = _cut(x.shape[1], flat, added, y)
        vectors = (_contiguous(v) for v in (mean, invstd, weight, bias))
        sizes = np.int64(cut.rows), cut.columns, x.shape[1], np.int64(cut.height)
        kernel = named("normalise", flat, cut.width)
        launch("norm", kernel, cut.grid, (LANES, TEAMS), flat, *vectors, added, bool(relu), y, *sizes)
    return _unflat(y, x)


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
    channels = x.shape[1]
    g, flat, output = _flat(dy), _flat(x), _flat(y) if relu and y is not None else None
    dx = backend().empty(flat.shape, x.dtype)
    dresidual = backend().empty(flat.shape, x.dtype) if needs_residual and relu else None
    if x.size == 0:
        dweight, dbias = (zeros((channels,), wide_dtype(x.dtype)) for _ in range(2))
    else:
        cut = _cut(channels, g, flat, output, dx, dresidual)
        vectors = *(_contiguous(v) for v in (mean, invstd, weight, bias)), relu and y is None
        dweight, dbias = _parameter_gradients(g, flat, output, vectors, cut, channels)
        sizes = np.int64(cut.rows), cut.columns, channels, np.int64(cut.height)
        count = np.float64(x.size // channels)
        arguments = g, flat, output, *vectors, dweight, dbias, bool(training), count, dx, dresidual, *sizes
        launch("norm_grad", named("input_grad", flat, cut.width), cut.grid, (LANES, TEAMS), *arguments)
    if needs_residual:
        return _unflat(dx, x), dweight, dbias, dy if dresidual is None else _unflat(dresidual, x)
    return _unflat(dx, x), dweight, dbias, None


def _parameter_gradients(
    g: Array, x: Array, y: Array | None, vectors: tuple, cut: Cut, channels: int
) -> tuple[Array, Array]:
    """Return dweight and dbias, both (C,); the vectors are mean, invstd, weight, bias and whether they are the gate."""
    chunks, (_, invstd, *_) = cut.grid[0], vectors
    sums, products = (backend().empty((chunks, cut.columns), np.float64) for _ in range(2))
    sizes = np.int64(cut.rows), cut.columns, channels, np.int64(cut.height)
    kernel = named("gradient_sums", x, cut.width)
    launch("norm_grad", kernel, cut.grid, (LANES, TEAMS), g, x, y, *vectors, sums, products, *sizes)
    dweight, dbias = (backend().empty((channels,), wide_dtype(x.dtype)) for _ in range(2))
    arguments = sums, products, invstd, dweight, dbias, cut.columns, chunks, channels
    launch("norm_grad", named("join_sums", x), (-(-channels // TEAMS),), (LANES, TEAMS), *arguments)
    return dweight, dbias


def _cut(channels: int, *arrays: Array | None) -> Cut:
    """Cut pixels of ``channels`` into blocks; the arrays, flat and of one size, are what a kernel moves."""
    size = arrays[0].size  # type: ignore[union-attr]
    pixels = size // channels
    fold = math.gcd(pixels, max(1, ROW_NUMBERS // channels))
    rows, columns = pixels // fold, fold * channels
    width = vector_width(columns, *arrays)
    across = -(-columns // (LANES * width))
    height = -(-rows // max(1, BLOCKS // across))
    height += -height % STEP
    return Cut(rows, columns, width, height, (-(-rows // height), across))


def _flat(x: Array) -> Array:
    """(N, C, ...) -> all numbers in one row, channels innermost."""
    xp = array_module(x)
    return xp.ascontiguousarray(xp.moveaxis(x, 1, -1)).reshape(-1)


def _unflat(flat: Array, x: Array) -> Array:
    """Undo `_flat`: the logical shape of x, channels innermost in memory."""
    return array_module(x).moveaxis(flat.reshape(x.shape[0], *x.shape[2:], x.shape[1]), -1, 1)


def _contiguous(v: Array | None) -> Array | None:
    return None if v is None else array_module(v).ascontiguousarray(v)
