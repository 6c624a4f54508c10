"""Who owns a gradient's memory: what nobody else can see is added to in place and given away, all else is copied."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import Tensor
from minires.autograd import Function


class Sends(Function):
    """The identity, whose backward sends what ``make`` returns and remembers where it lies."""

    def __init__(self, make):
        self.make = make
        self.places = []

    def forward(self, x):
        return x.copy()

    def backward(self, dy):
        gradient = Tensor(self.make(dy.array))
        self.places.append(place(gradient))
        return gradient


def place(tensor):
    return tensor.array.__array_interface__["data"][0]


def leaf(size=6):
    return minires.zeros(size, requires_grad=True)


def test_a_leaf_takes_a_gradient_that_nobody_else_has():
    x, sends = leaf(), Sends(lambda dy: dy * 2)
    sends(x).sum().backward()
    assert place(x.grad) == sends.places[0]
    assert x.grad.tolist() == [2.0] * 6


def test_a_leaf_takes_a_view_of_memory_that_nobody_else_has():
    x, sends = minires.zeros(2, 3, requires_grad=True), Sends(lambda dy: np.ascontiguousarray(dy.T).T)
    sends(x).sum().backward()
    assert place(x.grad) == sends.places[0]


kept = []


def keep(array):
    kept[:] = [array]
    return array


def twos():
    return bytearray(np.full(6, 2.0, np.float32).tobytes())


def unwritable(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "make",
    [
        lambda dy: keep(dy * 2),
        lambda dy: keep(np.full(6, 2.0, np.float32))[:],
        lambda dy: keep(np.full(7, 2.0, np.float32))[1:],
        lambda dy: keep(np.full(6, 2.0, np.float32)[:])[::-1],
        lambda dy: np.full(60, 2.0, np.float32)[::10],
        lambda dy: np.broadcast_to(np.float32(2), 6),
        lambda dy: np.frombuffer(keep(bytearray(np.full(6, 2.0, np.float32).tobytes())), np.float32),
        lambda dy: (
            np.frombuffer(keep(bytearray(np.full(6, 2.0, np.float32).tobytes())), np.float32).reshape(2, 3).ravel()
        ),
        lambda dy: unwritable(np.full(6, 2.0, np.float32)),
    ],
    ids=[
        "kept",
        "view of kept",
        "part of kept",
        "view of a view of kept",
        "part of much",
        "expanded",
        "foreign memory",
        "view of foreign memory",
        "unwritable",
    ],
)
def test_a_gradient_that_others_see_is_copied(make):
    x, sends = leaf(), Sends(make)
    sends(x).sum().backward()
    assert place(x.grad) != sends.places[0]
    x.grad.zero_()
    if kept:
        assert np.all(np.frombuffer(kept.pop(), np.float32) == 2.0)


def test_what_a_hook_has_seen_is_copied():
    x, seen, sends = leaf(), [], Sends(lambda dy: dy * 2)
    x.register_hook(seen.append)
    sends(x).sum().backward()
    x.grad.zero_()
    assert seen[0].tolist() == [2.0] * 6


def test_a_sum_is_made_in_the_first_gradient_if_nobody_else_has_it():
    x, first, second = leaf(), Sends(lambda dy: dy * 2), Sends(lambda dy: dy * 3)
    (second(x) + first(x)).sum().backward()  # the newest is walked first
    assert place(x.grad) == first.places[0]
    assert x.grad.tolist() == [5.0] * 6


def test_a_sum_leaves_alone_what_others_see():
    x, first, second = leaf(), Sends(lambda dy: keep(dy * 2)), Sends(lambda dy: dy * 3)
    (second(x) + first(x)).sum().backward()
    assert x.grad.tolist() == [5.0] * 6
    assert kept.pop().tolist() == [2.0] * 6


def test_a_sum_leaves_alone_memory_of_others():
    memory = twos()
    x, first = leaf(), Sends(lambda dy: np.frombuffer(memory, np.float32).reshape(6, 1).reshape(6))
    second, third = Sends(lambda dy: unwritable(dy * 3)), Sends(lambda dy: dy * 4)
    (third(x) + second(x) + first(x)).sum().backward()
    assert x.grad.tolist() == [9.0] * 6
    assert np.all(np.frombuffer(memory, np.float32) == 2.0)


def test_both_inputs_of_a_node_may_get_one_array():
    x = leaf()
    y = x * 1.0
    (y + y).sum().backward()
    assert x.grad.tolist() == [2.0] * 6


def test_large_sums_are_added_up_alike():
    x = minires.zeros(1 << 17, requires_grad=True)
    branches = [Sends(lambda dy, factor=factor: dy * factor) for factor in (1.0, 2.0, 4.0)]
    sum((branch(x) for branch in branches[1:]), start=branches[0](x)).sum().backward()
    assert np.all(x.grad.numpy() == 7.0)
    assert place(x.grad) == branches[-1].places[0]


def test_layouts_that_differ_are_added_by_position():
    x = minires.zeros(2, 3, 20, 300, requires_grad=True)
    values = np.arange(36_000, dtype=np.float32).reshape(2, 3, 20, 300)
    planes = Sends(lambda dy: values.copy())
    pixels = Sends(lambda dy: np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    for first, second in ((planes, pixels), (pixels, planes)):
        x.grad = None
        (Sends(second.make)(x) + Sends(first.make)(x)).sum().backward()
        assert np.array_equal(x.grad.numpy(), 2 * values)
