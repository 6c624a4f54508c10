"""Sums over axes, in every kernel module, against Python's own exact sum."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from cuda_shim import Host, HostKernels
from kernel_cases import channels_last, every_module, needs_compiler, normal, relative_error, strided

from minires.kernels import cpu, cuda, reference
from minires.kernels.cuda import reduction
from minires.kernels.cuda.launch import running_on

# shape, axes
CASES = {
    "bias of a layer": ((50, 12), (0,)),
    "bias, uneven": ((37, 7), (0,)),
    "bias of a convolution": ((3, 8, 5, 6), (0, 2, 3)),
    "planes": ((3, 8, 5, 6), (2, 3)),
    "rows": ((9, 40), (1,)),
    "many short ones": ((700, 3, 50), (1,)),
    "many short ones, uneven": ((1100, 4, 31), (1,)),
    "channels": ((3, 8, 5, 6), (1,)),
    "outermost and innermost": ((4, 5, 6), (0, 2)),
    "three by turns": ((2, 3, 4, 5, 3), (0, 2, 4)),
    "all": ((7, 11, 13), (0, 1, 2)),
    "many": ((5000,), (0,)),
    "one": ((1,), (0,)),
    "none of them": ((3, 4), ()),
    "of length 1": ((1, 4, 1), (0, 2)),
    "no dimensions": ((), ()),
    "of length 0": ((0, 3), (0,)),
    "nothing left": ((3, 0), (0,)),
}
over_cases = pytest.mark.parametrize(("shape", "axes"), CASES.values(), ids=list(CASES))


def exact(x, axes):
    """Each sum by math.fsum, which rounds once."""
    wide = x.astype(np.float64)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    lengths = [x.shape[axis] for axis in kept]
    rows = wide.transpose(*kept, *axes).reshape(*lengths, math.prod(x.shape[axis] for axis in axes))
    sums = np.array([math.fsum(rows[place]) for place in np.ndindex(*rows.shape[:-1])])
    return sums.reshape([1 if axis in axes else length for axis, length in enumerate(x.shape)])


@every_module
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
@over_cases
def test_sums_are_those_of_the_numbers(kernels, shape, axes, dtype, tolerance):
    x = np.asarray(normal(*shape), dtype)
    before = x.copy()
    total = kernels.sum_axes(x, axes)
    assert total.dtype == dtype
    assert relative_error(total, exact(x, axes)) < tolerance
    assert np.array_equal(x, before)


@every_module
@pytest.mark.parametrize("order", [channels_last, strided, lambda x: x.transpose(3, 1, 0, 2)])
@pytest.mark.parametrize("axes", [(0, 2, 3), (1,), (0,), (1, 3), (0, 1, 2, 3)], ids=str)
def test_memory_order_does_not_matter(kernels, order, axes):
    x = order(normal(3, 8, 5, 6))
    assert relative_error(kernels.sum_axes(x, axes), exact(x, axes)) < 1e-13


@every_module
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((300_000, 2), (0,)),
        ((300_000,), (0,)),
        ((2, 150_000, 3), (1,)),
        ((2, 3, 100_000), (0, 2)),
        ((100_000, 2, 3), (0, 2)),
        ((70_001, 5), (0,)),
        ((100, 3000), (0,)),
        ((3000, 100), (1,)),
        ((40, 50, 60, 7), (0, 1, 2)),
    ],
    ids=str,
)
def test_many_equal_numbers_lose_no_digits(kernels, shape, axes):
    # Added one after another in float32, 300,000 times 0.1 is off by 1 %.
    x = np.full(shape, 0.1, np.float32)
    exactly = float(np.float32(0.1)) * math.prod(shape[axis] for axis in axes)
    assert np.abs(kernels.sum_axes(x, axes) / exactly - 1).max() <= np.finfo(np.float32).eps


@pytest.mark.parametrize("kernels", [reference, cpu], ids=["reference", "cpu"])  # CUDA adds in float32
def test_sums_that_overflow_on_the_way_and_not_at_the_end(kernels):
    x = np.repeat(np.array([2e38, -2e38], np.float32), 20_000).reshape(-1, 1)
    assert np.abs(kernels.sum_axes(np.broadcast_to(x, (40_000, 2)).copy(), (0,))).max() == 0


@every_module
def test_other_numbers_and_repeated_ones(kernels):
    x = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    assert kernels.sum_axes(x, (0, 2)).tolist() == [[[60], [92], [124]]]
    stretched = np.broadcast_to(np.float32(0.5), (3, 4))
    assert kernels.sum_axes(stretched, (0,)).tolist() == [[1.5] * 4]


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float16, pytest.param(ml_dtypes.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)], ids=str)
def test_sums_of_16_bit_numbers_are_rounded_once(dtype, axes):
    x = normal(6, 5, 8).astype(dtype)
    total = HostKernels().sum_axes(x, axes)
    assert total.dtype == dtype
    assert np.array_equal(total.astype(np.float64), exact(x, axes).astype(dtype).astype(np.float64))


@needs_compiler
@over_cases
def test_parts_change_nothing_but_rounding(monkeypatch, shape, axes):
    monkeypatch.setattr(reduction, "LEAST", 1)
    monkeypatch.setattr(reduction, "STEP", 1)
    host = Host()
    x = normal(*shape)
    with running_on(host):
        assert relative_error(cuda.sum_axes(np.asarray(x), axes), exact(np.asarray(x), axes)) < 1e-13
    if shape in ((50, 12), (9, 40), (5000,)):
        assert "join_parts<double>" in [kernel for kernel, _, _ in host.launches]


@needs_compiler
def test_small_numbers_are_not_lost_beside_a_large_sum():
    x = np.full(300_000, 0.1, np.float32)
    for array, axes in ((x, (0,)), (x.reshape(-1, 2), (0,)), (x.reshape(2, -1), (1,))):
        expected = exact(array, axes)
        assert relative_error(HostKernels(Host()).sum_axes(array, axes), expected) < 1e-7
        assert (
            relative_error(np.cumsum(array, axis=axes[0]).take([-1], axes[0]), expected) > 1e-5
        )  # one by one they are


COLUMNS, ROWS, SLABS = ((300, 40), (0,)), ((40, 301), (1,)), ((3, 100, 70), (1,))


@needs_compiler
@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        # Shared memory keeps what the block before left there: of columns alone, the sum of all would be right again.
        pytest.param(SLABS, "__syncthreads();\n    if (team > 0", "if (team > 0", id="a barrier"),
        pytest.param(COLUMNS, "chunk < chunks", "chunk < chunks - 1", id="a part"),
        *(
            pytest.param(case, old, new, id=name, marks=pytest.mark.slow)  # each builds all the kernels anew
            for name, case, old, new in [
                ("a team", COLUMNS, "other < TEAMS", "other < TEAMS - 1"),
                ("a row", COLUMNS, "min(length, (chunk + 1) * height)", "min(length - 1, (chunk + 1) * height)"),
                ("a place", SLABS, "part + column + k] = total", "column + k] = total"),
                ("a place of parts", SLABS, "outer * chunks + chunk", "chunk"),
                ("a lane", ROWS, "step > 0; step /= 2", "step > 1; step /= 2"),
                ("a number", ROWS, "min(length, (chunk + 1) * height)", "min(length - 1, (chunk + 1) * height)"),
            ]
        ),
    ],
)
def test_a_missing_barrier_and_an_off_by_one_are_found_out(monkeypatch, case, old, new):
    monkeypatch.setattr(reduction, "LEAST", 100)
    monkeypatch.setattr(reduction, "STEP", 8)
    x, axes = normal(*case[0]), case[1]

    def edit(text):
        assert old in text
        return text.replace(old, new)

    errors = []
    for change in (lambda text: text, edit):
        for falling in (False, True):
            with running_on(Host(falling, change)):
                errors.append(relative_error(cuda.sum_axes(x, axes), exact(x, axes)))
    assert max(errors[:2]) < 1e-13
    assert not max(errors[2:]) < 1e-3
