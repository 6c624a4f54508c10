"""Gradient clipping against ``torch.nn.utils``."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch

import minires
from minires.autograd import Tensor
from minires.device import to_device
from minires.nn.utils import clip_grad_norm_, clip_grad_value_

SHAPES = [(3, 4), (5,), (), (2, 3, 4, 5)]


def pair(dtype=np.float64, device="cpu"):
    """The same parameters with the same gradients in both libraries; the last has none."""
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for shape in SHAPES:
        array = np.asarray(rng.standard_normal(shape)).astype(dtype)
        if array.ndim == 4:
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        ours.append(Tensor(to_device(np.zeros(shape, dtype), device), requires_grad=True))
        ours[-1].grad = Tensor(to_device(array.copy(order="K"), device))
        theirs.append(torch.zeros(shape, dtype=torch.from_numpy(array).dtype, requires_grad=True))
        theirs[-1].grad = torch.from_numpy(array.copy())
    ours.append(Tensor(np.zeros(3, dtype), requires_grad=True))
    theirs.append(torch.zeros(3, requires_grad=True))
    return ours, theirs


def assert_equal_gradients(ours, theirs, tolerance: float = 1e-12):
    for a, b in zip(ours, theirs, strict=True):
        if b.grad is None:
            assert a.grad is None
        else:
            np.testing.assert_allclose(a.grad.cpu().numpy(), b.grad.numpy(), rtol=tolerance)


@pytest.mark.parametrize("norm_type", [2.0, 1, 3.5, math.inf, 0])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e3])
def test_norm_and_gradients_equal_pytorch(norm_type: float, max_norm: float):
    ours, theirs = pair()
    arrays = [parameter.grad.array for parameter in ours[:-1]]
    norm = clip_grad_norm_(iter(ours), max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert norm.shape == ()
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_equal_gradients(ours, theirs)
    assert all(parameter.grad.array is array for parameter, array in zip(ours, arrays, strict=False))


def test_float32_stays_float32():
    ours, theirs = pair(dtype=np.float32)
    norm = clip_grad_norm_(ours, 0.5)
    torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    assert norm.dtype == ours[0].grad.dtype == np.float32
    assert_equal_gradients(ours, theirs, 1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_spoils_the_gradients_or_raises(bad: float):
    ours, theirs = pair()
    ours[1].grad.array[2] = bad
    theirs[1].grad[2] = bad
    with pytest.raises(RuntimeError, match=str(bad)):
        clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    assert_equal_gradients(ours, theirs)
    clip_grad_norm_(ours, 1.0)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert_equal_gradients(ours, theirs)


def test_no_gradients_have_norm_0():
    assert clip_grad_norm_([Tensor(np.zeros(3), requires_grad=True)], 1.0).item() == 0
    assert clip_grad_norm_([], 1.0).item() == 0


@pytest.mark.parametrize("value", [0.0, 0.3, 10])
def test_values_are_limited_as_pytorch_does(value: float):
    ours, theirs = pair()
    clip_grad_value_(ours, value)
    torch.nn.utils.clip_grad_value_(theirs, value)
    assert_equal_gradients(ours, theirs)


def test_one_tensor_will_do():
    ours, theirs = pair()
    clip_grad_norm_(ours[0], 0.1)
    torch.nn.utils.clip_grad_norm_(theirs[0], 0.1)
    clip_grad_value_(ours[1], 0.1)
    torch.nn.utils.clip_grad_value_(theirs[1], 0.1)
    assert_equal_gradients(ours, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("norm_type", [2.0, 1, math.inf, 0])
def test_gradients_on_a_gpu_are_clipped_alike(norm_type: float):
    ours, theirs = pair(device="cuda")
    norm = clip_grad_norm_(ours, 0.5, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 0.5, norm_type)
    assert norm.device.type == "cuda"
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_equal_gradients(ours, theirs)


@pytest.mark.parametrize("limit", [-1.0, math.nan])
def test_a_negative_limit_is_refused(limit: float):
    ours, _ = pair()
    with pytest.raises(ValueError, match=str(limit)):
        clip_grad_norm_(ours, limit)
    with pytest.raises(ValueError, match=str(limit)):
        clip_grad_value_(ours, limit)


def test_a_negative_order_is_refused():
    ours, _ = pair()
    with pytest.raises(ValueError, match="-2"):
        clip_grad_norm_(ours, 1.0, norm_type=-2)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_gradients_of_16_bits_are_clipped_in_float32(name):
    half = getattr(minires, name)
    numbers = np.linspace(-300, 300, 70_000).astype(half)
    parameter = Tensor(np.zeros(70_000, half), requires_grad=True)
    parameter.grad = Tensor(numbers.copy())
    wide = numbers.astype(np.float64)
    norm = np.linalg.norm(wide)  # 45830; its square would overflow
    assert clip_grad_norm_([parameter], 1000.0).item() == pytest.approx(norm, rel=1e-6)
    assert parameter.grad.dtype == half
    right = (wide * 1000 / norm).astype(half).astype(np.float64)
    np.testing.assert_allclose(parameter.grad.numpy().astype(np.float64), right, rtol=float(ml_dtypes.finfo(half).eps))


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_a_norm_fits_where_its_powers_do_not(scale, order):
    numbers = np.array([[3, -4], [1, 2]], np.float32) * np.float32(scale)
    parameters = [Tensor(np.zeros((2, 2), np.float32), requires_grad=True) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = Tensor(numbers.copy())
    both = np.concatenate([numbers, numbers]).ravel().astype(np.float64)
    norm = np.linalg.norm(both / scale, order) * scale
    assert clip_grad_norm_(parameters, math.inf, order).item() == pytest.approx(norm, rel=1e-5)
    assert clip_grad_norm_(parameters, 1e30, order).item() == pytest.approx(norm, rel=1e-5)
    if scale > 1:
        np.testing.assert_allclose(parameters[0].grad.numpy() * (norm / scale), numbers, rtol=1e-5)


def test_a_limit_beyond_float16_limits_nothing():
    parameter = Tensor(np.zeros(2, np.float16), requires_grad=True)
    parameter.grad = Tensor(np.array([60000, -3], np.float16))
    clip_grad_value_([parameter], 1e5)
    assert parameter.grad.tolist() == [60000, -3]


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
def test_what_is_no_tensor_is_refused(clip):
    with pytest.raises(TypeError, match="got ndarray: pass"):
        clip([np.ones(2)], 1.0)
