"""Special functions that NumPy lacks."""

from __future__ import annotations

import math
from typing import Any

import numba

from minires.device import Array


@numba.vectorize([numba.float32(numba.float32), numba.float64(numba.float64)], cache=True)
def _erf(x: Any) -> Any:
    return math.erf(x)


def erf(x: Array) -> Array:
    """The Gauss error function, elementwise, any shape and memory order."""
    return _erf(x)
