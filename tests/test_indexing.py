"""Indexing beside the op table: views, arrays and Tensors as indices, and what indexing does to a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import minires
from minires.autograd import Tensor
from minires.ops.pad import pad

X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize("index", [1, -1, (1, 2, 3), slice(1, 2), (Ellipsis, 0), None, (0, slice(None, None, 2))])
def test_ints_and_slices_give_views(index):
    x = Tensor(X.copy())
    view = x[index]
    view.zero_()
    expected = torch.from_numpy(X.copy())
    expected[index].zero_()
    np.testing.assert_array_equal(x.array, expected.numpy())


@pytest.mark.parametrize("index", [[0, 1], (0, [0, 2]), X > 5])
def test_lists_and_masks_give_copies(index):
    x = Tensor(X.copy())
    x[index].zero_()
    np.testing.assert_array_equal(x.array, X)


@pytest.mark.parametrize(
    "index",
    [np.array([0, 1]), np.array([True, False]), np.int32(1), range(2)],
    ids=["ints", "mask", "scalar", "range"],
)
def test_numpy_arrays_and_ranges_are_indices(index):
    np.testing.assert_array_equal(Tensor(X)[index].array, torch.from_numpy(X)[index].numpy())


def test_tensors_bound_slices_and_stand_for_ints():
    x, t = Tensor(X), torch.from_numpy(X)
    for a, b in ((1, 3), (0, 2)):
        ours = x[0, minires.tensor(a) : minires.tensor(b), minires.tensor(1)]
        np.testing.assert_array_equal(ours.array, t[0, torch.tensor(a) : torch.tensor(b), torch.tensor(1)].numpy())


def test_an_int_before_an_index_array_is_applied_first():
    """NumPy would return shape (2, 3): its ints broadcast with the index arrays."""
    assert Tensor(X)[0, :, [1, 2]].shape == (3, 2)


def test_an_element_taken_twice_receives_both_gradients():
    x = minires.zeros(3, requires_grad=True)
    x[[0, 0, 2]].backward(minires.tensor([1.0, 10.0, 100.0]))
    assert x.grad.tolist() == [11, 0, 100]


def test_a_nested_list_is_refused():
    with pytest.raises(IndexError, match="ambiguous"):
        Tensor(X)[[[0, 1], [1, 2]]]


@pytest.mark.parametrize("index", [minires.zeros(2), np.zeros(2, np.uint8), {}, 1.5, "a", (Ellipsis, Ellipsis)])
def test_what_is_no_index_is_refused(index):
    with pytest.raises(IndexError, match=r".{15,}"):
        Tensor(X)[index]


def test_iteration_gives_slices_that_carry_gradients():
    x = minires.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    first, second = x
    (first * 2 + second).sum().backward()
    assert x.grad.tolist() == [[2, 2], [1, 1]]


def test_unpacking_a_number_is_refused():
    with pytest.raises(TypeError):
        list(minires.tensor(1.0))


LAYOUT_KEEPING = {
    "add": lambda x: x + 1.5,
    "mul": lambda x: x * x,
    "bias": lambda x: x + Tensor(np.ones((3, 1, 1))),
    "where": lambda x: minires.where(x > 0, x, 0.0),
    "clamp": lambda x: x.clamp(0, 1),
    "maximum": lambda x: minires.maximum(x, -x),
    "exp": minires.exp,
    "sigmoid": minires.sigmoid,
    "softmax": lambda x: x.softmax(1),
    "clone": minires.clone,
    "float": lambda x: x.float(),
    "cat": lambda x: minires.cat([x, x], 1),
    "pad": lambda x: pad(x, (1, 1, 1, 1)),
    "relu": minires.relu,
    "erf": minires.erf,
    "gradient of a slice": lambda x: gradient(lambda x: x[:, :, ::2, ::2] * 1.0, x),
    "gradient of clamp": lambda x: gradient(lambda x: x.clamp(0, 1), x),
}


def gradient(function, x):
    x = x.detach().requires_grad_()
    y = function(x)
    y.backward(minires.ones_like(y))
    return x.grad


@pytest.mark.parametrize("function", LAYOUT_KEEPING.values(), ids=LAYOUT_KEEPING.keys())
def test_channels_last_memory_stays_so(function):
    x = Tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 3)).transpose(0, 3, 1, 2))
    y = function(x).array
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_an_element_taken_many_times_gets_the_exact_sum_of_its_gradients():
    x = minires.ones(3, requires_grad=True)
    x[np.zeros(200_000, np.int64)].backward(minires.full((200_000,), 0.1))
    assert abs(x.grad[0].item() / (200_000 * float(np.float32(0.1))) - 1) < 2e-7
