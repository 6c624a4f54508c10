"""Logical NCHW, physical NHWC: the two views of one array, and the single copy at the door for anything else.

Activations have the logical shape (N, C, H, W) and lie in memory as (N, H, W, C). Convolution weights have the logical
shape (O, I/groups, R, S) and lie as (R, S, I/groups, O). A product over channels then reads contiguous memory, and a
1x1 convolution is a plain matrix product.
"""

from __future__ import annotations

from minires.device import Array, array_module


def to_nhwc(x: Array) -> Array:
    """(N, C, H, W) -> C-contiguous (N, H, W, C): a view of a channels-last array, a copy of any other."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def from_nhwc(y: Array) -> Array:
    """(N, H, W, C) -> logical (N, C, H, W) view."""
    return y.transpose(0, 3, 1, 2)


def in_memory_order(x: Array) -> tuple[Array, list[int]]:
    """Return ``x`` with its axes in the order in which they lie in memory, and the axes that bring them back."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return x.transpose(order), [order.index(axis) for axis in range(x.ndim)]


def to_rsio(w: Array) -> Array:
    """(O, I/groups, R, S) -> C-contiguous (R, S, I/groups, O): a view if it lies so already, else a copy."""
    return array_module(w).ascontiguousarray(w.transpose(2, 3, 1, 0))


def from_rsio(w: Array) -> Array:
    """(R, S, I/groups, O) -> logical (O, I/groups, R, S) view."""
    return w.transpose(3, 2, 0, 1)
