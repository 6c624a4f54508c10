"""Elementwise kernels: a sum of two, the ReLU, casts, and the error function, which array libraries lack."""

from __future__ import annotations

import importlib
import math

import numpy as np

from minires.device import Array, array_module, is_cuda_array
from minires.kernels.reference.windows import channels_last


def add(a: Array, b: Array, out: Array | None = None) -> Array:
    """a + b, of one shape and dtype; written to ``out`` if given, which may be a or b."""
    if out is not None:
        return array_module(a).add(a, b, out=out)
    total = array_module(a).asarray(a + b)  # NumPy makes a scalar of a 0-dimensional result
    return channels_last(total) if a.ndim == 4 else total


def relu(x: Array) -> Array:
    """max(x, 0), elementwise, any shape; a NaN stays NaN."""
    xp = array_module(x)
    y = xp.asarray(xp.maximum(x, 0))
    return channels_last(y) if x.ndim == 4 else y


def relu_grad(dy: Array, y: Array) -> Array:
    """Gradient of `relu` from its output: dy where y is positive or NaN, else 0 (so 0 at 0, as in PyTorch)."""
    dx = array_module(dy).where(y <= 0, 0, dy)
    return channels_last(dx) if dx.ndim == 4 else dx


def cast(x: Array, dtype: np.dtype) -> Array:
    """x in another dtype, in the same order in memory."""
    return x.astype(dtype)


def erf(x: Array) -> Array:
    """The Gauss error function, elementwise, any shape."""
    if is_cuda_array(x):
        return importlib.import_module("cupyx.scipy.special").erf(x)
    return np.vectorize(math.erf, otypes=[x.dtype])(x)
