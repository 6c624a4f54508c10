"""Sums of squares that neither overflow nor vanish, for norms and variances.

    sum of x^2  =  scale^2 * sum of (x / scale)^2        scale: the power of two next to the largest |x|

A power of two divides without rounding. It is 1 where the squares are in range as they are, which the CPU looks at
first. A GPU would have to wait for that, so it scales at once.
"""

from __future__ import annotations

import math

import numpy as np

from minires.device import Array, array_module, is_cuda_array
from minires.ops.axes import Axes
from minires.ops.broadcast import summed


def sum_of_squares(x: Array, axes: Axes) -> tuple[Array, Array | float]:
    """Return the sum of (x / scale)^2 over ``axes``, which are kept with length 1, and the scale."""
    if not is_cuda_array(x):
        squares = summed(x * x, axes, keepdims=True)
        if are_in_range(squares, _count(x, axes)):
            return squares, 1.0
    scale = power_of_two(x, axes)
    x = x / scale
    return summed(x * x, axes, keepdims=True), scale


def squared_deviations(x: Array, axes: Axes) -> tuple[Array, Array | float]:
    """Return the sum of ((x - mean) / scale)^2 over ``axes``, which are kept with length 1, and the scale."""
    if not is_cuda_array(x):
        squares = _squared_deviations(x, axes)
        if are_in_range(squares, _count(x, axes)):
            return squares, 1.0
    scale = power_of_two(x, axes)
    return _squared_deviations(x / scale, axes), scale


def _squared_deviations(x: Array, axes: Axes) -> Array:
    deviation = x - summed(x, axes, keepdims=True) / max(_count(x, axes), 1)
    deviation *= deviation
    return summed(deviation, axes, keepdims=True)


def are_in_range(squares: Array, count: int) -> bool:
    """Tell whether sums of ``count`` squares are finite, and so large that the squares that vanished do not matter."""
    least = float(np.finfo(squares.dtype).tiny) * count
    return not squares.size or bool(squares.min() >= least and squares.max() < math.inf)


def power_of_two(x: Array, axes: Axes, *, of_smallest: bool = False) -> Array:
    """Return the power of two next to the largest |x| over ``axes``, which are kept; 1 if that is 0 or not finite.

    With ``of_smallest``, next to the smallest.
    """
    xp = array_module(x)
    if not _count(x, axes):
        return xp.ones([1 if axis in axes else length for axis, length in enumerate(x.shape)], x.dtype)
    magnitudes = xp.abs(x)
    extreme = (magnitudes.min if of_smallest else magnitudes.max)(axis=axes, keepdims=True)
    _, exponent = xp.frexp(xp.where((extreme > 0) & (extreme < math.inf), extreme, 1))
    return xp.ldexp(xp.ones_like(extreme), exponent - 1)


def _count(x: Array, axes: Axes) -> int:
    return math.prod(x.shape[axis] for axis in axes)
