"""The backend of a real GPU and its cuBLAS, on an array library and a BLAS that stand in for CuPy's."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from cuda_shim import HERE, build, build_kernels, run_kernel
from kernel_cases import needs_compiler, normal, relative_error

import minires
from minires.kernels import cuda, reference
from minires.kernels.cuda import gpu
from minires.kernels.cuda.blas import Blas, Matrices, load_cublas
from minires.kernels.geometry import Conv2dGeometry


class HostModule:
    """RawModule as `Gpu` uses it."""

    def __init__(self, code, options, name_expressions):
        assert options == ("-std=c++17",)
        self.functions = build_kernels(code, name_expressions)

    def get_function(self, name):
        function = self.functions[name]
        return lambda grid, block, arguments: run_kernel(function, grid, block, arguments)


@pytest.fixture
def host_cupy(monkeypatch):
    library = SimpleNamespace(
        RawModule=HostModule,
        empty=np.empty,
        asarray=np.array,
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: SimpleNamespace(ptr=0)
        ),
    )
    monkeypatch.setattr(gpu, "cupy", lambda: library)
    monkeypatch.setattr(gpu.Gpu, "pointer", lambda self, array: array.ctypes.data)
    monkeypatch.setattr(gpu, "load_cublas", lambda: build((HERE / "host_cublas.cpp").read_text()))
    yield library
    gpu._gpu.cache_clear()


@needs_compiler
def test_a_gpu_is_handed_the_right_arguments(host_cupy):
    x, w = (
        normal(2, 4, 5, 5, dtype=np.float32),
        normal(3, 4, 3, 3, dtype=np.float32),
    )
    geometry = Conv2dGeometry((2, 4, 5, 5), (3, 4, 3, 3))
    y = cuda.conv2d(x, w, geometry)
    assert relative_error(np.asarray(y), reference.conv2d(x, w, geometry)) < 1e-6
    mean, var = cuda.batch_norm_statistics(x)
    normed = cuda.batch_norm(x, mean, 1 / np.sqrt(var), None, None, None, True)
    assert relative_error(normed, reference.batch_norm(x, mean, 1 / np.sqrt(var), None, None, None, True)) < 1e-6


def test_kernels_that_cannot_be_compiled_say_what_to_do(host_cupy, monkeypatch):
    def refuse(**arguments):
        return SimpleNamespace(get_function=lambda name: 1 / 0)

    monkeypatch.setattr(host_cupy, "RawModule", refuse)
    with pytest.raises(RuntimeError, match=r"elementwise.cu cannot be compiled for GPU 0: .*use_reference"):
        cuda.relu(np.ones(3, np.float32))


def test_a_missing_cublas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(RuntimeError, match=r"need cuBLAS, which was not found: .*cupy-cuda13x\[ctk\]"):
        load_cublas()


def product(dtype=np.float32, **fields):
    """What cuBLAS is asked for, by a stand-in that fails."""
    calls = []

    def multiply(*arguments):
        calls.append([getattr(argument, "value", argument) for argument in arguments])
        return fields.get("status", 0)

    library = SimpleNamespace(
        cublasCreate_v2=lambda handle: 0,
        cublasSetStream_v2=lambda *arguments: 0,
        cublasSetWorkspace_v2=lambda *arguments: 0,
        cublasGemmStridedBatchedEx=multiply,
    )
    blas = Blas(library, lambda size: np.empty(size, np.uint8), lambda array: array.ctypes.data)
    a = Matrices(np.zeros((4, 4), dtype), 4)
    blas.multiply(a, a, a, (4, 4, 4))
    return calls[0]


@pytest.mark.parametrize(
    ("dtype", "precision", "number_type", "compute"),
    [
        (np.float32, "highest", 0, 68),
        (np.float32, "high", 0, 77),
        (np.float64, "high", 1, 70),
        (np.float16, "high", 2, 68),
        (ml_dtypes.bfloat16, "highest", 14, 68),
    ],
)
def test_products_are_computed_in_the_type_asked_for(dtype, precision, number_type, compute):
    minires.set_float32_matmul_precision(precision)
    try:
        assert minires.get_float32_matmul_precision() == precision
        call = product(dtype)
    finally:
        minires.set_float32_matmul_precision("highest")
    assert call[8] == call[12] == call[17] == number_type
    assert call[-2] == compute


def test_there_are_three_precisions():
    with pytest.raises(ValueError, match="unknown precision 'tf32': choose one of highest, high, medium"):
        minires.set_float32_matmul_precision("tf32")
    assert minires.get_float32_matmul_precision() == "highest"


def test_matrices_too_large_for_cublas_are_refused():
    library = SimpleNamespace(cublasCreate_v2=lambda handle: 0)
    a = Matrices(np.zeros(1, np.float32), 1)
    with pytest.raises(OverflowError, match=r"got matrices \(2147483648, 1\) and \(1, 1\)"):
        Blas(library, lambda size: None, lambda array: 0).multiply(a, a, a, (2**31, 1, 1))


def test_a_failing_product_says_what_it_was():
    with pytest.raises(RuntimeError, match=r"of 1 x \(4, 4\) by \(4, 4\) in float32 failed with status 13"):
        product(status=13)
