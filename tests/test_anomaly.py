"""Anomaly detection: the first NaN or Inf is named with the op that made it, or that it came into."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires.autograd import AnomalyError, Function, detect_anomaly


class Poison(Function):
    """The identity, whose forward or backward puts one bad number in."""

    def __init__(self, forward=None, backward=None):
        self.bad_forward = forward
        self.bad_backward = backward

    def forward(self, x):
        return self._poisoned(x, self.bad_forward)

    def backward(self, dy):
        return minires.Tensor(self._poisoned(dy.array, self.bad_backward))

    def _poisoned(self, array, number):
        result = array.copy()
        if number is not None:
            result.flat[0] = number
        return result


def leaf(*numbers):
    return minires.tensor(np.array(numbers), requires_grad=True)


@pytest.mark.parametrize(("number", "kind"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_forward_names_the_op(number, kind):
    x = leaf(1.0, 2.0)
    with (
        detect_anomaly(),
        pytest.raises(AnomalyError, match=rf"Poison made {kind} in its forward pass .*\(2,\)") as caught,
    ):
        Poison(forward=number)(x * 2)
    assert (caught.value.op, caught.value.direction) == ("Poison", "forward")


@pytest.mark.parametrize(("number", "kind"), [(np.nan, "NaN"), (np.inf, "Inf")])
def test_backward_names_the_op_and_where_it_was_called(number, kind):
    with detect_anomaly():
        y = Poison(backward=number)(leaf(1.0, 2.0) * 2)
        with pytest.raises(AnomalyError, match=f"Poison made {kind} in its backward pass") as caught:
            (y * 3).sum().backward()
    assert (caught.value.op, caught.value.direction) == ("Poison", "backward")
    assert "test_backward_names_the_op_and_where_it_was_called" in str(caught.value)
    assert "function.py" not in str(caught.value)  # the engine's own frames tell the user nothing


def test_backward_without_a_recorded_stack_still_names_the_op():
    y = Poison(backward=np.nan)(leaf(1.0, 2.0))
    with detect_anomaly(), pytest.raises(AnomalyError, match="Poison made NaN"):
        y.sum().backward()


def test_bad_data_are_blamed_on_the_data():
    with detect_anomaly(), pytest.raises(AnomalyError, match="NaN entered Mul through its input 0"):
        leaf(np.nan, 1.0) * 2


def test_bad_gradient_given_is_blamed_on_whoever_gave_it():
    y = leaf(1.0, 2.0) * 2
    with detect_anomaly(), pytest.raises(AnomalyError, match="NaN entered the backward pass of Mul"):
        y.backward(minires.tensor(np.array([np.nan, 1.0])))


def test_infinity_given_may_pass_through():
    x = leaf(1.0, -np.inf)
    with detect_anomaly():
        y = x + 1
    assert y.tolist() == [2.0, -np.inf]


def test_nan_made_of_infinity_is_named():
    x = leaf(np.inf)
    with detect_anomaly(), np.errstate(invalid="ignore"), pytest.raises(AnomalyError, match="Sub made NaN"):
        x - x


def test_a_real_op_in_backward():
    x = leaf(0.0)
    with detect_anomaly(), np.errstate(divide="ignore"), pytest.raises(AnomalyError, match=r"Sqrt.* made Inf"):
        x.sqrt().sum().backward()


def test_nothing_is_checked_outside_or_when_off():
    x = leaf(1.0)
    with detect_anomaly():
        pass
    with detect_anomaly(False):
        y = Poison(forward=np.nan, backward=np.nan)(x)
    y.backward()
    assert np.isnan(x.grad.item())


def test_integers_are_left_alone():
    with detect_anomaly():
        assert (minires.arange(3) * 2).tolist() == [0, 2, 4]


def test_engine_is_usable_after_an_anomaly():
    x = leaf(2.0)
    with detect_anomaly(), pytest.raises(AnomalyError):
        Poison(backward=np.nan)(x).backward()
    (x * x).backward()
    assert x.grad.item() == 4.0
