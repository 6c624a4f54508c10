"""Dropout: what is kept and how it is scaled, by hand; the table of ops cannot compare random masks with PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires.autograd import Tensor, grad
from minires.device import manual_seed
from minires.ops.dropout import dropout


def ones(*shape: int, **options) -> Tensor:
    return Tensor(np.ones(shape), **options)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_zeroes_a_fraction_p_and_scales_the_rest(p: float):
    manual_seed(0)
    y = dropout(ones(100, 1000), p).numpy()
    assert set(np.unique(y)) == {0.0, 1 / (1 - p)}
    assert abs((y == 0).mean() - p) < 0.01
    assert np.abs((y == 0).mean(axis=0) - p).max() < 0.25, "every column is treated alike"


def test_gradient_goes_through_the_same_mask():
    x = ones(50, 50, requires_grad=True)
    y = dropout(x, 0.3)
    y.backward(ones(50, 50))
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())


def test_second_derivative_is_the_mask_again():
    x, v = ones(20, requires_grad=True), ones(20, requires_grad=True)
    y = dropout(x, 0.5)
    (dx,) = grad(y, x, v, create_graph=True)
    (dv,) = grad(dx, v, ones(20))
    np.testing.assert_array_equal(dv.numpy(), y.detach().numpy())


def test_seed_repeats_the_mask_and_the_next_call_differs():
    manual_seed(3)
    first, second = dropout(ones(100)).numpy(), dropout(ones(100)).numpy()
    manual_seed(3)
    np.testing.assert_array_equal(dropout(ones(100)).numpy(), first)
    assert (first != second).any()


@pytest.mark.parametrize("options", [{"p": 0.0}, {"p": 0.5, "training": False}, {"p": 1.0, "training": False}])
def test_evaluation_and_p_0_return_the_input(options: dict):
    x = ones(3, 3)
    assert dropout(x, **options) is x


def test_p_1_drops_everything_and_its_gradient():
    x = ones(4, requires_grad=True)
    y = dropout(x, 1.0)
    y.backward(ones(4))
    np.testing.assert_array_equal(y.detach().numpy(), np.zeros(4))
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros(4))


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4, 5)])
def test_keeps_shape_dtype_and_memory_layout(shape: tuple[int, ...]):
    array = np.ones(shape, np.float32)
    if array.ndim == 4:
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = dropout(Tensor(array))
    assert (y.shape, y.dtype) == (shape, np.float32)
    assert y.array.strides == array.strides


@pytest.mark.parametrize("layer", [minires.nn.Dropout, minires.nn.Dropout2d])
def test_in_place_the_input_becomes_the_result(layer):
    w = ones(2, 50, 4, 4, requires_grad=True)
    x = w * 3
    assert layer(0.5, inplace=True)(x) is x
    assert set(np.unique(x.detach().numpy())) == {0.0, 6.0}
    x.sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), x.detach().numpy())


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_refuses_a_probability_outside_0_to_1(p: float):
    with pytest.raises(ValueError, match=str(p)):
        dropout(ones(3), p)


def test_refuses_integers_in_training():
    with pytest.raises(RuntimeError, match="int64"):
        dropout(Tensor(np.arange(3)))
