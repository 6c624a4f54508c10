"""Which dtype mixed operands are computed in: PyTorch's rules, for every pair of dtypes and kinds of operand."""

from __future__ import annotations

import itertools
import operator

import numpy as np
import pytest
import torch

import minires
from minires.autograd import Tensor

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
NUMBERS = (True, 2, 2.5)


def operands(library, describe):
    """(dtype, axes) or a number, as that library's operand."""
    if not isinstance(describe, tuple):
        return describe
    dtype, axes = describe
    return library.ones((2,) * axes, dtype=getattr(library, dtype))


TENSORS = [(dtype, axes) for dtype in DTYPES for axes in (0, 1)]


@pytest.mark.parametrize("first", TENSORS, ids=lambda t: f"{t[0]}-{t[1]}d")
def test_result_type_equals_pytorchs(first):
    for second in [*TENSORS, *NUMBERS]:
        for a, b in ((first, second), (second, first)):
            ours = minires.result_type(operands(minires, a), operands(minires, b))
            theirs = torch.result_type(operands(torch, a), operands(torch, b))
            assert str(theirs) == f"torch.{ours}", (a, b)


OPERATORS = {
    "+": operator.add,
    "*": operator.mul,
    "/": operator.truediv,
    "==": operator.eq,
    "<": operator.lt,
    "//": operator.floordiv,
}


@pytest.mark.parametrize("apply", OPERATORS.values(), ids=OPERATORS.keys())
def test_results_have_pytorchs_dtype(apply):
    for first, second in itertools.product([("float32", 1), ("int64", 1), ("uint8", 0), ("float64", 0)], repeat=2):
        ours = apply(operands(minires, first), operands(minires, second))
        theirs = apply(operands(torch, first), operands(torch, second))
        assert ours.dtype == theirs.numpy().dtype, (first, second)
    for number in (2, 2.5):
        for first in (("float32", 1), ("float16", 1), ("int32", 1)):
            ours, theirs = apply(operands(minires, first), number), apply(operands(torch, first), number)
            assert ours.dtype == theirs.numpy().dtype, (first, number)


@pytest.mark.parametrize("apply", [operator.eq, operator.lt, operator.ge])
def test_comparison_promotes_before_it_compares(apply):
    large = 2**24 + 1  # rounds to 2**24 in float32
    ours = apply(minires.tensor([large]), minires.tensor([float(2**24)]))
    theirs = apply(torch.tensor([large]), torch.tensor([float(2**24)]))
    assert ours.tolist() == theirs.tolist()


def test_numpy_scalars_count_as_python_numbers():
    x = minires.ones(2)
    for result in (x * np.float64(2), np.float64(2) * x, x + np.int64(1), np.float32(1) - x, x ** np.float64(2)):
        assert isinstance(result, Tensor)
        assert result.dtype == np.float32


@pytest.mark.parametrize("apply", [operator.add, operator.mul, operator.sub, operator.truediv, operator.pow])
def test_arrays_must_be_wrapped_on_either_side(apply):
    x, array = minires.ones(2), np.ones(2, np.float32)
    for a, b in ((x, array), (array, x)):
        with pytest.raises(TypeError, match="from_numpy"):
            apply(a, b)


def test_arrays_must_be_wrapped_to_be_compared():
    for apply in (operator.eq, operator.ne, operator.lt):
        with pytest.raises(TypeError, match="from_numpy"):
            apply(minires.ones(2), np.ones(2))


def test_equality_with_what_is_no_number_is_false():
    x = minires.ones(2)
    assert (x == None) is False  # noqa: E711  # the operator is what is tested
    assert (x != "a") is True
    assert x not in (None, "a")


def test_a_gradient_comes_back_in_the_dtype_of_its_input():
    x = minires.ones(2, dtype=minires.float32, requires_grad=True)
    w = minires.ones(2, dtype=minires.float64, requires_grad=True)
    (x * w).sum().backward()
    assert (x.grad.dtype, w.grad.dtype) == (np.float32, np.float64)


CONVERSIONS = ("half", "float", "double", "long", "int", "short", "byte", "bool")


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversions_equal_pytorchs(name):
    array = np.array([0.0, 1.5, -2.7, 3.0])
    array = np.abs(array) if name == "byte" else array
    ours, theirs = getattr(Tensor(array), name)(), getattr(torch.from_numpy(array), name)()
    assert ours.dtype == theirs.numpy().dtype
    np.testing.assert_array_equal(ours.array, theirs.numpy())


def test_conversion_carries_the_gradient():
    x = minires.ones(2, requires_grad=True)
    (x.double() * 3).sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert x.grad.dtype == np.float32


def test_to_takes_what_pytorchs_takes():
    x = minires.zeros(2)
    assert x.to(minires.float32) is x.to("cpu") is x.float() is x
    assert x.to("float64").dtype == x.to(dtype=np.float64).dtype == np.float64
    assert x.to("cpu", minires.int64, non_blocking=True).dtype == np.int64
    assert x.to(minires.arange(2)).dtype == np.int64
    assert x.type_as(minires.arange(2)).dtype == np.int64
    assert x.to(minires.float32, copy=True) is not x
    for wrong in ("gpu", "object", True, None):
        with pytest.raises((TypeError, ValueError), match=r".{15,}"):
            x.to(wrong)
