"""The pooling kernels against PyTorch: values, indices, ties, NaN, padding and ceil_mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import (
    MEMORY_ORDERS,
    always_threaded,  # noqa: F401 (a fixture)
    every_module,
    lies_channels_last,
    normal,
    relative_error,
)

from minires.kernels import cpu, reference
from minires.kernels.geometry import Pool2dGeometry

# input (N, C, H, W), kernel_size, stride, padding, dilation, ceil_mode
POOLS = {
    "2x2": ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    "3x3 stride 2": ((2, 3, 7, 9), (3, 3), (2, 2), (1, 1), (1, 1), False),
    "ceil_mode": ((2, 3, 7, 8), (2, 3), (2, 3), (1, 1), (1, 1), True),
    "ceil_mode past the edge": ((2, 5, 6, 6), (2, 2), (3, 3), (0, 0), (1, 1), True),
    "overlapping": ((1, 2, 6, 5), (3, 4), (1, 1), (1, 2), (1, 1), False),
    "dilated": ((2, 3, 10, 8), (3, 2), (1, 2), (1, 1), (2, 3), True),
    "one pixel": ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1), False),
    "batch 0": ((0, 3, 6, 6), (2, 2), (2, 2), (0, 0), (1, 1), False),
}
over_pools = pytest.mark.parametrize("row", POOLS.values(), ids=list(POOLS))
plain_pools = pytest.mark.parametrize(
    "row", [row for row in POOLS.values() if row[4] == (1, 1)], ids=[name for name in POOLS if name != "dilated"]
)
over_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
ADAPTIVE = [(1, 1), (3, 4), (7, 8), (2, 5), (11, 9)]


def pool_geometry(row):
    shape, kernel_size, stride, padding, dilation, ceil_mode = row
    probe = torch.zeros((1, *shape[1:]))
    output_size = F.max_pool2d(probe, kernel_size, stride, padding, dilation, ceil_mode).shape[2:]
    return Pool2dGeometry(shape, kernel_size, stride, padding, dilation, tuple(output_size))


def plane_values(kind, shape, dtype=np.float64):
    x = normal(*shape, dtype=dtype)
    if kind == "ties":
        return np.round(x)
    if kind == "NaN":
        x[np.random.default_rng(1).random(shape) < 0.2] = np.nan
    if kind == "-inf":
        x[np.random.default_rng(1).random(shape) < 0.7] = -np.inf
    return x


@every_module
@over_dtypes
@pytest.mark.parametrize("kind", ["distinct", "ties", "NaN", "-inf"])
@over_pools
def test_max_pool_takes_torchs_values_and_indices(kernels, dtype, kind, row):
    shape, *options = row
    x = plane_values(kind, shape, dtype)
    y, indices = kernels.max_pool2d(x, pool_geometry(row))
    expected, expected_indices = F.max_pool2d(torch.tensor(x), *options, return_indices=True)
    assert (y.dtype, indices.dtype) == (dtype, np.int64)
    assert np.array_equal(y, expected.numpy(), equal_nan=True)
    assert np.array_equal(indices, expected_indices.numpy())


@every_module
@over_pools
def test_max_pool_gradient_equals_torch(kernels, row):
    shape, *options = row
    x = torch.tensor(normal(*shape), requires_grad=True)
    y, indices = F.max_pool2d(x, *options, return_indices=True)
    dy = normal(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, x, torch.tensor(dy))
    dx = kernels.max_pool2d_input_grad(dy, indices.numpy(), shape)
    assert relative_error(dx, expected.numpy()) < 1e-14
    assert lies_channels_last(dx)


@every_module
def test_gather_planes_is_the_transpose_of_the_max_pool_gradient(kernels):
    indices = np.random.default_rng(0).integers(0, 30, (2, 3, 2, 4))
    x, dy = normal(2, 3, 5, 6), normal(2, 3, 2, 4, seed=1)
    y = kernels.gather_planes(x, indices)
    assert np.array_equal(y, np.take_along_axis(x.reshape(2, 3, 30), indices.reshape(2, 3, 8), 2).reshape(y.shape))
    assert np.isclose((y * dy).sum(), (x * kernels.max_pool2d_input_grad(dy, indices, x.shape)).sum(), rtol=1e-12)
    assert lies_channels_last(y)


@every_module
def test_a_window_of_nothing_but_padding_gives_minus_infinity(kernels):
    # Taps at rows -2 and 1, or -1 and 2, of a plane with one row: PyTorch's index lies outside the plane here.
    geometry = Pool2dGeometry((1, 1, 1, 3), (2, 1), (1, 1), (2, 0), (3, 1), (2, 3))
    y, indices = kernels.max_pool2d(np.ones((1, 1, 1, 3)), geometry)
    assert np.all(y == -np.inf)
    assert np.all(indices == 0)


@every_module
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@plain_pools
def test_sum_pool_and_its_gradient_equal_torch(kernels, dtype, tolerance, row):
    shape, kernel_size, stride, padding, _, ceil_mode = row
    geometry = pool_geometry(row)
    x = normal(*shape, dtype=dtype)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = F.avg_pool2d(leaf, kernel_size, stride, padding, ceil_mode, divisor_override=1)
    dy = normal(*expected.shape, seed=1, dtype=dtype)
    (expected_dx,) = torch.autograd.grad(expected, leaf, torch.tensor(dy, dtype=torch.float64))
    y, dx = kernels.sum_pool2d(x, geometry), kernels.sum_pool2d_input_grad(dy, geometry)
    assert relative_error(y, expected.detach().numpy()) < tolerance
    assert relative_error(dx, expected_dx.numpy()) < tolerance
    assert lies_channels_last(y)
    assert lies_channels_last(dx)


@every_module
def test_dilated_sum_pool_is_a_depthwise_convolution_with_ones(kernels):
    row = POOLS["dilated"][:5]
    geometry = pool_geometry((*row, False))
    shape, kernel_size, stride, padding, dilation = row
    x = torch.tensor(normal(*shape), requires_grad=True)
    expected = F.conv2d(x, torch.ones(3, 1, *kernel_size).double(), None, stride, padding, dilation, 3)
    dy = normal(*expected.shape, seed=1)
    (expected_dx,) = torch.autograd.grad(expected, x, torch.tensor(dy))
    assert relative_error(kernels.sum_pool2d(x.detach().numpy(), geometry), expected.detach().numpy()) < 1e-13
    assert relative_error(kernels.sum_pool2d_input_grad(dy, geometry), expected_dx.numpy()) < 1e-13


@every_module
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("output_size", ADAPTIVE)
def test_adaptive_average_and_its_gradient_equal_torch(kernels, dtype, tolerance, output_size):
    x = normal(2, 3, 7, 8, dtype=dtype)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = F.adaptive_avg_pool2d(leaf, output_size)
    dy = normal(*expected.shape, seed=1, dtype=dtype)
    (expected_dx,) = torch.autograd.grad(expected, leaf, torch.tensor(dy, dtype=torch.float64))
    y, dx = kernels.adaptive_avg_pool2d(x, output_size), kernels.adaptive_avg_pool2d_input_grad(dy, x.shape)
    assert (y.dtype, dx.dtype) == (dtype, dtype)
    assert relative_error(y, expected.detach().numpy()) < tolerance
    assert relative_error(dx, expected_dx.numpy()) < tolerance


@every_module
@pytest.mark.parametrize("kind", ["distinct", "ties", "NaN", "-inf"])
@pytest.mark.parametrize("output_size", ADAPTIVE)
def test_adaptive_max_takes_torchs_values_and_indices(kernels, kind, output_size):
    x = plane_values(kind, (2, 3, 7, 8))
    y, indices = kernels.adaptive_max_pool2d(x, output_size)
    expected, expected_indices = F.adaptive_max_pool2d(torch.tensor(x), output_size, return_indices=True)
    assert np.array_equal(y, expected.numpy(), equal_nan=True)
    assert np.array_equal(indices, expected_indices.numpy())


def pool_everything(kernels, x, dy, indices, geometry):
    return (
        *kernels.max_pool2d(x, geometry),
        *kernels.adaptive_max_pool2d(x, (3, 2)),
        kernels.max_pool2d_input_grad(dy, indices, x.shape),
        kernels.gather_planes(x, indices),
        kernels.sum_pool2d(x, geometry),
        kernels.sum_pool2d_input_grad(dy, geometry),
        kernels.adaptive_avg_pool2d(x, (3, 2)),
        kernels.adaptive_avg_pool2d_input_grad(dy, x.shape),
    )


@every_module
@pytest.mark.parametrize("order", MEMORY_ORDERS)
def test_memory_order_and_threads_change_nothing(kernels, order, always_threaded):  # noqa: F811
    geometry = pool_geometry(POOLS["3x3 stride 2"])
    x = normal(*geometry.input_shape)
    dy = normal(2, 3, 4, 5, seed=1)
    _, indices = kernels.max_pool2d(x, geometry)
    inputs = [MEMORY_ORDERS[order](a) for a in (x, dy)]
    expected = pool_everything(kernels, x, dy, indices, geometry)
    for actual, plain in zip(pool_everything(kernels, *inputs, indices, geometry), expected, strict=True):
        assert lies_channels_last(actual)
        assert relative_error(actual, plain) < 1e-14
    assert all(np.array_equal(a, b) for a, b in zip(inputs, (x, dy), strict=True)), "an input was written to"


@pytest.mark.parametrize("kernels", [reference, cpu], ids=["reference", "cpu"])  # CUDA adds in float32
def test_sums_over_large_windows_lose_no_digits(kernels):
    # Added one after another in float32, 0.1 is off by 1e-5 after 40,000 times, and by more after that.
    x = np.full((1, 2, 200, 200), 0.1, np.float32)
    one, eps = float(np.float32(0.1)), np.finfo(np.float32).eps
    everything = pool_geometry((x.shape, (200, 200), (1, 1), (0, 0), (1, 1), False))
    assert np.abs(kernels.sum_pool2d(x, everything) / (one * 40_000) - 1).max() <= eps
    assert np.abs(kernels.adaptive_avg_pool2d(x, (1, 1)) / one - 1).max() <= eps

    # The middle pixel lies in all windows.
    large = pool_geometry(((1, 1, 63, 63), (32, 32), (1, 1), (0, 0), (1, 1), False))
    dy = np.full((1, 1, 32, 32), 0.1, np.float32)
    spread = kernels.sum_pool2d_input_grad(dy, large)
    assert abs(spread[0, 0, 31, 31] / (one * 1024) - 1) <= eps
