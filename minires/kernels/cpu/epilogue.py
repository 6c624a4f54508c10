"""What follows a convolution, done to each sum before it leaves the registers: bias, residual and ReLU.

A pass of its own would read and write the whole output once more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import kernel
from minires.kernels.layout import to_nhwc

NOTHING, BIAS, BIAS_AND_RESIDUAL = 0, 1, 2


class Epilogue(NamedTuple):
    """y = max(sum + bias + residual, floor), as compiled functions take it.

    steps : NOTHING (y = sum), BIAS (without the residual) or BIAS_AND_RESIDUAL
    bias : (O,)
    residual : the numbers of an array that lies as y does; empty if there is none
    floor : 0 for ReLU, minus infinity for none; a NaN stays one
    """

    steps: int
    bias: Array
    residual: Array
    floor: np.floating


def no_epilogue(channels: int, dtype: np.dtype) -> Epilogue:
    """Return what leaves y as it is."""
    return Epilogue(NOTHING, np.zeros(channels, dtype), np.empty(0, dtype), dtype.type(-np.inf))


def bias_add_relu(bias: Array, residual: Array | None, relu: bool) -> Epilogue:
    """Return the epilogue of bias (O,), residual (N, O, P, Q) or None, and a ReLU or none."""
    floor = bias.dtype.type(0 if relu else -np.inf)
    if residual is None:
        return Epilogue(BIAS, bias, np.empty(0, bias.dtype), floor)
    return Epilogue(BIAS_AND_RESIDUAL, bias, to_nhwc(residual).reshape(-1), floor)


@kernel
def finish(value, steps, bias, residual, floor):
    """What becomes of one sum; the numbers are those of its place."""
    if steps == NOTHING:
        return value
    value += bias
    if steps == BIAS_AND_RESIDUAL:
        value += residual
    return floor if value < floor else value
