"""Elementwise kernels: the ReLU, a sum of two, casts and the error function over all numbers in memory order."""

from __future__ import annotations

import numpy as np

from minires.device import Array, array_module
from minires.kernels import reference
from minires.kernels.cuda.launch import backend, launch_over, named, vector_width
from minires.kernels.cuda.source import TYPES, cast_instance, cast_width
from minires.kernels.layout import from_nhwc, in_memory_order, to_nhwc


def add(a: Array, b: Array, out: Array | None = None) -> Array:
    """a + b, of one shape and dtype; see the reference kernel of this name."""
    return _map("add", a, b) if out is None and str(a.dtype) in TYPES else reference.add(a, b, out)


def relu(x: Array) -> Array:
    """max(x, 0), any shape; a NaN stays NaN."""
    return _map("relu", x) if str(x.dtype) in TYPES else reference.relu(x)


def relu_grad(dy: Array, y: Array) -> Array:
    """Gradient of `relu` from its output: dy where y is positive or NaN, else 0."""
    return _map("relu_grad", dy, y) if str(dy.dtype) in TYPES else reference.relu_grad(dy, y)


def cast(x: Array, dtype: np.dtype) -> Array:
    """x in another dtype, in the same order in memory."""
    if str(x.dtype) == str(dtype) or not {str(x.dtype), str(dtype)} <= TYPES.keys():
        return reference.cast(x, dtype)
    dense, back = in_memory_order(x)
    flat = array_module(x).ascontiguousarray(dense).reshape(-1)
    y = backend().empty(flat.shape, dtype)
    aligned = vector_width(0, flat) > 1 and vector_width(0, y) > 1
    width = cast_width(flat.dtype, y.dtype) if aligned else 1
    launch_over("elementwise", cast_instance(flat.dtype, y.dtype, width), y.size, width, flat, y)
    return y.reshape(dense.shape).transpose(back)


def erf(x: Array) -> Array:
    """Gauss error function, 2 / sqrt(pi) * integral from 0 to x of exp(-t^2) dt, any shape."""
    return _map("error_function", x)


def _map(kernel: str, *inputs: Array) -> Array:
    """Run a kernel over arrays of one shape and dtype; the result lies channels-last if it has four dimensions."""
    flat = [_flat(x) for x in inputs]
    result = backend().empty(flat[0].shape, flat[0].dtype)
    width = vector_width(0, *flat, result)  # these kernels mind the end of an array themselves
    launch_over("elementwise", named(kernel, result, width), result.size, width, *flat, result)
    return _unflat(result, inputs[0])


def _flat(x: Array) -> Array:
    """All elements in one row, channels innermost in four dimensions."""
    return (to_nhwc(x) if x.ndim == 4 else array_module(x).ascontiguousarray(x)).reshape(-1)


def _unflat(flat: Array, x: Array) -> Array:
    """Undo `_flat`: the shape of x, channels-last in four dimensions."""
    if x.ndim != 4:
        return flat.reshape(x.shape)
    n, c, h, w = x.shape
    return from_nhwc(flat.reshape(n, h, w, c))
