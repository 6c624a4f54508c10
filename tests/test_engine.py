"""The graph and the backward walk beyond what PyTorch has: functions of a user, depth, changed memory, failures."""

from __future__ import annotations

import copy
import gc
import pickle
import sys

import numpy as np
import pytest
import torch

import minires
from minires.autograd import Function, Tensor


def vector(*numbers, requires_grad=True):
    return Tensor(np.array(numbers, np.float64), requires_grad)


def numbers(tensor):
    return tensor.detach().numpy().tolist()


# Functions of a user


class Cube(Function):
    def forward(self, x):
        self.save(x)
        return x**3

    def backward(self, dy):
        (x,) = self.saved
        return 3 * x**2 * dy


class Sigmoid(Function):
    """Saves its output rather than its input."""

    def forward(self, x):
        y = 1 / (1 + np.exp(-x))
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * y * (1 - y)


class MinMax(Function):
    """Two outputs that carry gradients and one of integers, which cannot."""

    def forward(self, x):
        self.save(x)
        return x.min(), x.max(), x.argsort()

    def backward(self, d_min, d_max, d_order):
        (x,) = self.saved
        self.seen = (d_min, d_max, d_order)
        return minires.where(x == x.min(), d_min, 0.0) + minires.where(x == x.max(), d_max, 0.0)


class Counting(Function):
    """A product that counts which gradients it was asked for."""

    def __init__(self, asked):
        self.asked = asked

    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, dy):
        self.asked.append(self.needs_grad)
        a, b = self.saved
        return dy * b if self.needs_grad[0] else None, dy * a if self.needs_grad[1] else None


class Returning(Function):
    """An identity on one input whose backward returns what the test wants."""

    def __init__(self, gradient):
        self.gradient = gradient

    def forward(self, x, *others):
        return x.copy()

    def backward(self, dy):
        return self.gradient(dy) if callable(self.gradient) else self.gradient


def test_users_function_has_every_derivative():
    x = vector(2.0, 3.0)
    y = Cube()(x)
    derivatives = []
    for _ in range(3):
        (y,) = minires.autograd.grad(y.sum(), x, create_graph=True)
        derivatives.append(numbers(y))
    assert derivatives == [[12.0, 27.0], [12.0, 18.0], [6.0, 6.0]]


def test_saved_output_is_connected_to_the_graph():
    x = vector(0.3, -1.0)
    t = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    y, z = Sigmoid()(x), torch.sigmoid(t)
    for _ in range(3):
        (y,) = minires.autograd.grad(y.sum(), x, create_graph=True)
        (z,) = torch.autograd.grad(z.sum(), t, create_graph=True)
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12)


def test_saved_input_that_is_returned_too_stays_the_input():
    class Reversal(Function):
        """The identity with a gradient that is not its derivative."""

        def forward(self, x):
            self.save(x)
            return x

        def backward(self, dy):
            return -dy * self.saved[0]

    x = vector(2.0)
    (grad,) = minires.autograd.grad(Reversal()(x), x, create_graph=True)
    assert numbers(minires.autograd.grad(grad, x)[0]) == [-1.0]


def test_scalars_as_numpy_makes_them_can_be_saved():
    class SquareSum(Function):
        def forward(self, x):
            total = x.sum()  # np.float64, not an array
            self.save(total, total * 2)
            return total

        def backward(self, dy):
            total, double = self.saved
            return (dy * total * double).expand(self.input_shapes[0])

    x = vector(1.0, 2.0)
    SquareSum()(x).backward()
    assert numbers(x.grad) == [18.0, 18.0]


def test_a_sum_of_gradients_that_overflows_is_infinite_without_a_warning():
    x = minires.ones(1, requires_grad=True)
    (x * 3e38 + x * 3e38).sum().backward()
    assert numbers(x.grad) == [np.inf]


def test_unused_outputs_get_zeros_and_integer_outputs_none():
    x = vector(5.0, 1.0, 3.0)
    low, high, order = MinMax()(x)
    assert numbers(order) == [1, 2, 0]
    assert (order.requires_grad, order.is_leaf, high.requires_grad) == (False, True, True)
    node = high.grad_fn
    high.backward()
    assert numbers(x.grad) == [1.0, 0.0, 0.0]
    d_min, d_max, d_order = node.seen
    assert (d_min.item(), d_max.item(), d_order) == (0.0, 1.0, None)
    assert low.grad_fn is node
    assert (low.output_index, high.output_index) == (0, 1)


def test_both_outputs_reach_the_node_at_once():
    x = vector(5.0, 1.0, 3.0)
    low, high, _ = MinMax()(x)
    (low * 10 + high * low).backward()
    assert numbers(x.grad) == [1.0, 15.0, 0.0]


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_gradient_is_computed_only_for_inputs_that_ask(needs):
    asked = []
    a, b = vector(2.0, requires_grad=needs[0]), vector(3.0, requires_grad=needs[1])
    Counting(asked)(a, b).backward()
    assert asked == [needs]
    assert (a.grad is not None, b.grad is not None) == needs


def test_walk_computes_only_what_lies_between_inputs_and_outputs():
    asked = []
    x, w, v = vector(2.0), vector(3.0), vector(5.0)
    h = Counting(asked)(x, w)
    y = Counting(asked)(h, v)
    assert numbers(minires.autograd.grad(y, v, retain_graph=True)[0]) == [6.0]
    assert asked == [(False, True)]
    asked.clear()
    assert numbers(minires.autograd.grad(y, h, retain_graph=True)[0]) == [5.0]
    assert asked == [(True, False)]
    asked.clear()
    y.backward(inputs=[w])
    assert asked == [(True, False), (False, True)]


def test_function_is_told_that_nothing_is_recorded():
    class Watching(Function):
        def forward(self, x):
            self.save(x)
            return x + 1

    watching = Watching()
    with minires.no_grad():
        y = watching(vector(1.0))
    assert watching.needs_grad == (False,)
    assert y.grad_fn is None
    assert watching.saved == ()


def test_function_takes_numbers_and_none():
    class Scale(Function):
        def forward(self, x, factor, nothing):
            assert nothing is None
            self.save(factor, None)
            return x * factor

        def backward(self, dy):
            factor, nothing = self.saved
            assert nothing is None
            return dy * factor, None, None

    x = vector(1.0, 2.0)
    Scale()(x, 3.0, None).sum().backward()
    assert numbers(x.grad) == [3.0, 3.0]


@pytest.mark.parametrize("recorded", [True, False])
def test_function_is_applied_once(recorded):
    cube = Cube()
    cube(vector(1.0, requires_grad=recorded))
    with pytest.raises(RuntimeError, match="Cube has been applied already"):
        cube(vector(1.0, requires_grad=recorded))


def test_gradient_of_none_ends_the_path():
    x, w = vector(1.0), vector(2.0)
    (Returning(None)(x * w) + x).backward()
    assert numbers(x.grad) == [1.0]
    assert w.grad is None


def test_a_leaf_waits_for_its_last_gradient_even_if_that_is_none():
    x = vector(1.0)
    order = []
    x.register_post_accumulate_grad_hook(lambda t: order.append(t.grad.item()))
    early = x * 2
    Returning(lambda dy: (None, None))(early, x * 3).backward(retain_graph=True)
    (Returning(None)(early) + x * 5).backward()
    assert order == [5.0]


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (lambda dy: dy.sum(), r"shape \(\) and dtype float64 for input 0, of shape \(2,\)"),
        (lambda dy: dy.float(), r"dtype float32 for input 0, .* dtype float64"),
        (lambda dy: (dy, dy), "returned 2 gradients for 1 inputs"),
        (lambda dy: (), "returned 0 gradients for 1 inputs"),
        (lambda dy: dy.numpy(), "returned ndarray for input 0"),
    ],
)
def test_wrong_gradients_are_refused_by_name(gradient, message):
    x = vector(1.0, 2.0)
    with pytest.raises(RuntimeError, match=f"Returning.backward.*{message}"):
        Returning(gradient)(x).sum().backward()


def test_function_without_backward_says_so():
    class Forward(Function):
        def forward(self, x):
            return x + 1

    with pytest.raises(NotImplementedError, match="Forward has no backward"):
        Forward()(vector(1.0)).backward()


# Depth


@pytest.fixture
def no_collector():
    """The collector would look through the whole graph again and again while it grows."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("function", [lambda: Returning(lambda dy: dy), Sigmoid], ids=["plain", "saving"])
@pytest.mark.parametrize("depth", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_depth_is_too_deep_to_walk_or_to_free(function, depth):
    x = vector(0.0)
    y = x
    for _ in range(depth):
        y = function()(y)
    y.backward(retain_graph=True)
    assert x.grad is not None
    del y  # with its graph: this must not recurse either


def test_deep_graph_of_second_order():
    x = vector(1.0)
    y = x
    for _ in range(3000):
        y = y + 0.0
    (grad,) = minires.autograd.grad(y * y, x, create_graph=True)
    assert numbers(minires.autograd.grad(grad, x)[0]) == [2.0]


# In-place changes of what backward needs


def change_input(x, y):
    x.add_(1)


def change_through_detach(x, y):
    x.detach().add_(1)


def change_through_data(x, y):
    x.data.mul_(2)


def change_through_a_view(x, y):
    x.detach().reshape(2, 1)[0].zero_()


def change_by_assignment(x, y):
    x[0] = 7.0


def replace_data(x, y):
    x.data = vector(9.0, 9.0, requires_grad=False)


@pytest.mark.parametrize(
    "change",
    [
        change_input,
        change_through_detach,
        change_through_data,
        change_through_a_view,
        change_by_assignment,
        replace_data,
    ],
    ids=lambda change: change.__name__,
)
def test_changed_input_is_named(change):
    x = vector(1.0, 2.0)
    y = Cube()(x)
    with minires.no_grad():
        change(x, y)
    with pytest.raises(RuntimeError, match=r"Cube needs input 0 \(shape \(2,\)\).*changed in place"):
        y.sum().backward()


def test_changed_output_is_named():
    y = Sigmoid()(vector(1.0, 2.0))
    y.detach().zero_()
    with pytest.raises(RuntimeError, match=r"Sigmoid needs output 0 .*changed in place"):
        y.sum().backward()


def test_changed_memory_is_noticed_through_a_saved_view():
    class SavesView(Function):
        def forward(self, x):
            self.save(x.T[:1])
            return x.sum(axis=1)

        def backward(self, dy):
            return self.saved[0]

    x = Tensor(np.ones((2, 3)), requires_grad=True)
    y = SavesView()(x)
    x.detach().zero_()
    with pytest.raises(RuntimeError, match=r"SavesView needs a view of input 0 \(shape \(1, 2\)\)"):
        y.sum().backward()


@pytest.mark.parametrize("memory", [bytearray(16), np.ones(2).data, torch.ones(2, dtype=torch.float64).numpy()])
def test_views_of_foreign_memory_share_the_version(memory):
    x = Tensor(np.frombuffer(memory, np.float64), requires_grad=True)
    y = Cube()(x.reshape(2, 1))
    x.detach().add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_change_of_what_backward_does_not_need_is_allowed():
    x = vector(1.0, 2.0)
    y = x + 1
    x.detach().mul_(5)
    y.sum().backward()
    assert numbers(x.grad) == [1.0, 1.0]


def test_change_of_a_copy_is_allowed():
    x = vector(1.0, 2.0)
    y = Cube()(x)
    x.detach().clone().zero_()
    y.sum().backward()
    assert numbers(x.grad) == [3.0, 12.0]


def test_changing_expanded_memory_is_refused():
    with pytest.raises(RuntimeError, match="clone"):
        minires.zeros(1).expand(3).add_(1)


# Aliasing: what backward hands out belongs to whoever gets it


def grads_of_a_sum():
    x, y = vector(1.0, 2.0), vector(3.0, 4.0)
    (x + y).sum().backward()
    return [x.grad, y.grad]


def grads_of_a_sum_with_gradient_given():
    x, y, given = vector(1.0, 2.0), vector(3.0, 4.0), vector(1.0, 1.0, requires_grad=False)
    (x + y).backward(given)
    return [x.grad, y.grad, given]


def grads_of_a_tensor_used_twice():
    x, given = vector(1.0, 2.0), vector(1.0, 1.0, requires_grad=False)
    (x + x).backward(given)
    return [x.grad, given]


def grad_returned():
    x, y, given = vector(1.0, 2.0), vector(3.0, 4.0), vector(1.0, 1.0, requires_grad=False)
    z = x + y
    return [*minires.autograd.grad(z, (x, y, z), given), given]


def grad_returned_with_create_graph():
    x, y, given = vector(1.0, 2.0), vector(3.0, 4.0), vector(1.0, 1.0, requires_grad=False)
    z = x + y
    return [*minires.autograd.grad(z, (x, y, z), given, create_graph=True), given]


def grads_retained():
    x, given = vector(1.0, 2.0), vector(1.0, 1.0, requires_grad=False)
    y = x + 0
    z = y + 0
    y.retain_grad()
    z.retain_grad()
    z.backward(given)
    return [x.grad, y.grad, z.grad, given]


def grads_kept_by_hooks():
    x, kept = vector(1.0, 2.0), []
    y = x + 0
    y.register_hook(kept.append)
    x.register_hook(kept.append)
    (y * 2 + x * 3).sum().backward()
    return [x.grad, kept[0], kept[1]]


def grad_of_a_product_and_its_factor():
    x, w = vector(1.0, 2.0), vector(3.0, 4.0)
    (x * w).sum().backward()
    return [x.grad, w.grad, x, w]


@pytest.mark.parametrize(
    "make",
    [
        grads_of_a_sum,
        grads_of_a_sum_with_gradient_given,
        grads_of_a_tensor_used_twice,
        grad_returned,
        grad_returned_with_create_graph,
        grads_retained,
        grads_kept_by_hooks,
        grad_of_a_product_and_its_factor,
    ],
    ids=lambda make: make.__name__,
)
def test_no_two_gradients_share_memory(make):
    arrays = [tensor.array for tensor in make()]
    for i, a in enumerate(arrays):
        assert a.flags.writeable
        for b in arrays[:i]:
            assert not np.shares_memory(a, b)


def test_gradient_given_may_be_changed_afterwards():
    x, given = vector(1.0, 2.0), vector(1.0, 1.0, requires_grad=False)
    (x + 0).backward(given)
    given.zero_()
    (x + 0).backward(vector(1.0, 1.0, requires_grad=False))
    assert numbers(x.grad) == [2.0, 2.0]
    assert numbers(given) == [0.0, 0.0]


# When something goes wrong inside


def test_engine_is_usable_after_an_exception_in_backward():
    def fail(dy):
        raise ZeroDivisionError

    x = vector(2.0)
    node_input = x * x
    with pytest.raises(ZeroDivisionError):
        Returning(fail)(node_input).backward()
    assert minires.is_grad_enabled()
    assert node_input.grad_fn.needs_grad == (True, True)
    assert x.grad is None
    node_input.backward()
    assert numbers(x.grad) == [4.0]


def test_backward_inside_a_backward():
    x, w = vector(2.0), vector(3.0)
    inner = w * w

    def also(dy):
        assert not minires.is_grad_enabled()
        inner.backward()
        return dy

    Returning(also)(x * x).backward()
    assert (numbers(x.grad), numbers(w.grad)) == ([4.0], [6.0])
    assert minires.is_grad_enabled()


def test_backward_through_the_same_graph_inside_a_hook():
    x = vector(2.0)
    y = x * x
    seen = []

    def hook(grad):
        if not seen:
            seen.append(None)
            seen.extend(minires.autograd.grad(y, x, retain_graph=True))

    y.register_hook(hook)
    y.backward()
    assert numbers(seen[1]) == [4.0]
    assert numbers(x.grad) == [4.0]


# Copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (3, 2, 0, 1), (0, 3, 1, 2)])
def test_copies_keep_the_memory_layout(copied, axes):
    x = Tensor(np.random.default_rng(0).random((2, 3, 4, 5)).transpose(axes))
    y = copied(x)
    assert y.array.strides == x.array.strides
    np.testing.assert_array_equal(y.array, x.array)


def test_tensor_wraps_arrays_only():
    with pytest.raises(TypeError, match="Tensor wraps a NumPy or CuPy array, got list"):
        Tensor([1.0])


def test_backward_passes_nested_without_end_are_a_recursion_error():
    x = minires.ones(1, requires_grad=True)

    def hook(gradient):
        with minires.enable_grad():
            y = x * 2
            y.register_hook(hook)
            y.backward()

    before = sys.getrecursionlimit()
    with pytest.raises(RecursionError):
        hook(None)
    assert sys.getrecursionlimit() == before


def test_a_function_of_a_user_may_take_arrays_as_they_are():
    class Masked(Function):
        def forward(self, x, mask):
            self.mask = mask
            return x * mask

        def backward(self, dy):
            return dy * Tensor(self.mask), None

    x, mask = Tensor(np.array([1.0, 2.0]), requires_grad=True), np.array([0.0, 1.0])
    Masked()(x, mask).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), mask)


@pytest.mark.parametrize("position", [0, 1])
def test_gradients_of_what_is_no_tensor_are_refused(position):
    x = Tensor(np.ones(2), requires_grad=True)
    arguments = [[x.sum()], [x]]
    arguments[position] = [np.ones(2)]
    with pytest.raises(TypeError, match="with respect to Tensors, got ndarray: pass"):
        minires.autograd.grad(*arguments)
