"""The batch norm and ReLU kernels against PyTorch."""

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

from minires.kernels import cpu, get_num_threads, set_num_threads
from minires.kernels.cpu import norm

SHAPES = [(4, 3), (5, 7, 6), (2, 3, 5, 4), (1, 5, 3, 3), (3, 1, 4, 4), (2, 300, 3, 3), (8, 16, 8, 8), (2, 1)]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 3e-6)])


def make_case(shape, dtype=np.float64):
    """x, weight, bias, residual, dy and statistics of another batch."""
    c = shape[1]
    x, residual, dy = (normal(*shape, seed=seed, dtype=dtype) for seed in range(3))
    weight, bias, mean = (normal(c, seed=seed, dtype=dtype) for seed in range(3, 6))
    return x * 2 + 3, weight, bias, residual, dy, mean, mean**2 + dtype(0.5)


def torch_batch_norm(x, weight, bias, residual, dy, mean, var, training, relu):
    """y and the gradients of x, weight, bias and residual, in double precision."""
    leaves = [
        None if a is None else torch.tensor(a, dtype=torch.float64, requires_grad=True)
        for a in (x, weight, bias, residual)
    ]
    mean, var, dy = (torch.tensor(a, dtype=torch.float64) for a in (mean, var, dy))
    y = F.batch_norm(leaves[0], mean, var, leaves[1], leaves[2], training)
    if residual is not None:
        y = y + leaves[3]
    if relu:
        y = y.relu()
    grads = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], dy))
    return y.detach().numpy(), [None if leaf is None else next(grads).numpy() for leaf in leaves]


def run(kernels, case, training, relu):
    """The same as `torch_batch_norm`, from the kernels."""
    x, weight, bias, residual, dy, mean, var = case
    if training:
        mean, var = kernels.batch_norm_statistics(x)
    invstd = 1 / np.sqrt(var + x.dtype.type(1e-5))
    y = kernels.batch_norm(x, mean, invstd, weight, bias, residual, relu)
    saved = y if relu and residual is not None else None
    arguments = weight, bias, relu, training, residual is not None
    return y, kernels.batch_norm_grad(dy, x, saved, mean, invstd, *arguments)


@every_module
@over_dtypes
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@over_shapes
def test_batch_norm_and_its_gradients_equal_torch(kernels, dtype, tolerance, relu, training, shape):
    case = make_case(shape, dtype)
    y, grads = run(kernels, case, training, relu)
    expected_y, expected_grads = torch_batch_norm(*case, training, relu)
    assert relative_error(y, expected_y) < tolerance
    for actual, expected in zip(grads, expected_grads, strict=True):
        assert actual.dtype == dtype
        # The scale of dx is that of dy * weight * invstd: what is left of it after the subtractions may be tiny.
        assert np.abs(actual - expected).max() < tolerance * max(1, np.abs(expected).max())


@every_module
@pytest.mark.parametrize("absent", [(1,), (2,), (3,), (1, 2), (1, 2, 3)], ids=str)
def test_weight_bias_and_residual_may_be_left_out(kernels, absent):
    case = [None if i in absent else a for i, a in enumerate(make_case((3, 4, 5, 5)))]
    y, (dx, dweight, dbias, dresidual) = run(kernels, case, True, True)
    expected_y, expected = torch_batch_norm(*case, True, True)
    assert relative_error(y, expected_y) < 1e-12
    for actual, wanted in zip((dx, dweight, dbias), expected, strict=False):
        assert wanted is None or relative_error(actual, wanted) < 1e-11
    assert (dresidual is None) == (expected[3] is None)


@every_module
@over_dtypes
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@over_shapes
def test_without_a_residual_the_input_tells_where_the_relu_was_open(kernels, dtype, tolerance, training, shape):
    case = make_case(shape, dtype)
    case[0][:] = case[0] - dtype(2)  # so that the ReLU is shut for many
    case = *case[:3], None, *case[4:]
    _, grads = run(kernels, case, training, True)
    _, expected_grads = torch_batch_norm(*case, training, True)
    for actual, expected in zip(grads[:3], expected_grads, strict=False):
        assert np.abs(actual - expected).max() < tolerance * max(1, np.abs(expected).max())


@every_module
@over_dtypes
def test_forward_and_backward_agree_on_the_side_of_the_relu_to_the_bit(kernels, dtype, tolerance):
    """Each number is shifted to within rounding of zero, where a product rounded elsewhere would change its sign."""
    x, mean, scale = (normal(1, 4096, 1, 1, seed=seed, dtype=dtype) for seed in range(3))
    mean, scale = mean.reshape(-1), scale.reshape(-1)
    bias = -((x.reshape(-1) - mean) * scale)
    x = np.concatenate([x, np.nextafter(x, dtype(9)), np.nextafter(x, dtype(-9))])
    y = kernels.batch_norm(x, mean, scale, None, bias, None, True)
    dx, *_ = kernels.batch_norm_grad(np.ones_like(x), x, None, mean, scale, None, bias, True, False, False)
    assert 0.1 < (y > 0).mean() < 0.9
    assert np.array_equal(dx != 0, y > 0)


@every_module
@over_shapes
def test_statistics_are_the_mean_and_the_biased_variance(kernels, shape):
    x = normal(*shape)
    axes = (0, *range(2, x.ndim))
    mean, var = kernels.batch_norm_statistics(x)
    assert np.allclose(mean, torch.tensor(x).mean(axes).numpy(), rtol=1e-13, atol=1e-14)
    assert np.allclose(var, torch.tensor(x).var(axes, correction=0).numpy(), rtol=1e-12, atol=1e-14)


@every_module
@pytest.mark.parametrize(("dtype", "offset"), [(np.float64, 1e8), (np.float32, 1e3)])
def test_a_small_variance_about_a_large_mean_survives(kernels, dtype, offset):
    x = (normal(64, 2, 16, 16) + offset).astype(dtype)
    _, var = kernels.batch_norm_statistics(x)
    exact = (x.astype(np.longdouble)).var(axis=(0, 2, 3))
    assert relative_error(var, exact.astype(np.float64)) < 1e-6
    assert np.allclose(var, 1, atol=0.05)


@every_module
def test_a_constant_channel_has_no_variance(kernels):
    mean, var = kernels.batch_norm_statistics(np.full((6, 3, 5, 5), 0.1))
    assert np.allclose(mean, 0.1, rtol=1e-15)
    assert np.all(var < 1e-30)


@every_module
def test_an_empty_batch_passes_through(kernels):
    x = np.empty((0, 3, 4, 4), np.float32)
    mean, var = kernels.batch_norm_statistics(x)
    assert not mean.any()
    assert not var.any()
    y = kernels.batch_norm(x, mean, var + 1, None, None, None, True)
    dx, dweight, dbias, _ = kernels.batch_norm_grad(x, x, y, mean, var + 1, None, None, True, True, False)
    assert y.shape == dx.shape == x.shape
    assert not dweight.any()
    assert not dbias.any()


@every_module
@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 6), (4, 3, 6, 5)], ids=str)
def test_memory_order_does_not_matter_and_no_input_is_written_to(kernels, order, shape):
    case = make_case(shape)
    reorder = MEMORY_ORDERS[order]
    reordered = [reorder(a) if a.ndim == len(shape) and a.ndim > 1 else a for a in case]
    copies = [a.copy() for a in reordered]
    y, grads = run(kernels, reordered, True, True)
    expected_y, expected_grads = run(kernels, case, True, True)
    assert lies_channels_last(y)
    assert lies_channels_last(grads[0])
    assert lies_channels_last(grads[3])
    for actual, expected in zip((y, *grads), (expected_y, *expected_grads), strict=True):
        assert relative_error(actual, expected) < 1e-13
    assert all(np.array_equal(a, b) for a, b in zip(reordered, copies, strict=True))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_bit(monkeypatch, threads):
    monkeypatch.setattr(norm, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr("minires.kernels.cpu.launch.SERIAL_WORK", 0)
    case = make_case((16, 24, 9, 7), np.float32)
    before = get_num_threads()
    try:
        set_num_threads(2)
        y, grads = run(cpu, case, True, True)
        set_num_threads(threads)
        again, grads_again = run(cpu, case, True, True)
    finally:
        set_num_threads(before)
    assert np.array_equal(y, again)
    assert all(np.array_equal(a, b) for a, b in zip(grads, grads_again, strict=True))


@every_module
def test_nan_passes_the_relu_of_batch_norm_forward_and_backward(kernels):
    x = normal(2, 2, 3, 3)
    x[0, 0, 1, 1] = np.nan
    zero, one = np.zeros(2), np.ones(2)
    y = kernels.batch_norm(x, zero, one, None, None, None, True)
    assert np.isnan(y).sum() == 1
    dy = np.ones_like(x)
    _, _, dbias, dresidual = kernels.batch_norm_grad(dy, x, y, zero, one, None, None, True, False, True)
    assert dresidual[0, 0, 1, 1] == 1
    assert np.array_equal(dbias, dresidual.sum(axis=(0, 2, 3)))


@every_module
def test_frozen_statistics_keep_an_infinite_input_out_of_the_input_gradient(kernels):
    x, dy = normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1)
    x[0, 0, 0, 0] = np.inf
    dx, *_ = kernels.batch_norm_grad(dy, x, None, np.zeros(2), np.ones(2), None, None, False, False, False)
    assert np.array_equal(dx, dy)


EDGE_VALUES = np.array([-np.inf, -1.5, -0.0, 0.0, 1e-310, 2.5, np.inf, np.nan])


@every_module
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(), (8,), (2, 4), (2, 1, 2, 2), (0, 3), (0, 1, 2, 2)], ids=str)
def test_relu_equals_torch_at_every_edge(kernels, dtype, shape):
    size = int(np.prod(shape))
    x = EDGE_VALUES[-size:].reshape(shape).astype(dtype) if size > 1 else np.full(shape, -2, dtype)
    y = kernels.relu(x)
    leaf = torch.tensor(x, requires_grad=True)
    expected = leaf.relu()
    assert isinstance(y, np.ndarray)
    assert y.dtype == dtype
    assert np.array_equal(y, expected.detach().numpy(), equal_nan=True)
    dy = np.ones(shape, dtype)
    (expected_dx,) = torch.autograd.grad(expected, leaf, torch.tensor(dy))
    assert np.array_equal(kernels.relu_grad(dy, y), expected_dx.numpy())


@every_module
@pytest.mark.parametrize("order", MEMORY_ORDERS)
def test_relu_of_any_memory_order(kernels, order, always_threaded):  # noqa: F811
    x, dy = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    given = MEMORY_ORDERS[order](x)
    y = kernels.relu(given)
    assert np.array_equal(y, np.where(x > 0, x, 0))
    assert np.array_equal(kernels.relu_grad(MEMORY_ORDERS[order](dy), y), np.where(x > 0, dy, 0))
    assert lies_channels_last(y)
    assert np.array_equal(given, x)
