"""Sums over axes."""

from __future__ import annotations

from minires.device import Array


def sum_axes(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over axes, none negative, which are kept with length 1."""
    return x.sum(axis=axes, keepdims=True)
