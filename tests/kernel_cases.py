"""What the kernel tests share: the kernel modules, memory orders, errors relative to the largest value."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_shim import HostKernels, compiler

from minires.device import to_device
from minires.kernels import cpu, cuda, get_num_threads, reference, set_num_threads
from minires.kernels.cpu import launch


class GpuKernels:
    """The functions of `minires.kernels.cuda` on a real GPU, from NumPy arrays to NumPy arrays."""

    def __getattr__(self, name):
        def run(*arguments):
            there = [to_device(a, "cuda") if isinstance(a, np.ndarray) else a for a in arguments]
            result = getattr(cuda, name)(*there)
            parts = [
                a if a is None else to_device(a, "cpu") for a in (result if isinstance(result, tuple) else [result])
            ]
            return tuple(parts) if isinstance(result, tuple) else parts[0]

        return run


needs_compiler = pytest.mark.skipif(compiler() is None, reason="no g++ to run the CUDA kernels on the host with")
every_module = pytest.mark.parametrize(
    "kernels",
    [
        reference,
        cpu,
        pytest.param(HostKernels(), marks=needs_compiler),
        pytest.param(GpuKernels(), marks=pytest.mark.gpu),
    ],
    ids=["reference", "cpu", "cuda", "gpu"],
)


def channels_last(x):
    """The same logical (N, C, H, W) array, NHWC in memory."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def strided(x):
    """The same logical array as every second element along each axis, backwards along the last."""
    wide = np.full([2 * size for size in x.shape], np.nan, x.dtype)
    view = wide[(*[slice(None, None, 2)] * (x.ndim - 1), slice(None, None, -2))]
    view[...] = x
    return view


MEMORY_ORDERS = {"nchw": np.ascontiguousarray, "channels_last": channels_last, "strided": strided}


def lies_channels_last(x):
    return np.moveaxis(x, 1, -1).flags.c_contiguous


def relative_error(actual, expected):
    """Largest difference over largest magnitude, after a check of shape."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture
def always_threaded(monkeypatch):
    """Share even the smallest work among three threads."""
    monkeypatch.setattr(launch, "SERIAL_WORK", 0)
    before = get_num_threads()
    set_num_threads(3)
    yield
    set_num_threads(before)
