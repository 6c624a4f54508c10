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

from minires.device import Array, is_cuda_array
from minires.kernels import reference
from minires.kernels.algorithm import conv_algorithm
from minires.kernels.precision import get_float32_matmul_precision, set_float32_matmul_precision
from minires.kernels.threads import get_num_threads, set_num_threads

__all__ = [
    "conv_algorithm",
    "get_float32_matmul_precision",
    "get_num_threads",
    "kernels_for",
    "set_float32_matmul_precision",
    "set_num_threads",
    "use_reference",
]

_reference_only = False


def kernels_for(array: Array) -> ModuleType:
    """Return the kernel module for ``array``: `cuda` for a CuPy array; `cpu`, or `reference` where Numba is missing."""
    if _reference_only:
        return reference
    return _cuda_kernels() if is_cuda_array(array) else _cpu_kernels()


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
def _cuda_kernels() -> ModuleType:
    from minires.kernels import cuda

    return cuda
