"""Changes in place: values and refusals as PyTorch's, and what they may not do to a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import minires
from minires.autograd import Tensor


def pair(*shape: int, dtype="float64", seed: int = 0) -> tuple[Tensor, torch.Tensor]:
    array = (np.random.default_rng(seed).standard_normal(shape) * 3).astype(dtype)
    return Tensor(array.copy()), torch.from_numpy(array.copy())


def both(library, *, int64=False):
    dtype = getattr(library, "int64" if int64 else "float64")
    return library.tensor([1, 2, 3], dtype=dtype)


CHANGES = {
    "add_": lambda x, lib: x.add_(both(lib)),
    "add_ alpha": lambda x, lib: x.add_(both(lib), alpha=2.5),
    "add_ number": lambda x, lib: x.add_(1.5),
    "add_ int": lambda x, lib: x.add_(both(lib, int64=True)),
    "sub_": lambda x, lib: x.sub_(both(lib), alpha=2),
    "mul_": lambda x, lib: x.mul_(both(lib)),
    "div_": lambda x, lib: x.div_(both(lib)),
    "zero_": lambda x, lib: x.zero_(),
    "fill_": lambda x, lib: x.fill_(2),
    "fill_ tensor": lambda x, lib: x.fill_(lib.tensor(2.5)),
    "copy_": lambda x, lib: x.copy_(both(lib, int64=True)),
    "clamp_": lambda x, lib: x.clamp_(-1, 1),
    "clamp_ tensor": lambda x, lib: x.clamp_(max=both(lib)),
    "masked_fill_": lambda x, lib: x.masked_fill_(x > 0, -1.0),
    "+=": lambda x, lib: x.__iadd__(both(lib)),
    "-=": lambda x, lib: x.__isub__(2),
    "*=": lambda x, lib: x.__imul__(both(lib)),
    "/=": lambda x, lib: x.__itruediv__(both(lib)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_changes_the_memory_as_pytorch_does(change, dtype):
    ours, theirs = pair(2, 3, dtype=dtype)
    memory = ours.array
    assert change(ours, minires) is ours
    change(theirs, torch)
    assert ours.array is memory
    assert ours.dtype == theirs.numpy().dtype
    np.testing.assert_allclose(ours.array, theirs.numpy(), rtol=1e-6)


REFUSED = {
    "float into int": lambda lib: both(lib, int64=True).add_(1.5),
    "float limit on int": lambda lib: both(lib, int64=True).clamp_(0.5),
    "quotient into int": lambda lib: both(lib, int64=True).div_(2),
    "int into bool": lambda lib: (both(lib) > 1).add_(1),
    "normal into int": lambda lib: both(lib, int64=True).normal_(),
    "larger result": lambda lib: both(lib).add_(lib.zeros(2, 3)),
    "larger mask": lambda lib: both(lib).masked_fill_(lib.zeros(2, 3) > 0, 1.0),
    "larger source": lambda lib: both(lib).copy_(lib.zeros(2, 3)),
    "expanded": lambda lib: both(lib).expand(2, 3).add_(1),
    "other length": lambda lib: both(lib).add_(lib.zeros(2)),
    "source of other length": lambda lib: both(lib).copy_(lib.zeros(2)),
    "fill with many": lambda lib: both(lib).fill_(lib.zeros(3)),
    "negative std": lambda lib: both(lib).normal_(0, -1),
    "limits crossed": lambda lib: both(lib).uniform_(1, 0),
    "no limits": lambda lib: both(lib).clamp_(),
    "leaf": lambda lib: lib.zeros(3, requires_grad=True).add_(1),
    "leaf by operator": lambda lib: lib.zeros(3, requires_grad=True).__iadd__(1),
    "leaf by index": lambda lib: lib.zeros(3, requires_grad=True).__setitem__(0, 1.0),
    "leaf filled": lambda lib: lib.zeros(3, requires_grad=True).normal_(),
    "wrong count assigned": lambda lib: lib.zeros(3).__setitem__(slice(0, 2), lib.zeros(3)),
    "array assigned": lambda lib: lib.zeros(3).__setitem__(0, np.ones(1)),
    "list assigned": lambda lib: lib.zeros(3).__setitem__(slice(0, 2), [1.0, 2.0]),
    "index out of range": lambda lib: lib.zeros(3).__setitem__(3, 1.0),
    "negative step": lambda lib: lib.zeros(3).__setitem__(slice(None, None, -1), 1.0),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_pytorch_refuses(change):
    errors = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
    with pytest.raises(errors):
        change(torch)
    with pytest.raises(errors, match=r".{15,}"):
        change(minires)


ASSIGNMENTS = {
    "int": (1, 7.0),
    "slice": (slice(0, 2), 7.0),
    "step": ((slice(None), slice(None, None, 2)), 7.0),
    "row": (0, "vector"),
    "ellipsis": ((Ellipsis, 1), 7.0),
    "none": ((None, 1), "vector"),
    "element": ((1, 2), 7.0),
    "list": ([0, 2], "vector"),
    "list behind": ((slice(None), [1, 3]), 7.0),
    "list behind int": ((1, [1, 3]), 7.0),
    "two lists": (([0, 1], [1, 3]), 7.0),
    "mask of rows": ([True, False, True], "vector"),
    "everything": (Ellipsis, "vector"),
    "nothing": ([], 7.0),
}


@pytest.mark.parametrize(("index", "value"), ASSIGNMENTS.values(), ids=ASSIGNMENTS.keys())
def test_assigns_by_index_as_pytorch_does(index, value):
    ours, theirs = pair(3, 4)
    ours[index] = minires.arange(4.0, dtype=minires.float64) if value == "vector" else value
    theirs[index] = torch.arange(4.0, dtype=torch.float64) if value == "vector" else value
    np.testing.assert_array_equal(ours.array, theirs.numpy())


def test_assigns_by_mask_of_elements():
    ours, theirs = pair(3, 4)
    ours[ours > 0] = -1.0
    theirs[theirs > 0] = -1.0
    np.testing.assert_array_equal(ours.array, theirs.numpy())


def test_a_view_of_one_element_writes_through():
    x = minires.zeros(3)
    x[1].add_(5)
    assert x.tolist() == [0, 5, 0]


def test_augmented_assignment_in_a_recorded_computation_changes_every_name():
    x = minires.ones(2, requires_grad=True)
    y = x * 2
    kept = y
    y += x
    assert y is kept
    assert kept.tolist() == [3, 3]
    kept.sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_changing_a_saved_tensor_is_noticed_by_backward():
    x, w = minires.ones(2), minires.ones(2, requires_grad=True)
    y = x * w
    x.add_(1)
    with pytest.raises(RuntimeError, match="Mul needs input 0"):
        y.sum().backward()


def test_changing_a_view_of_a_saved_tensor_is_noticed_by_backward():
    x, w = minires.ones(2, 2), minires.ones(2, 2, requires_grad=True)
    y = x * w
    x[0] = 3.0
    with pytest.raises(RuntimeError, match="changed"):
        y.sum().backward()


def test_no_grad_allows_a_leaf_to_be_updated():
    x = minires.ones(2, requires_grad=True)
    with minires.no_grad():
        x -= 0.5
    assert x.tolist() == [0.5, 0.5]
    assert x.is_leaf


def test_random_filling_follows_the_seed_and_the_moments():
    samples = []
    for _ in range(2):
        minires.manual_seed(3)
        samples.append(minires.zeros(20000).normal_(1.0, 2.0).array)
    np.testing.assert_array_equal(*samples)
    assert abs(samples[0].mean() - 1) < 0.05
    assert abs(samples[0].std() - 2) < 0.05
    uniform = minires.zeros(20000).uniform_(-1, 3).array
    assert -1 <= uniform.min() < -0.99
    assert 2.99 < uniform.max() < 3


def test_channels_last_memory_stays_so():
    array = np.ones((2, 4, 4, 3)).transpose(0, 3, 1, 2)
    x = Tensor(array)
    x.mul_(2).add_(x)
    assert x.array is array
    np.testing.assert_array_equal(array, 4)
