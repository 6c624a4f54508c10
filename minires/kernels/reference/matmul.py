"""Matrix products."""

from __future__ import annotations

from minires.device import Array, array_module


def matmul(a: Array, b: Array) -> Array:
    """(..., n, k) by (..., k, m) -> (..., n, m); the axes before broadcast."""
    return array_module(a).matmul(a, b)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """(..., I) by (O, I), plus (O,) if given -> (..., O): y = x w^T + b."""
    y = matmul(x, w.T)
    if b is not None:
        y += b
    return y
