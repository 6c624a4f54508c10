"""Norms and variances of numbers whose squares leave the range of their dtype."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires.autograd import Tensor, grad

FUNCTIONS = {
    "norm": (1, lambda x: x.norm(2, 1)),
    "norm of all": (1, lambda x: x.norm()),
    "std": (1, lambda x: x.std(1)),
    "std of all": (1, lambda x: x.std(correction=0)),
    "var": (2, lambda x: x.var((0, 2), keepdim=True)),
}
SCALES = [
    *((np.float32, exponent) for exponent in (-120, -100, -66, -60, 60, 66, 100, 121)),
    *((np.float64, exponent) for exponent in (-1010, -700, 700, 1017)),
]


def derivatives(function, array):
    x = Tensor(array).requires_grad_()
    y = function(x)
    (dx,) = grad(y.sum(), x, create_graph=True)
    (second,) = grad((dx * dx).sum(), x)
    return [part.detach().numpy().astype(np.float64) for part in (y, dx, second)]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
def test_values_and_gradients_scale_with_their_argument(name, dtype, exponent):
    """For f of degree d, f(s x) = s^d f(x) and f'(s x) = s^(d - 1) f'(x), as far as these fit."""
    degree, function = FUNCTIONS[name]
    x = np.random.default_rng(0).standard_normal((3, 50, 2)).astype(dtype)
    x = np.round(x * 64) / 64  # few bits: small numbers keep them
    info = np.finfo(dtype)
    values, gradients, _ = derivatives(function, x)
    scaled_values, scaled_gradients, _ = derivatives(function, np.ldexp(x, exponent))
    for small, large, power in ((values, scaled_values, degree), (gradients, scaled_gradients, degree - 1)):
        with np.errstate(over="ignore", under="ignore"):
            expected = np.ldexp(small, power * exponent).astype(dtype).astype(np.float64)
        np.testing.assert_allclose(large, expected, rtol=40 * info.eps, atol=4 * float(info.smallest_subnormal))


def test_second_derivatives_hold_at_any_scale():
    _, _, second = derivatives(FUNCTIONS["std"][1], np.array([[1.0, 2.0, 4.0]]))
    _, _, scaled = derivatives(FUNCTIONS["std"][1], np.ldexp([[1.0, 2.0, 4.0]], -700))
    np.testing.assert_allclose(scaled, np.ldexp(second, 700), rtol=1e-12)


def test_each_row_has_its_own_scale():
    x = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0], [3, 4], [np.inf, 1], [np.nan, 1]], np.float32)
    right = np.array([5e30, 5e-30, 0, 5, np.inf, np.nan], np.float32)
    np.testing.assert_allclose(Tensor(x).norm(2, 1).numpy(), right, rtol=1e-6)
    right = np.array([5e29, 5e-31, 0, 0.5, np.nan, np.nan], np.float32)
    np.testing.assert_allclose(Tensor(x).std(1, correction=0).numpy(), right, rtol=1e-6)


def test_a_variance_may_fit_where_its_squares_do_not():
    x = np.zeros(10**6, np.float32)
    x[7] = 1e21
    exact = x.astype(np.float64).var()
    assert Tensor(x).var(correction=0).item() == pytest.approx(exact, rel=1e-5)
    assert minires.var(Tensor(np.array([1e30, 2e30], np.float32))).item() == np.inf


def test_nothing_has_a_norm_of_zero():
    for shape in ((0,), (0, 3), (3, 0)):
        assert minires.zeros(shape).norm().item() == 0
    np.testing.assert_array_equal(minires.zeros(3, 0).norm(2, 1).numpy(), np.zeros(3))
    assert np.isnan(minires.zeros(0).std().item())


# The right values: the largest or smallest alone, where the others are too far away to count.
FAR_APART = {
    -1: ([1e30, 1e-30, 1.0], 1e-30, [0, 1, 0]),
    -2: ([1e-25, -1e30], 1e-25, [1, 0]),
    0.5: ([1e30, 1e-30], 1e30, [1, 1e30]),  # dx = (y / x)^(1 - p)
    3: ([1e-30, -1e30], 1e30, [0, -1]),
    -3: ([0.0, 1e-20, 3.0], 0, [0, 0, 0]),
}


@pytest.mark.parametrize("p", FAR_APART)
@pytest.mark.parametrize("dtype", [np.float32, minires.bfloat16, np.float64])
def test_norms_of_any_order_hold_numbers_that_are_far_apart(p, dtype):
    x, value, gradient = FAR_APART[p]
    x = Tensor(np.array(x)).to(dtype).requires_grad_()
    y = x.norm(p)
    y.backward()
    rtol = 0.01 if dtype is minires.bfloat16 else 1e-6
    np.testing.assert_allclose(y.item(), value, rtol=rtol)
    np.testing.assert_allclose(x.grad.double().numpy(), gradient, rtol=rtol, atol=1e-12)


def test_norms_of_any_order_hold_doubles_that_are_far_apart():
    assert Tensor(np.array([1e300, 1e-300])).norm(-2).item() == pytest.approx(1e-300)
    assert Tensor(np.array([1e300, 1e-300])).norm(4).item() == pytest.approx(1e300)
