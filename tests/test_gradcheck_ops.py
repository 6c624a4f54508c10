"""Every op of the table by the gradient checks: first and second order."""

from __future__ import annotations

import numpy as np
import pytest
from op_functions import as_function
from op_rows import ROWS

from minires import models, nn
from minires.autograd import Tensor
from minires.verify import gradcheck, gradgradcheck

# The running statistics are outputs of these rows, and nobody's gradient flows through those.
STATISTICS = "batch_norm and its running statistics"
SMOOTH = {row.name: [sample for sample in row.samples if not sample.kink] for row in ROWS if row.name != STATISTICS}
ROWS_BY_NAME = {row.name: row for row in ROWS}


def functions(name: str):
    """The row's samples as (fn, leaves), those whose output has a gradient."""
    for sample in SMOOTH[name]:
        fn, leaves = as_function(ROWS_BY_NAME[name], sample)
        if leaves and any(output.requires_grad for output in fn(*leaves)):
            yield fn, leaves


@pytest.mark.parametrize("name", [name for name in SMOOTH if next(functions(name), None)])
def test_second_derivatives_of_an_op(name):
    fn, leaves = next(functions(name))
    assert gradgradcheck(fn, leaves, mode="directions", directions=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_full_jacobians_of_every_sample_of_an_op(name):
    for fn, leaves in functions(name):
        assert gradcheck(fn, leaves, allow_unused=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_of_every_sample_of_an_op(name):
    for fn, leaves in functions(name):
        assert gradgradcheck(fn, leaves, mode="directions", directions=1, allow_unused=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_twice(stride):
    shortcut = nn.Sequential(nn.Conv2d(2, 4, 1, 2, bias=False), nn.BatchNorm2d(4)) if stride == 2 else None
    block = models.BasicBlock(2, 2 * stride, stride, shortcut).double()
    x = Tensor(np.random.default_rng(0).standard_normal((2, 2, 4, 4)), requires_grad=True)
    assert gradgradcheck(block, x, mode="directions", directions=1)
    assert gradcheck(block, x, mode="directions", directions=1)


@pytest.mark.slow
def test_a_residual_block_in_full():
    block = models.BasicBlock(2, 2).double()
    x = Tensor(np.random.default_rng(0).standard_normal((2, 2, 4, 4)), requires_grad=True)
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)
