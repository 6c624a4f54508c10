"""Kernels: array in, array out. They know nothing of Tensors or graphs, and trust their callers' shapes.

`reference` is the readable truth in plain array code, on NumPy or CuPy. `cpu` holds the same functions compiled by
Numba, `cuda` in CUDA C++. `kernels_for` picks the module for an array; `use_reference` makes it pick the readable one
everywhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from minires.device import Array, is_cuda_array
from minires.dtypes import is_half
from minires.kernels import reference
from minires.kernels.algorithm import conv_algorithm
from minires.kernels.precision import get_float32_matmul_precision, set_float32_matmul_precision
from minires.kernels.threads import get_num_threads, set_num_threads
from minires.kernels.widened import Widened

__all__ = [
    "conv_algorithm",
    "get_float32_matmul_precision",
    "get_num_threads",
    "is_compiled_for",
    "kernels_for",
    "set_float32_matmul_precision",
    "set_num_threads",
    "use_reference",
]

_reference_only = False


def kernels_for(array: Array) -> Any:
    """Return the kernel module for ``array``: `cuda` for a CuPy array; `cpu`, or `reference` where Numba is missing.

    For 16-bit numbers the last two come `Widened`.
    """
    if is_cuda_array(array) and not _reference_only:
        return _cuda_kernels()
    kernels = reference if _reference_only else _cpu_kernels()
    return _widened(kernels) if is_half(array.dtype) else kernels


def is_compiled_for(array: Array) -> bool:
    """Tell whether `kernels_for` gives the kernels of `cpu`, which can be recorded (`minires.kernels.cpu.program`)."""
    return kernels_for(array) is _cpu_kernels() is not reference


@contextmanager
def use_reference() -> Iterator[None]:
    """Run everything inside on the readable reference kernels, to study them or to rule out a compiled one."""
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before


@cache
def _cpu_kernels() -> ModuleType:
    """Import the compiled kernels on first use: Numba takes longer to import than all of minires."""
    if importlib.util.find_spec("numba") is None:  # no Numba for this platform: slower, not wrong
        return reference
    from minires.kernels import cpu

    return cpu


@cache
def _widened(kernels: ModuleType) -> Widened:
    return Widened(kernels)


@cache
def _cuda_kernels() -> ModuleType:
    from minires.kernels import cuda

    return cuda
