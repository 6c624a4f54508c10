"""Special functions that array libraries lack."""

from __future__ import annotations

import importlib
import math

import numpy as np

from minires.device import Array, is_cuda_array


def erf(x: Array) -> Array:
    """The Gauss error function, elementwise, any shape."""
    if is_cuda_array(x):
        return importlib.import_module("cupyx.scipy.special").erf(x)
    return np.vectorize(math.erf, otypes=[x.dtype])(x)
