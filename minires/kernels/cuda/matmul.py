"""Matrix products by our own cuBLAS handle, since CuPy's cannot be captured."""

from __future__ import annotations

import math

import numpy as np

from minires.device import Array, array_module
from minires.kernels import reference
from minires.kernels.cuda.blas import Matrices
from minires.kernels.cuda.launch import backend, launch_over, named, vector_width, zeros
from minires.kernels.cuda.source import TYPES


def matmul(a: Array, b: Array) -> Array:
    """(..., n, k) by (..., k, m) -> (..., n, m); the axes before broadcast."""
    if str(a.dtype) not in TYPES:
        return reference.matmul(a, b)
    (n, k), m = a.shape[-2:], b.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if 0 in (*batch, n, k, m):
        return zeros((*batch, n, m), a.dtype)
    y = backend().empty((*batch, n, m), a.dtype)
    target = Matrices(y, m, n * m)
    backend().blas().multiply(_by_rows(a, batch), _by_rows(b, batch), target, (n, m, k), math.prod(batch))
    return y


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """(..., I) by (O, I), plus (O,) if given -> (..., O): y = x w^T + b."""
    y = matmul(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w.T)
    if b is not None:
        bias = array_module(b).ascontiguousarray(b)
        width = vector_width(len(bias), y, bias)
        launch_over("elementwise", named("add_bias_relu", y, width), y.size, width, y, bias, None, False, len(bias))
    return y.reshape(*x.shape[:-1], w.shape[0])


def _by_rows(x: Array, batch: tuple[int, ...]) -> Matrices:
    """Describe matrices (..., rows, columns): where they lie if rows or columns follow one another, else in a copy."""
    if math.prod(x.shape[:-2]) not in (1, math.prod(batch)):
        x = array_module(x).broadcast_to(x, (*batch, *x.shape[-2:]))
    transposed = not x.flags.c_contiguous and x.swapaxes(-1, -2).flags.c_contiguous
    if not transposed:
        x = array_module(x).ascontiguousarray(x)
    rows, columns = x.shape[-2:]
    step = rows * columns if x.size > rows * columns else 0
    return Matrices(x, rows if transposed else columns, step, transposed)
