"""The pytest fixture ``gradcheck``, in this run and in pytest runs of its own."""

from __future__ import annotations

import numpy as np
import pytest

from minires.autograd import Tensor

TESTS = """
import numpy as np
from minires.autograd import Tensor

X = np.linspace(-1, 1, 4)

def test_right(gradcheck):
    gradcheck(lambda x: x.tanh(), Tensor(X, requires_grad=True), second_order=True)

def test_right_numpy(gradcheck):
    gradcheck(np.tanh, X, vjp=lambda inputs, dy: dy / np.cosh(inputs[0]) ** 2)

def test_wrong_numpy(gradcheck):
    gradcheck(np.tanh, X, vjp=lambda inputs, dy: 2 * dy / np.cosh(inputs[0]) ** 2)
"""


def test_the_fixture_returns_the_result(gradcheck):
    x = Tensor(np.linspace(-1, 1, 4), requires_grad=True)
    assert gradcheck(lambda x: x.exp(), x, mode="directions").mode == "directions"
    with pytest.raises(ValueError, match="second derivatives need Tensors"):
        gradcheck(np.tanh, x.detach().numpy(), vjp=lambda inputs, dy: dy, second_order=True)


def test_a_wrong_gradient_fails_the_test_with_a_report(pytester):
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "minires.verify.pytest_plugin", "-p", "no:cacheprovider", "-n", "0")
    result.assert_outcomes(passed=2, failed=1)
    output = result.stdout.str()
    assert "off by the constant factor 2" in output
    assert "worst entries" in output
