"""Matrix products, linear maps and casts of every kernel module."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cuda_shim import HostKernels
from kernel_cases import channels_last, every_module, needs_compiler, normal, relative_error, strided

DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCES = {np.float64: 1e-14, np.float32: 1e-6}

SHAPES = [
    ((3, 4), (4, 5)),
    ((1, 7), (7, 1)),
    ((6, 1), (1, 6)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (1, 3, 4, 2)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((0, 3, 4), (0, 4, 5)),
    # Enough work for kernels of our own: whole and part blocks and panels, few rows, little depth.
    ((7, 40), (40, 50)),
    ((65, 129), (129, 33)),
    ((1, 300), (300, 41)),
    ((2, 90), (90, 70)),
    ((130, 3), (3, 70)),
    ((200, 50), (50, 1)),
]


LINEAR_SHAPES = [
    *[((5, 8), 12), ((5, 3), 7), ((2, 3, 4), 2), ((4,), 3), ((0, 4), 3), ((2, 0), 3)],
    *[((16, 64), 40), ((2, 128), 100), ((3, 5, 40), 33), ((40,), 300)],  # enough work for kernels of our own
]


def by_columns(x):
    """The same logical matrices, columns one after another in memory."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


@every_module
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("first", "second"), SHAPES, ids=str)
def test_matmul(kernels, first, second, dtype):
    a, b = normal(*first, dtype=dtype), normal(*second, seed=1, dtype=dtype)
    expected = np.einsum("...nk,...km->...nm", a.astype(np.float64), b.astype(np.float64))
    for left in (a, by_columns(a), strided(a)):
        for right in (b, by_columns(b), strided(b)):
            product = kernels.matmul(left, right)
            assert product.dtype == dtype
            assert relative_error(product, expected) < TOLERANCES[dtype]


@every_module
def test_matmul_of_integers(kernels):
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)
    assert kernels.matmul(a, b).tolist() == [[20, 23, 26, 29], [56, 68, 80, 92]]


@every_module
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "outputs"), LINEAR_SHAPES, ids=str)
def test_linear(kernels, shape, outputs, bias):
    x, w, b = normal(*shape), normal(outputs, shape[-1], seed=1), normal(outputs, seed=2) if bias else None
    before = [a.copy() for a in (x, w)]
    expected = np.einsum("...i,oi->...o", x, w) + (b if bias else 0)
    for weight in (w, by_columns(w)):
        assert relative_error(kernels.linear(x, weight, b), expected) < 1e-14
    assert all(np.array_equal(a, b) for a, b in zip((x, w), before, strict=True))


@needs_compiler
@pytest.mark.parametrize("name", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_linear_of_16_bit_numbers_sums_in_more(name):
    dtype = DTYPES[name]
    x, w, b = (normal(*shape, seed=seed).astype(dtype) for seed, shape in enumerate([(9, 40), (16, 40), (16,)]))
    y = HostKernels().linear(x, w, b)
    exact = x.astype(np.float64) @ w.astype(np.float64).T + b.astype(np.float64)
    assert y.dtype == dtype
    assert relative_error(y.astype(np.float64), exact) < 2 * float(ml_dtypes.finfo(dtype).eps)


@every_module
@pytest.mark.parametrize("target", ["float64", "float32", "float16"])
@pytest.mark.parametrize("source", ["float64", "float32", "float16"])
def test_cast(kernels, source, target):
    x = np.concatenate([normal(1000) * 1e3, [0.0, -0.0, np.inf, -np.inf, 1e-7, 7e4, 1e39]])
    with np.errstate(over="ignore"):
        x = x.astype(source)
        for array in (x, x[1:], x[::2]):
            y = kernels.cast(array, np.dtype(target))
            assert y.dtype == target
            assert np.array_equal(
                y, array.astype(np.float32 if source == "float64" != target else source).astype(target)
            )


@needs_compiler
@pytest.mark.parametrize("source", ["float64", "float32", "float16", "bfloat16"])
def test_cast_from_and_to_bfloat16(source):
    kernels = HostKernels()
    x = (normal(100) * 100).astype(DTYPES[source])
    y = kernels.cast(x, np.dtype(ml_dtypes.bfloat16))
    assert np.array_equal(y, x.astype(np.float32).astype(ml_dtypes.bfloat16))
    assert np.array_equal(kernels.cast(y, np.dtype(source)), y.astype(source))


@every_module
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 3, 4, 5)], ids=str)
def test_cast_keeps_the_order_in_memory(kernels, shape):
    x = np.asarray(normal(*shape))
    for order in (np.ascontiguousarray, np.asfortranarray, channels_last) if x.ndim == 4 else (np.asarray,):
        y = kernels.cast(order(x), np.dtype(np.float32))
        assert y.shape == shape
        assert np.array_equal(y, x.astype(np.float32))
        assert [stride * 2 for stride in y.strides] == list(order(x).strides) or x.size == 0


@every_module
def test_cast_of_integers(kernels):
    assert kernels.cast(np.arange(4), np.dtype(np.float32)).tolist() == [0, 1, 2, 3]
    assert kernels.cast(np.array([0.5, 2.5]), np.dtype(np.int64)).tolist() == [0, 2]
