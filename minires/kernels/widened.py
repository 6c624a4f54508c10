"""16-bit numbers on kernels that know only float32 and float64: widened at the door, and rounded on the way out.

The CUDA kernels take 16-bit numbers themselves and compute in float32. Here the others do the same, at the price of a
copy of every operand.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from minires.device import Array, is_cuda_array
from minires.dtypes import is_half
from minires.kernels import reference


class Widened:
    """The kernels of a module, for arrays of 16 bits.

    Results are rounded to the dtype of the first operand. What belongs to a channel, such as the mean of a batch norm,
    stays in float32: it has one axis where the operand has more.
    """

    cast = staticmethod(reference.cast)

    def __init__(self, kernels: ModuleType):
        self._kernels = kernels

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel = getattr(self._kernels, name)

        def run(first: Array, *others: Any) -> Any:
            def rounded(result: Any) -> Any:
                if not _is_array(result) or result.dtype.kind != "f" or result.ndim == 1 < first.ndim:
                    return result
                return result.astype(first.dtype)

            result = kernel(*(_widened(operand) for operand in (first, *others)))
            return tuple(rounded(part) for part in result) if isinstance(result, tuple) else rounded(result)

        return run


def _widened(operand: Any) -> Any:
    return operand.astype(np.float32) if _is_array(operand) and is_half(operand.dtype) else operand


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_cuda_array(value)
