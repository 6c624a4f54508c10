"""Matrix products on the block of `microkernel`, by the threads of `launch`.

NumPy gives them to its BLAS. That one's own threads go on looking for work for some 30 ms after each product; on few
processors they are in the way of every kernel that comes next.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from minires.device import Array
from minires.kernels import reference
from minires.kernels.cpu.blocks import Blocks, Windows, in_blocks, multiply
from minires.kernels.cpu.epilogue import bias_add_relu
from minires.kernels.cpu.launch import kernel, launch
from minires.kernels.cpu.memory import empty
from minires.kernels.cpu.microkernel import ROWS
from minires.kernels.cpu.panels import pack_filters

BLAS_WORK = 1 << 13  # multiplications that OpenBLAS does in the calling thread


def matmul(a: Array, b: Array) -> Array:
    """(..., n, k) by (..., k, m) -> (..., n, m); see the reference kernel of this name. Batches are left to NumPy."""
    if a.ndim != 2 or b.ndim != 2 or not _is_worth_it(a, b):
        return reference.matmul(a, b)
    return _product(a, b, np.zeros(b.shape[1], a.dtype))


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """(..., I) by (O, I), plus (O,) if given -> (..., O): y = x w^T + b; see the reference kernel of this name."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if not _is_worth_it(rows, w.T):
        return reference.linear(x, w, b)
    return _product(rows, w.T, np.zeros(len(w), x.dtype) if b is None else b).reshape(*x.shape[:-1], len(w))


def _is_worth_it(a: Array, b: Array) -> bool:
    can_count = max(a.size, b.size, len(a) * b.shape[1]) <= np.iinfo(np.int32).max
    return a.dtype == b.dtype and a.dtype in (np.float32, np.float64) and len(a) * b.size > BLAS_WORK and can_count


def _product(a: Array, b: Array, bias: Array) -> Array:
    """(n, k), (k, m), (m,) -> (n, m)"""
    n, m = len(a), b.shape[1]
    y, a, bias = empty((n, m), a.dtype), np.ascontiguousarray(a), np.ascontiguousarray(bias)
    if n < ROWS // 2 and b.T.flags.c_contiguous:
        launch(_dot_products, m, b.size, a, b.T, bias, y)
        return y
    if b.T.flags.c_contiguous:
        panels = pack_filters(b.T[None], np.arange(1), 1, transposed=True)
    else:
        panels = pack_filters(np.ascontiguousarray(b)[None], np.arange(1), 1)
    multiply(a, panels, _row_blocks(n, *b.shape), y, bias_add_relu(bias, None, relu=False))
    return y


@lru_cache(maxsize=128)
def _row_blocks(n: int, k: int, m: int) -> Blocks:
    rows = np.arange(n, dtype=np.int32)
    return in_blocks(Windows(n, rows[:, None] * k, np.arange(1)), rows * m)


@kernel
def _dot_products(start, stop, a, b, bias, y):
    """Columns ``start`` to ``stop`` of y = a b^T + bias: for a few rows, b is not worth copying to panels."""
    for j in range(start, stop):
        for i in range(a.shape[0]):
            total = bias[j]
            for k in range(a.shape[1]):
                total += a[i, k] * b[j, k]
            y[i, j] = total
