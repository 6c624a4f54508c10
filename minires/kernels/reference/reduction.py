"""Sums over axes."""

from __future__ import annotations

from minires.device import Array, array_module


def sum_axes(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over axes, none negative, which are kept with length 1.

    Floating-point numbers are added in double precision: added one after another in their own, as many as there are of
    them lose digits, and a million equal float32 numbers lose all but two.
    """
    xp = array_module(x)
    if x.dtype.kind != "f":
        return xp.asarray(x.sum(axis=axes, keepdims=True))
    return xp.asarray(x.sum(axis=axes, dtype=xp.float64, keepdims=True)).astype(x.dtype, copy=False)
