"""The backend of a real GPU: kernels compiled and launched by CuPy on its current stream."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np

from minires.device import Array, cupy
from minires.kernels.cuda.blas import Blas, load_cublas
from minires.kernels.cuda.launch import Size3
from minires.kernels.cuda.source import instances, source_text, type_of


def current_gpu() -> Gpu:
    """Return the backend of the device that CuPy works on at present."""
    return _gpu(cupy().cuda.runtime.getDevice())


class Gpu:
    """See `launch.Backend`. A source is compiled for a type on first use; CuPy keeps the result on disk."""

    def __init__(self, device: int):
        self.device = device
        self._functions: dict[tuple[str, str], dict[str, Any]] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of any content, from CuPy's memory pool."""
        return cupy().empty(shape, dtype)

    def from_host(self, array: np.ndarray) -> Array:
        """Return a copy of ``array`` on the GPU."""
        return cupy().asarray(array)

    def pointer(self, array: Array) -> int:
        """Return the address of the first element of ``array``."""
        return array.data.ptr

    def run(self, source: str, kernel: str, grid: Size3, block: Size3, arguments: tuple[Any, ...]) -> None:
        """Launch a kernel.

        Raises
        ------
        RuntimeError
            If it cannot be compiled here.
        """
        key = source, type_of(kernel)
        if key not in self._functions:
            self._functions[key] = self.compile(*key)
        # A null pointer as a number: CuPy takes None for an argument that is not there.
        given = tuple(np.int64(0) if argument is None else argument for argument in arguments)
        self._functions[key][kernel](grid, block, given)

    def blas(self) -> Blas:
        """Return the cuBLAS handle of the device, set to the current stream."""
        self._blas.set_stream(cupy().cuda.get_current_stream().ptr)
        return self._blas

    @cached_property
    def _blas(self) -> Blas:
        return Blas(load_cublas(), lambda size: self.empty((size,), np.uint8), self.pointer)

    def compile(self, source: str, number_type: str) -> dict[str, Any]:
        """Compile and load the kernels of a source for one type, a name of C++; return them by name.

        Raises
        ------
        RuntimeError
            If they cannot be compiled here.
        """
        names = instances(source, number_type)
        module = cupy().RawModule(code=source_text(source), options=("-std=c++17",), name_expressions=names)
        try:
            return {name: module.get_function(name) for name in names}
        except Exception as error:  # the compiler, the driver and the loader each have errors of their own
            raise RuntimeError(
                f"the CUDA kernels in {source}.cu cannot be compiled for GPU {self.device}: {error}. Check that the "
                "CUDA version of CuPy suits your driver; inside minires.kernels.use_reference() everything runs on "
                "CuPy's own kernels"
            ) from error


@cache
def _gpu(device: int) -> Gpu:
    return Gpu(device)
