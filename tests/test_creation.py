"""Making Tensors: values, dtypes and refusals as PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import minires
from minires.autograd import Tensor
from minires.autograd.creation import set_default_dtype

DATA = {
    "int": 3,
    "float": 2.5,
    "bool": True,
    "ints": [1, 2],
    "floats": [[1.0, 2.0], [3.0, 4.0]],
    "mixed": [1, 2.5],
    "bools": [True, False],
    "bool and int": [True, 2],
    "empty": [],
    "nested empty": [[], []],
    "tuple": ((1, 2), (3, 4)),
    "float64 array": np.array([1.0, 2.0]),
    "int32 array": np.array([1, 2], np.int32),
    "uint8 array": np.array([1, 2], np.uint8),
    "float16 array": np.array([1, 2], np.float16),
    "float64 scalar": np.float64(1.5),
    "transposed array": np.arange(6.0).reshape(2, 3).T,
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
def test_tensor_has_pytorchs_dtype_and_values(data):
    ours, theirs = minires.tensor(data), torch.tensor(data)
    assert ours.dtype == theirs.numpy().dtype
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_array_equal(ours.array, theirs.numpy())


MADE = {
    "zeros": lambda lib: lib.zeros(2, 3),
    "zeros by tuple": lambda lib: lib.zeros((2, 3)),
    "zeros 0-dim": lambda lib: lib.zeros(()),
    "zeros int": lambda lib: lib.zeros(2, dtype=lib.int64),
    "ones": lambda lib: lib.ones(2, 0),
    "full float": lambda lib: lib.full((2,), 1.5),
    "full int": lambda lib: lib.full((2,), 3),
    "full bool": lambda lib: lib.full((2,), True),
    "full typed": lambda lib: lib.full((2,), 3, dtype=lib.float64),
    "eye": lambda lib: lib.eye(2),
    "eye of two lengths": lambda lib: lib.eye(2, 3, dtype=lib.float64),
    "arange": lambda lib: lib.arange(3),
    "arange float": lambda lib: lib.arange(3.0),
    "arange from": lambda lib: lib.arange(1, 7, 2),
    "arange down": lambda lib: lib.arange(5, 0, -2),
    "arange fractions": lambda lib: lib.arange(0, 1, 0.25),
    "arange typed": lambda lib: lib.arange(3, dtype=lib.float64),
    "linspace": lambda lib: lib.linspace(-1, 1, 5),
    "linspace of none": lambda lib: lib.linspace(0, 1, 0),
    "zeros_like": lambda lib: lib.zeros_like(lib.arange(3)),
    "ones_like typed": lambda lib: lib.ones_like(lib.arange(3), dtype=lib.float32),
    "full_like": lambda lib: lib.full_like(lib.zeros(2), 7),
    "new_tensor": lambda lib: lib.zeros(2, dtype=lib.float64).new_tensor([1, 2]),
    "new_full": lambda lib: lib.zeros(2, dtype=lib.int64).new_full((2, 2), 3),
    "new_zeros": lambda lib: lib.arange(2).new_zeros(3),
    "new_ones": lambda lib: lib.zeros(2).new_ones((2, 2), dtype=lib.int32),
    "as_tensor": lambda lib: lib.as_tensor([1, 2], dtype=lib.float32),
    "tensor typed": lambda lib: lib.tensor([1.7, -1.7], dtype=lib.int64),
    "tensor of tensors": lambda lib: lib.tensor([lib.tensor(1.0), lib.tensor(2.0)]),
    "tensor of tensor": lambda lib: lib.tensor(lib.arange(3)) if lib is minires else lib.arange(3).clone(),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_made_as_pytorch_makes_them(make):
    ours, theirs = make(minires), make(torch)
    assert ours.dtype == theirs.numpy().dtype
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours.array, theirs.numpy(), rtol=1e-7)


REFUSED = {
    "ragged": lambda lib: lib.tensor([[1], [2, 3]]),
    "string": lambda lib: lib.tensor("a"),
    "none": lambda lib: lib.tensor(None),
    "strings": lambda lib: lib.tensor(["a", "b"]),
    "negative length": lambda lib: lib.zeros(-1),
    "fractional length": lambda lib: lib.zeros(2.5),
    "endless arange": lambda lib: lib.arange(3, 0),
    "arange of step 0": lambda lib: lib.arange(0, 3, 0),
    "integer with gradient": lambda lib: lib.tensor([1], requires_grad=True),
    "empty range": lambda lib: lib.randint(3, 3, (2,)),
    "from_numpy of list": lambda lib: lib.from_numpy([1.0]),
    "from_numpy of strings": lambda lib: lib.from_numpy(np.array(["a"])),
    "integer default": lambda lib: lib.set_default_dtype(lib.int64),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_pytorch_refuses(make):
    errors = (RuntimeError, TypeError, ValueError)
    with pytest.raises(errors):
        make(torch)
    with pytest.raises(errors, match=r".{15,}"):
        make(minires)


def test_tensor_copies_and_from_numpy_shares():
    array = np.zeros(2)
    copied, shared, wrapped = minires.tensor(array), minires.from_numpy(array), minires.as_tensor(array)
    array[0] = 1
    assert copied.tolist() == [0, 0]
    assert shared.tolist() == wrapped.tolist() == [1, 0]


def test_tensor_of_a_tensor_copies():
    x = minires.zeros(2)
    y = minires.tensor(x)
    y.add_(1)
    assert x.tolist() == [0, 0]


def test_as_tensor_returns_a_tensor_unchanged():
    x = minires.zeros(2)
    assert minires.as_tensor(x) is x
    assert minires.as_tensor(x, dtype=minires.float64).dtype == np.float64


def test_requires_grad_makes_a_leaf():
    x = minires.tensor([1.0], requires_grad=True)
    assert x.is_leaf
    assert x.requires_grad


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"])
def test_like_keeps_shape_dtype(name):
    x = Tensor(np.zeros((2, 3, 4, 5), np.float64))
    y = getattr(minires, name)(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


def test_zeros_like_keeps_channels_last_memory():
    x = Tensor(np.zeros((2, 4, 5, 3)).transpose(0, 3, 1, 2))
    assert minires.zeros_like(x).array.strides == x.array.strides


def test_random_numbers_follow_the_seed():
    draws = []
    for _ in range(2):
        minires.manual_seed(5)
        draws.append([minires.rand(3), minires.randn(2, 2), minires.randint(10, (4,)), minires.randperm(6)])
    for first, second in zip(*draws, strict=True):
        assert first.tolist() == second.tolist()


def test_random_numbers_have_pytorchs_dtypes_and_ranges():
    assert minires.rand(1000).dtype == np.float32
    assert 0 <= minires.rand(1000).array.min() <= minires.rand(1000).array.max() < 1
    assert minires.randn(2, dtype=minires.float64).dtype == np.float64
    drawn = minires.randint(-2, 3, (1000,))
    assert drawn.dtype == np.int64
    assert set(drawn.tolist()) == {-2, -1, 0, 1, 2}
    assert sorted(minires.randperm(7).tolist()) == list(range(7))


def test_the_default_dtype_can_be_changed():
    set_default_dtype(minires.float64)
    try:
        assert minires.zeros(1).dtype == minires.tensor(1.5).dtype == minires.get_default_dtype() == np.float64
        assert (minires.arange(2) / 2).dtype == np.float64
    finally:
        set_default_dtype(minires.float32)


def test_dtypes_are_numpys():
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"):
        assert getattr(minires, name) == np.dtype(name)
    assert minires.zeros(1).dtype == minires.float32
