"""Matrix products by cuBLAS through a handle of our own.

CuPy refuses every call to cuBLAS while a stream is captured. cuBLAS itself does not, if its workspace was given to it
beforehand and its scalars lie on the host.

cuBLAS counts matrices by columns. A matrix by rows is its transpose by columns, so C = A B by rows is computed as
C^T = B^T A^T: the operands change places and nothing is moved.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minires.device import Array
from minires.kernels.precision import get_float32_matmul_precision

WORKSPACE_BYTES = 32 << 20  # what NVIDIA advises on Hopper

# cudaDataType and cublasComputeType_t, by the name of the dtype
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_FLOAT32, COMPUTE_FLOAT64, COMPUTE_TF32 = 68, 70, 77
DEFAULT_ALGORITHM = -1


@dataclass(frozen=True)
class Matrices:
    """A batch of matrices by rows in an array.

    array : where the first begins.
    row : elements from one row to the next.
    step : elements from one matrix to the next.
    transposed : whether the product takes their transposes.
    """

    array: Array
    row: int
    step: int = 0
    transposed: bool = False


class Blas:
    """A cuBLAS handle with a workspace of its own.

    Parameters
    ----------
    library : cuBLAS, as ctypes loads it.
    allocate : returns an array of so many bytes on the device.
    pointer : returns the address of an array.
    """

    def __init__(self, library: Any, allocate: Callable[[int], Array], pointer: Callable[[Array], int]):
        self._library, self._pointer = library, pointer
        self._handle = ctypes.c_void_p()
        _check(library.cublasCreate_v2(ctypes.byref(self._handle)), "cublasCreate")
        self._workspace = allocate(WORKSPACE_BYTES)

    def set_stream(self, stream: int) -> None:
        """Compute on a stream from now on."""
        _check(self._library.cublasSetStream_v2(self._handle, ctypes.c_void_p(stream)), "cublasSetStream")
        # Choosing a stream takes the workspace away.
        workspace = ctypes.c_void_p(self._pointer(self._workspace)), ctypes.c_size_t(WORKSPACE_BYTES)
        _check(self._library.cublasSetWorkspace_v2(self._handle, *workspace), "cublasSetWorkspace")

    def multiply(
        self, a: Matrices, b: Matrices, c: Matrices, shape: tuple[int, int, int], batch: int = 1, add: bool = False
    ) -> None:
        """c = a b, or c += a b if ``add``, for each matrix of a batch: (m, k) by (k, n) of ``shape`` (m, n, k).

        float16 and bfloat16 are summed in float32; float32 is rounded to TF32 first unless the highest precision was
        chosen.

        Raises
        ------
        RuntimeError
            If cuBLAS fails.
        OverflowError
            If a matrix has 2^31 rows or columns or more.
        """
        m, n, k = shape
        if max(shape) >= 2**31:
            raise OverflowError(f"cuBLAS counts rows and columns in 32 bits, got matrices ({m}, {k}) and ({k}, {n})")
        name = str(c.array.dtype)
        double, rounds = name == "float64", get_float32_matmul_precision() != "highest"
        scalar = ctypes.c_double if double else ctypes.c_float
        compute = COMPUTE_FLOAT64 if double else COMPUTE_TF32 if rounds and name == "float32" else COMPUTE_FLOAT32
        status = self._library.cublasGemmStridedBatchedEx(
            *(self._handle, int(b.transposed), int(a.transposed), n, m, k, ctypes.byref(scalar(1))),
            *self._operand(b),
            *self._operand(a),
            ctypes.byref(scalar(add)),
            *self._operand(c),
            *(batch, compute, DEFAULT_ALGORITHM),
        )
        _check(status, f"cublasGemmStridedBatchedEx of {batch} x ({m}, {k}) by ({k}, {n}) in {name}")

    def _operand(self, matrices: Matrices) -> tuple[Any, ...]:
        pointer = ctypes.c_void_p(self._pointer(matrices.array))
        return pointer, DATA_TYPES[str(matrices.array.dtype)], matrices.row, ctypes.c_longlong(matrices.step)


def load_cublas() -> Any:
    """Load the cuBLAS that belongs to CuPy.

    Raises
    ------
    RuntimeError
        If it is not found; the message says what to install.
    """
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception as error:  # the search and the loader each have errors of their own
        raise RuntimeError(
            f"matrix products on the GPU need cuBLAS, which was not found: {error}. Install it with "
            "pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]')"
        ) from error


def _check(status: int, call: str) -> None:
    if status != 0:
        raise RuntimeError(f"{call} failed with status {status}")
