"""The verdicts of gradient checks, what they refuse, what they report, and the numerical derivative behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_bugs import OPS
from rich.console import Console

import minires
from minires import nn
from minires.autograd import Function, Tensor
from minires.nn import functional as F
from minires.verify import GradcheckError, SideEffectError, Verdict, gradcheck, gradcheck_numpy, gradgradcheck
from minires.verify.differences import differentiate, estimate_noise
from minires.verify.verdict import ORDER, Tolerance, judge


def leaf(*values):
    return Tensor(np.array(values, float), requires_grad=True)


# The numerical derivative


def derivative(f, branch=lambda t: b"", noise=1e-16, **options):
    with np.errstate(all="ignore"):
        start = np.array([f(0.0)]), b""
        return differentiate(lambda t: (np.array([f(t)]), branch(t)), start, np.array([noise]), 0.0273, **options)


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (np.exp, 1.0),
        (lambda t: np.sin(1000 * t), 1000.0),
        (lambda t: np.log(1e-3 + t), 1e3),
        (lambda t: (t + 2.0) ** 5, 80.0),
        (lambda t: 7.0 + 0 * t, 0.0),
        (lambda t: 1e6 + t, 1.0),
    ],
)
def test_a_derivative_lies_within_its_uncertainty(f, slope):
    found = derivative(f, noise=np.finfo(float).eps * abs(f(0.0)))
    assert not found.kink[0]
    assert abs(found.value[0] - slope) <= 10 * found.uncertainty[0] + 1e-12 * abs(slope)
    assert found.uncertainty[0] <= 1e-6 * max(slope, 1)


def test_a_straight_line_is_known_by_its_ends():
    found = derivative(lambda t: 0.7 * t)
    assert found.evaluations == 4
    assert abs(found.value[0] - 0.7) <= found.uncertainty[0] < 1e-12


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda t: t + max(t - 0.01, 0.0), 1.0),
        (lambda t: t + max(-t - 0.002, 0.0), 1.0),
        (lambda t: t + 1e-9 * (t > 0.003), 1.0),
        (lambda t: t + 1e-6 * t**2, 1.0),
        (lambda t: t + 1e-3 * t**3, 1.0),
        (lambda t: t if abs(t) < 0.02 else np.nan, 1.0),
    ],
)
def test_what_is_straight_near_by_only_is_looked_at_closely(f, slope):
    found = derivative(f)
    assert found.evaluations >= 8
    assert abs(found.value[0] - slope) <= 10 * found.uncertainty[0] < 1e-6


@pytest.mark.parametrize("mode", ["full", "directions"])
@pytest.mark.parametrize(
    ("f", "x", "slope"),
    [
        (lambda x: np.where(x < 1.01, x, np.inf), 1.0, 1.0),
        (np.exp, 709.0, np.exp(709.0)),
        (lambda x: -np.log(np.maximum(1 - x, 0)), 0.99, 100.0),
        (lambda x: x * x, 1.34e154, 2.68e154),
    ],
)
def test_where_a_step_leads_to_infinity_no_wrong_gradient_passes(f, x, slope, mode):
    for factor in (-3.0, 0.0, 0.5, 7.0):
        with np.errstate(all="ignore"):
            vjp = lambda inputs, dy, factor=factor: factor * slope * dy  # noqa: E731
            assert not gradcheck_numpy(f, vjp, np.array([x]), raise_exception=False, mode=mode)


def test_a_derivative_that_is_not_known_is_never_judged():
    infinite, no = np.array([np.inf]), np.array([False])
    verdict = judge(np.ones(1), infinite, infinite, no, no, 1.0, 1.0, Tolerance())
    assert ORDER[verdict[0]] is Verdict.ILL_CONDITIONED


def test_a_line_on_another_branch_proves_nothing():
    def branch(t):
        return b"other" if abs(t) > 0.01 else b""

    found = derivative(lambda t: t, branch)
    assert found.evaluations == 8
    assert found.crossed[0]
    closer = derivative(lambda t: t, branch, stay_on_branch=True)
    assert closer.evaluations == 2 + 4
    assert not closer.crossed[0]


@pytest.mark.parametrize(
    "f",
    [
        abs,
        lambda t: max(t, 0.0),
        lambda t: max(t, -2 * t),
        lambda t: t + 1e-3 * abs(t),
        lambda t: float(t > 0),
        lambda t: t if t else 1e-9,
        lambda t: np.sqrt(t) if t >= 0 else np.nan,
        lambda t: np.exp(t) + max(t, -2 * t),
    ],
)
def test_a_kink_a_jump_and_the_edge_of_a_domain_are_no_derivatives(f):
    assert derivative(f).kink[0]


def test_noise_is_estimated_from_values():
    rng = np.random.default_rng(0)
    noise = estimate_noise(
        lambda t: (np.exp(t) + 1e-6 * rng.standard_normal(500), b""), np.ones(500), 2.0**-30, np.full(500, 1e-16)
    )
    assert 0.5e-6 < np.median(noise) < 2e-6


# Verdicts


def test_at_a_kink_the_input_is_nudged_and_the_result_says_so():
    result = gradcheck(F.relu, leaf(0.0, 1.0, -1.0, 1e-12))
    assert result
    assert result.nudged > 0
    assert "nudged" in str(result)


def test_a_function_without_derivative_anywhere_near_is_no_pass():
    rough = gradcheck_numpy(
        lambda x: np.sin(1e13 * x), lambda inputs, dy: dy * 1e13, np.array([0.3]), raise_exception=False
    )
    assert rough.verdict in (Verdict.ILL_CONDITIONED, Verdict.NOT_DIFFERENTIABLE, Verdict.DIFFERENT)


def test_the_kink_of_two_ops_that_cancel_is_told_from_a_bug():
    # relu(x) - relu(-x) = x, but at 0 both gradients are 0: the branches say that the point is a kink.
    assert gradcheck(lambda x: F.relu(x) - F.relu(-x), leaf(0.0, 1.0))


def test_random_functions_are_not_deterministic():
    result = gradcheck(lambda x: x + minires.randn(3, dtype=minires.float64), leaf(1, 2, 3), raise_exception=False)
    assert result.verdict is Verdict.NOT_DETERMINISTIC
    with pytest.raises(GradcheckError, match="not deterministic"):
        gradcheck(lambda x: x + minires.randn(3, dtype=minires.float64), leaf(1, 2, 3))


@pytest.mark.parametrize("mode", ["full", "directions"])
def test_a_function_that_changes_late_is_not_deterministic(mode):
    calls = []

    def later(x):
        calls.append(x)
        return x * 2 if len(calls) < 15 else x * 3

    result = gradcheck(later, leaf(1, 2, 3, 4), raise_exception=False, mode=mode)
    assert result.verdict is Verdict.NOT_DETERMINISTIC


def test_a_value_drowned_in_rounding_is_ill_conditioned():
    assert gradcheck(lambda x: x + 1e16, leaf(1, 2), raise_exception=False).verdict is Verdict.ILL_CONDITIONED


@pytest.mark.parametrize("mode", ["full", "directions"])
def test_a_constant_has_slope_0_however_small_its_input(mode):
    """Over steps of the input's size rounding could feign a slope; larger steps show that there is none."""
    assert gradcheck(lambda x: x.clamp(-1, -1), leaf(1e-12), mode=mode, allow_unused=True)
    wrong = gradcheck_numpy(
        lambda x: 0 * x + 1, lambda inputs, dy: 1e-9 * dy, np.array([1e-12]), raise_exception=False, mode=mode
    )
    assert wrong.verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("mode", ["full", "directions"])
def test_nan_in_a_gradient_is_never_a_pass(mode):
    # At 0 the norm has no derivative, but a NaN is no answer either.
    assert not gradcheck(lambda x: (x * x).sum().sqrt(), leaf(0, 0), raise_exception=False, mode=mode)


def test_a_detached_part_is_different_and_diagnosed():
    result = gradcheck(lambda x, y: x * 2 + y.detach() * x, [leaf(1, 2), leaf(3, 4)], raise_exception=False)
    assert result.verdict is Verdict.DIFFERENT
    assert "the gradient stops" in str(result)


def test_an_output_of_float32_cannot_be_judged_to_1e_minus_6():
    result = gradcheck(lambda x: x.exp().float(), leaf(1, 2), raise_exception=False)
    assert result.verdict is not Verdict.DIFFERENT
    assert not result


def test_the_gradient_of_a_float16_output_is_rounded_and_no_bug():
    result = gradcheck(lambda x: x.half(), leaf(1.1, 2.3), raise_exception=False)
    assert result.verdict is Verdict.ILL_CONDITIONED


def test_float32_inputs_are_checked_in_float64_and_in_float32():
    x = minires.randn(2, 3, requires_grad=True)
    assert gradcheck(lambda x: x.softmax(1), x)

    class WrongInFloat32(Function):
        def forward(self, x):
            return x * 2

        def backward(self, dy):
            return dy * (2 if dy.dtype == np.float64 else 2.01)

    result = gradcheck(lambda x: WrongInFloat32()(x), x, raise_exception=False)
    assert result.verdict is Verdict.DIFFERENT
    assert "float32" in str(result)


def test_a_module_left_in_float32_gets_the_advice_to_convert_it():
    with pytest.raises(ValueError, match=r"module\.double\(\)"):
        gradcheck(nn.Conv2d(1, 1, 2), minires.randn(1, 1, 3, 3, requires_grad=True))


def test_integers_and_other_arguments_are_passed_on():
    index = Tensor(np.array([0, 2]))
    assert gradcheck(lambda x, i, power: x[i] ** power, [leaf(1, 2, 3), index, 3])


def test_an_empty_input():
    assert gradcheck(lambda x: x * 2, Tensor(np.zeros((0, 3)), requires_grad=True), allow_unused=True)


@pytest.mark.parametrize("mode", ["full", "directions"])
def test_where_nothing_can_be_compared_nothing_is_equal(mode):
    with pytest.raises(ValueError, match=r"input 0 has the shape \(0, 3\)"):
        gradcheck(lambda x: x * 2, Tensor(np.zeros((0, 3)), requires_grad=True), mode=mode)
    with pytest.raises(ValueError, match="output 0 has the shape"):
        gradcheck_numpy(lambda x: x[:0], lambda inputs, dy: np.zeros(2), np.ones(2), mode=mode)


@pytest.mark.parametrize("mode", ["full", "directions"])
def test_an_input_without_influence_is_seen_from_values(mode):
    """A gradient of zeros is right for an input that is ignored, but it says nothing."""

    def vjp(inputs, dy):
        return 2 * dy, np.zeros(2)

    inputs = np.ones(2), np.ones(2)
    ignored = gradcheck_numpy(lambda a, b: a * 2, vjp, inputs, raise_exception=False, mode=mode)
    assert ignored.verdict is Verdict.IGNORED
    assert gradcheck(lambda x: x * 0, leaf(1, 2), raise_exception=False, mode=mode).verdict is Verdict.IGNORED
    # Without a slope at the point, but not without influence.
    assert gradcheck(F.relu, leaf(-1, -2), mode=mode)
    assert gradcheck(lambda x: x.sign(), leaf(-1, 2), mode=mode)


def test_values_on_very_different_scales():
    assert gradcheck(lambda x: x * x, leaf(1e-9, 1.0, 1e9))


MODES = ["full", "directions"]
SMALL_BESIDE_LARGE = [
    (np.exp, np.exp, [33, 0], -1),
    (np.exp, np.exp, [33, 0], 0),
    (np.exp, np.exp, [33, 0], 2),
    (np.exp, np.exp, [33, 0], 1.2),
    (np.exp, np.exp, [28, 0], 1.01),
    (np.exp, np.exp, [25, 0], 1.001),
    (lambda x: x ** np.array([9, 1]), lambda x: [9, 1] * x ** np.array([8, 0]), [60, 1], 0),
    (lambda x: x * x, lambda x: 2 * x, [1e12, 1e-8], 1.001),
    (lambda x: 1 / x, lambda x: -1 / x**2, [1e-8, 1e12], 1.001),
    (np.log, lambda x: 1 / x, [1e-8, 1e12], 0.5),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("atol", [0, None])
@pytest.mark.parametrize(("fn", "slope", "at", "factor"), SMALL_BESIDE_LARGE)
def test_a_wrong_derivative_is_found_however_large_another_is(fn, slope, at, factor, atol, mode):
    def check(factors):
        vjp = lambda inputs, dy: dy * slope(inputs[0]) * factors  # noqa: E731
        tolerance = 0 if min(np.abs(slope(np.array(at, float)))) < 1e-10 else atol  # 1e-24 is nothing beside 1e-10
        return gradcheck_numpy(fn, vjp, np.array(at, float), atol=tolerance, raise_exception=False, mode=mode).verdict

    assert check([1, factor]) is Verdict.DIFFERENT
    assert check([1, 1]) is Verdict.EQUAL


@pytest.mark.parametrize("mode", MODES)
def test_a_forgotten_term_is_found_beside_a_large_derivative(mode):
    at = np.array([35, 0.5])
    fn = lambda x: np.exp(x) - 3 * x  # noqa: E731
    wrong = gradcheck_numpy(fn, lambda i, dy: dy * np.exp(i[0]), at, raise_exception=False, mode=mode)
    assert wrong.verdict is Verdict.DIFFERENT
    assert gradcheck_numpy(fn, lambda i, dy: dy * (np.exp(i[0]) - 3), at, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_what_cancels_in_a_backward_pass_leaves_its_rounding(mode):
    """The sum of a softmax does not depend on its input, but neither side gets exactly 0."""
    x = Tensor(np.random.default_rng(0).standard_normal((3, 7)), requires_grad=True)
    assert gradcheck(lambda x: x.softmax(1).sum(1), x, mode=mode)
    assert gradcheck(lambda x: x.softmax(1).sum(1) * 1e4, x, mode=mode)


POINT = np.array([0.3, 1.7, -2.2])


def narrow(dtype):
    return lambda x: np.tanh(x.astype(dtype)).astype(np.float64)


ROUGH = {
    "float32": (narrow(np.float32), lambda x: 1 - np.tanh(x) ** 2, "compute in float32"),
    "float16": (narrow(np.float16), lambda x: 1 - np.tanh(x) ** 2, "compute in float16"),
    "1e9": (lambda x: (x + 1e9) - 1e9, np.ones_like, "numbers of about 5e+08"),
    "1e12": (lambda x: (x + 1e12) - 1e12, np.ones_like, "numbers of about 5e+11"),
    "1e17": (lambda x: (x + 1e17) - 1e17, np.ones_like, "steps of about 16"),
    "partly": (lambda x: x + narrow(np.float32)(x), lambda x: 2 - np.tanh(x) ** 2, "compute in float32"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROUGH)
def test_a_right_gradient_of_a_rough_function_is_ill_conditioned(name, mode):
    fn, slope, words = ROUGH[name]
    result = gradcheck_numpy(fn, lambda i, dy: dy * slope(i[0]), POINT, raise_exception=False, mode=mode)
    assert result.verdict is Verdict.ILL_CONDITIONED
    assert "the values move in steps" in str(result)
    assert words in str(result)
    assert words in json.dumps(result.to_dict())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["float32", "1e9", "partly"])
def test_a_grossly_wrong_gradient_of_a_rough_function_is_still_different(name, mode):
    fn, slope, _ = ROUGH[name]
    result = gradcheck_numpy(fn, lambda i, dy: 1.2 * dy * slope(i[0]), POINT, raise_exception=False, mode=mode)
    assert result.verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fn", "slope", "at"),
    [
        (np.tanh, lambda x: (1 - np.tanh(x) ** 2).astype(np.float32).astype(float), POINT),
        (np.arcsin, lambda x: 1 / np.sqrt(1 - x * x), np.array([0.999999, 0, -0.5])),
        (lambda x: np.sin(1e6 * x), lambda x: 1e6 * np.cos(1e6 * x), POINT),
        (np.log, lambda x: 1 / x, np.array([1e-8, 1, 1e12])),
    ],
)
def test_both_modes_agree_that_a_gradient_is_right(fn, slope, at, mode):
    for seed in range(5):
        assert gradcheck_numpy(fn, lambda i, dy: dy * slope(i[0]), at, mode=mode, seed=seed)


@pytest.mark.parametrize("mode", MODES)
def test_beside_two_edges_of_a_domain_no_right_gradient_is_called_wrong(mode):
    at = np.array([1e-12, 0.5, 1 - 1e-9])
    for seed in range(5):
        right, wrong = (
            gradcheck_numpy(
                lambda x: np.log(x / (1 - x)),
                lambda i, dy, factors=factors: factors * dy / (i[0] * (1 - i[0])),
                at,
                mode=mode,
                seed=seed,
                raise_exception=False,
            ).verdict
            for factors in (np.ones(3), np.array([1, 1.5, 1]))
        )
        assert right in (Verdict.EQUAL, Verdict.ILL_CONDITIONED)
        assert wrong is Verdict.DIFFERENT
        assert mode == "directions" or right is Verdict.EQUAL


@pytest.mark.parametrize("mode", MODES)
def test_cancellation_in_float32_is_no_bug(mode):
    x = Tensor(np.random.default_rng(0).standard_normal(5).astype(np.float32), requires_grad=True)
    result = gradcheck(lambda x: ((x + 1e4) - 1e4) ** 2, x, raise_exception=False, mode=mode)
    assert result.verdict is Verdict.ILL_CONDITIONED
    assert "float32" in str(result)


def test_the_memory_layout_of_an_input_is_kept():
    layouts = []

    def note(x):
        layouts.append(x.array.flags.f_contiguous)
        return x * x

    gradcheck(note, Tensor(np.asfortranarray(np.ones((2, 3))), requires_grad=True))
    assert all(layouts)


# Refusals


def test_a_function_that_changes_its_input_is_refused():
    def bad(x):
        x.array[0] = 5
        return x * 2

    with pytest.raises(SideEffectError, match="changes its input 0"):
        gradcheck(bad, leaf(1, 2))
    with pytest.raises(SideEffectError, match="vjp changes its input 0"):
        gradcheck_numpy(lambda x: x, lambda inputs, dy: np.multiply(inputs[0], 0, out=inputs[0]) + dy, np.ones(2))


class ChangesItsGradient(Function):
    """Right by itself, but whoever else gets the same array finds it doubled."""

    def forward(self, x):
        return x * 2

    def backward(self, dy):
        dy.array[...] *= 2
        return dy


def test_a_backward_pass_that_changes_the_gradient_it_is_given_is_refused():
    with pytest.raises(SideEffectError, match="backward pass changes the gradient of an output"):
        gradcheck(lambda x: ChangesItsGradient()(x), leaf(1, 2))
    with pytest.raises(SideEffectError, match="vjp changes the gradient of the output"):
        gradcheck_numpy(lambda x: x * 2, lambda inputs, dy: np.multiply(dy, 2, out=dy), np.ones(2))


class ChangesItsSavedInput(Function):
    """Right at the first backward pass; a second one finds zeros."""

    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, dy):
        (x,) = self.saved
        dx = 2 * dy * Tensor(x.array.copy())
        x.array[...] = 0
        return dx


def test_a_backward_pass_that_changes_what_it_saved_is_refused():
    with pytest.raises(SideEffectError, match="changes an input of the function"):
        gradcheck(lambda x: ChangesItsSavedInput()(x), leaf(1, 2))
    with pytest.raises(SideEffectError, match="changes a saved value"):
        gradcheck(lambda x: ChangesItsSavedInput()(x * 1.5), leaf(1, 2))


INFINITE_AT_0 = {
    "sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "cbrt": (np.cbrt, lambda x: 1 / (3 * np.cbrt(x) ** 2)),
    "xlogx": (lambda x: np.where(x > 0, x * np.log(np.maximum(x, 1e-300)), 0), lambda x: np.log(x) + 1),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", INFINITE_AT_0)
def test_infinity_is_no_error_where_slopes_grow_without_end(name, mode):
    fn, slope = INFINITE_AT_0[name]

    def check(factor):
        vjp = lambda inputs, dy: factor * dy * slope(inputs[0])  # noqa: E731
        with np.errstate(divide="ignore"):
            return gradcheck_numpy(fn, vjp, np.zeros(1), raise_exception=False, mode=mode).verdict

    assert check(1) is Verdict.NOT_DIFFERENTIABLE
    assert check(-1) is Verdict.DIFFERENT


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fn", [lambda x: 3 * x, lambda x: np.maximum(x, 0), np.tanh])
def test_infinity_is_wrong_where_slopes_are_finite(fn, mode):
    result = gradcheck_numpy(fn, lambda inputs, dy: dy * np.inf, np.zeros(1), raise_exception=False, mode=mode)
    assert result.verdict is Verdict.DIFFERENT


def test_sqrt_of_a_tensor_at_0():
    assert gradcheck(lambda x: x.sqrt(), leaf(0), raise_exception=False).verdict is Verdict.NOT_DIFFERENTIABLE


def test_nan_in_a_gradient_is_reported_where_it_stands():
    result = gradcheck(lambda x: x**0.5, leaf(0, 1), raise_exception=False)
    assert result.verdict is Verdict.DIFFERENT
    assert "output 0[1] by input 0[0] is nan" in str(result)
    assert "tie" not in str(result)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradcheck_numpy(lambda x: x[x > 1], lambda i, dy: dy, np.array([1 + 1e-9, 2])), r"shapes \[\(1,\)\]"),
        (lambda: gradcheck(lambda x: x[np.flatnonzero(x.detach().numpy() > 1)], leaf(1 + 1e-9, 2)), "shapes must not"),
        (lambda: gradcheck(lambda x: x.log(), leaf(-1.0)), r"output 0 is nan at index \[0\]"),
        (lambda: gradcheck(lambda x: x, leaf(np.nan)), r"input 0 is nan at index \[0\]"),
        (lambda: gradcheck(lambda x: x > 0, leaf(1.0)), "bool only"),
        (lambda: gradcheck(lambda x: x, leaf(1.0), mode="fast"), "mode must be"),
        (lambda: gradcheck(lambda x: x, leaf(1.0), mode="directions", directions=0), "at least one direction"),
        (lambda: gradcheck(lambda x: x, leaf(1.0), rtol=-1), "tolerances"),
        (lambda: gradcheck(lambda x: x * 2, leaf(*[1.0] * 6000)), "too large"),
        (lambda: gradgradcheck(lambda x: x.detach(), leaf(1.0)), "no output depends"),
        (lambda: gradgradcheck(lambda x: x * x, leaf()), r"input 0 has the shape \(0,\)"),
        (lambda: gradgradcheck(lambda x: x * x, leaf(1, 2), leaf(1.0)), r"shapes \[\(1,\)\] for outputs .* \[\(2,\)\]"),
        (lambda: gradgradcheck(lambda x: x * x, leaf(1), [leaf(1), leaf(1)]), "grad_outputs of shapes"),
        (lambda: gradcheck(lambda x: x * x, np.ones(2)), "a tuple of them, not ndarray"),
        (lambda: gradcheck(lambda x: x * x, [np.ones(2)]), "no input requires a gradient"),
        (lambda: gradcheck(lambda x: x * x, 3.0), "not float"),
        (lambda: gradcheck(lambda x: x * x, torch.ones(2)), r"Tensors of minires, not torch\.Tensor"),
        (lambda: gradcheck(lambda x: x * x, [torch.ones(2)]), r"Tensors of minires, not torch\.Tensor"),
        (lambda: gradcheck(lambda x: torch.ones(2), leaf(1.0)), r"it returned torch\.Tensor"),
        (lambda: gradcheck_numpy(np.tanh, np.tanh, torch.ones(2)), r"input 0 is torch\.Tensor"),
        (lambda: gradcheck(lambda x: (x, None), leaf(1.0)), "tuple of Tensor, NoneType"),
        (lambda: gradcheck(lambda x: x, leaf(1.0), eps=0), "eps must be positive"),
        (lambda: gradcheck_numpy(np.tanh, lambda i, dy: dy, np.ones(2), eps=np.nan), "eps must be positive"),
        (lambda: gradcheck_numpy(np.tanh, np.tanh, np.ones(2, int)), "int64"),
        (lambda: gradcheck_numpy(np.tanh, np.tanh, np.ones(2, np.float16)), "float16"),
        (lambda: gradcheck_numpy(np.tanh, np.tanh, []), "no inputs"),
        (lambda: gradcheck_numpy(np.tanh, np.tanh, 1.0), "input 0 is float"),
        (lambda: gradcheck(lambda x: x, leaf(1.0), mode="directions", directions=2.5), "whole number"),
        (lambda: gradcheck_numpy(lambda x: None, np.tanh, np.ones(2)), "must return arrays"),
        (lambda: gradcheck_numpy(lambda x: x, lambda inputs, dy: dy[:1], np.ones(2)), r"shape \(1,\)"),
        (lambda: gradcheck_numpy(lambda x: x, lambda inputs, dy: (dy, dy), np.ones(2)), "2 gradients for 1"),
    ],
)
def test_what_cannot_be_checked_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Plain NumPy


def test_numpy_pairs_with_several_inputs_and_outputs():
    def fn(a, b):
        return a * b, a.sum()

    def vjp(inputs, grads):
        a, b = inputs
        return grads[0] * b + grads[1], grads[0] * a

    a, b = np.arange(1.0, 4), np.arange(2.0, 5)
    assert gradcheck_numpy(fn, vjp, (a, b))
    assert gradcheck_numpy(fn, vjp, (a, b), mode="directions")
    assert not gradcheck_numpy(fn, lambda i, g: vjp(i, g)[::-1], (a, b), raise_exception=False)


def test_none_for_an_input_means_no_gradient():
    def fn(a, b):
        return a * 2

    inputs = (np.ones(2), np.ones(2))
    assert gradcheck_numpy(fn, lambda i, dy: (2 * dy, None), inputs, raise_exception=False).verdict is Verdict.IGNORED
    assert gradcheck_numpy(fn, lambda i, dy: (2 * dy, None), inputs, allow_unused=True)
    assert not gradcheck_numpy(lambda a, b: a + b, lambda i, dy: (dy, None), inputs, raise_exception=False)


# Second order


def test_gradgradcheck_finds_a_wrong_second_derivative():
    class Cube(Function):
        """The first derivative is right, but recorded as a constant."""

        def forward(self, x):
            self.save(x)
            return x**3

        def backward(self, dy):
            (x,) = self.saved
            return dy * Tensor(3 * x.array**2)

    x = leaf(1.0, 2.0)
    assert gradcheck(lambda x: Cube()(x), x)
    assert gradgradcheck(lambda x: Cube()(x), x, raise_exception=False).verdict is Verdict.DIFFERENT
    assert gradgradcheck(lambda x: x**3, x)


# Diagnosis and reports


def found(op_name: str, bug_name: str):
    op = next(op for op in OPS if op.name == op_name)
    bug = next(bug for bug in op.bugs if bug.name == bug_name)
    return gradcheck_numpy(op.fn, op.wrong(bug), op.inputs, raise_exception=False)


@pytest.mark.parametrize(
    ("op", "bug", "pattern", "words"),
    [
        ("mean squared error", "the factor 2 is missing", "constant factor", "factor 2"),
        ("cross entropy", "not divided by the batch", "constant factor", "the batch size, 5"),
        ("cross entropy", "sign", "constant factor", "sign is wrong"),
        ("linear", "weight gradient transposed", "transposed", "axes 0 and 1"),
        ("conv", "weight gradient rotated", "flipped", "reversed along axis 2 and 3"),
        ("pad", "cropped one column off", "shifted", "off by one"),
        ("add with broadcasting", "the first row only", "missing sum", "broadcast axis 0"),
        ("residual add", "nothing through the shortcut", "stops", "gradient stops"),
        ("conv", "input gradient stops on the border", "border", "border of the input"),
        ("unbiased variance", "biased in the backward pass", "constant factor", "biased against unbiased"),
        ("batch norm", "unbiased variance in the backward pass", "biased variance", "15"),
        ("batch norm", "nothing through the mean", "missing mean", "mean of 16 values"),
        ("batch norm", "nothing through the variance", "missing variance", "variance of 16 values"),
        ("batch norm", "momentum folded in", "constant factor", "momentum"),
        ("relu again", "a constant is added", "constant offset", "0.001"),
        ("conv", "input gradient off by 1e-4 at one corner pixel", "one element", "[0, 0, 0, 0]"),
        ("conv", "input gradient with the filter rotated", "flipped", "filter is rotated"),
        ("group norm", "nothing through the mean", "missing mean", "mean of 8 values"),
        ("group norm", "nothing through the variance", "missing variance", "variance of 8 values"),
        (
            "attention",
            "without the square root",
            "constant factor",
            "square root of the length of axis 1 of the input, 4",
        ),
        ("softmax", "diagonal only", "diagonal only", "its own output only"),
        ("both triangles", "folded into the lower triangle", "triangles", "the upper one none"),
        ("both triangles", "the lower triangle only", "triangles", "upper triangle has no gradient"),
    ],
)
def test_known_patterns_are_named(op, bug, pattern, words):
    diagnoses = [diagnosis for block in found(op, bug).blocks for diagnosis in block.diagnoses]
    assert any(d.pattern == pattern and words in d.text for d in diagnoses), diagnoses


def test_a_factor_near_1_is_told_with_the_digits_that_differ():
    result = gradcheck_numpy(
        np.tanh, lambda i, dy: 1.000003 * dy / np.cosh(i[0]) ** 2, np.ones(3), raise_exception=False
    )
    assert "constant factor 1.000003" in str(result)


@pytest.mark.parametrize(("pixels", "padding"), [(3, 0), (3, 1), (5, 0)])
def test_a_rotated_filter_is_no_matter_of_the_border(pixels, padding):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 3))

    def correlate(x, w):
        padded = np.pad(x, padding)
        size = len(padded) - 2
        return np.array([[(padded[i : i + 3, j : j + 3] * w).sum() for j in range(size)] for i in range(size)])

    def rotated(inputs, dy):
        dx = np.zeros((pixels + 2 * padding,) * 2)
        for (i, j), each in np.ndenumerate(dy):
            dx[i : i + 3, j : j + 3] += each * w[::-1, ::-1]
        return dx[padding : padding + pixels, padding : padding + pixels]

    result = gradcheck_numpy(
        lambda x: correlate(x, w), rotated, rng.standard_normal((pixels,) * 2), raise_exception=False
    )
    (block,) = result.blocks
    patterns = [diagnosis.pattern for diagnosis in block.diagnoses]
    # One channel, as many pixels out as in: then a rotated filter is the same as a transposed Jacobian.
    assert patterns == ["transposed" if padding else "flipped"]


def test_the_report_and_the_data_say_the_same():
    result = found("linear", "weight gradient transposed")
    data = json.loads(json.dumps(result.to_dict()))
    assert data["verdict"] == "different"
    assert data["passed"] is False
    worst = next(block for block in data["blocks"] if block["worst"])["worst"][0]
    assert worst["input"].startswith("input 1[")
    assert abs(worst["analytical"] - worst["numerical"]) > worst["expected_error"]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(result)
    assert "transposed" in captured.get()
    assert worst["input"] in captured.get()


def test_infinite_values_are_text_in_json():
    result = gradcheck(lambda x: (x * x).sum().sqrt(), leaf(0, 0), raise_exception=False)
    assert "NaN" not in json.dumps(result.to_dict())


def test_the_calls_on_the_page_run_as_printed():
    page = (Path(__file__).parent.parent / "docs" / "verify.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    x, w = (Tensor(np.random.default_rng(0).standard_normal(s), requires_grad=True) for s in ((2, 3), (3, 2)))
    exec(block, {"np": np, "fn": lambda x, w: x @ w, "x": x, "w": w})


def test_a_full_check_of_one_op_is_quick():
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((1, 2, 4, 4), (3, 2, 3, 3)))
    assert gradcheck(lambda x, w: F.conv2d(x, w, padding=1), (x, w)).seconds < 2


def test_all_elements_moved_together_are_moved_exactly():
    # The middle sum is 1e-9 from the kink: steps are so small that rounding of the summands would be 4e-6 of them.
    x = minires.tensor([[0.5, 0.500000001, 1.000000001]], dtype=minires.float64, requires_grad=True)
    shortcut = minires.tensor([[1.0, -0.499999999999, -1.0]], dtype=minires.float64, requires_grad=True)
    assert gradcheck(lambda a, b: F.relu(a + b), (x, shortcut), raise_exception=False, seed=1889).verdict == "equal"
