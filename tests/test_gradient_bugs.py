"""The catalogue of seeded bugs: every one is found, and the right backward pass beside it passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gradient_bugs import BUGS, OPS

from minires.autograd import Function, Tensor
from minires.verify import Verdict, gradcheck, gradcheck_numpy


def ids(pairs):
    return [f"{op.name}: {bug.name}" for op, bug in pairs]


def as_minires(fn, vjp):
    """The pair as a function of Tensors."""

    class Pair(Function):
        def forward(self, *arrays):
            self.save(*arrays)
            return np.asarray(fn(*arrays))

        def backward(self, dy):
            return tuple(Tensor(np.array(g)) for g in vjp(tuple(x.array for x in self.saved), dy.array))

    return lambda *tensors: Pair()(*tensors)


def as_torch(fn, vjp):
    """The pair as a function of PyTorch's Tensors."""

    class Pair(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors)
            return torch.from_numpy(np.array(fn(*(t.detach().numpy() for t in tensors))))

        @staticmethod
        def backward(ctx, dy):
            arrays = tuple(t.detach().numpy() for t in ctx.saved_tensors)
            return tuple(torch.from_numpy(np.array(g)) for g in vjp(arrays, dy.numpy()))

    return Pair.apply


def torch_passes(fn, vjp, inputs) -> bool:
    """What PyTorch's gradcheck says with its default tolerances."""
    tensors = tuple(torch.from_numpy(x.copy()).requires_grad_() for x in inputs)
    return torch.autograd.gradcheck(as_torch(fn, vjp), tensors, raise_exception=False)


def test_there_are_at_least_80():
    assert len(BUGS) >= 80
    assert len(set(ids(BUGS))) == len(BUGS)


def assert_found(op, bug):
    result = gradcheck_numpy(op.fn, op.wrong(bug), op.inputs, raise_exception=False)
    assert result.verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(("op", "bug"), BUGS[::8], ids=ids(BUGS[::8]))
def test_one_bug_in_eight_is_found(op, bug):
    assert_found(op, bug)


@pytest.mark.slow
@pytest.mark.parametrize(("op", "bug"), BUGS, ids=ids(BUGS))
def test_a_bug_is_found(op, bug):
    assert_found(op, bug)


@pytest.mark.slow
@pytest.mark.parametrize(("op", "bug"), BUGS, ids=ids(BUGS))
def test_a_bug_is_found_through_the_engine_and_along_directions(op, bug):
    tensors = [Tensor(x, requires_grad=True) for x in op.inputs]
    fn = as_minires(op.fn, op.wrong(bug))
    assert gradcheck(fn, tensors, raise_exception=False).verdict is Verdict.DIFFERENT
    if "ties" not in op.name:  # random directions do not see one tie
        assert not gradcheck(fn, tensors, raise_exception=False, mode="directions")


@pytest.mark.parametrize("op", OPS, ids=[op.name for op in OPS])
def test_the_right_backward_pass_is_equal(op):
    assert gradcheck_numpy(op.fn, op.right, op.inputs, mode="directions")


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS, ids=[op.name for op in OPS])
def test_the_right_backward_pass_is_equal_in_full(op):
    assert gradcheck_numpy(op.fn, op.right, op.inputs)
    tensors = [Tensor(x, requires_grad=True) for x in op.inputs]
    assert gradcheck(as_minires(op.fn, op.right), tensors)
    if "ties" not in op.name:  # PyTorch's check has no derivative there
        assert torch_passes(op.fn, op.right, op.inputs)
