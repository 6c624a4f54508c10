"""Memory: graphs, activations and gradients go when the last name goes, without the garbage collector."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import minires
from minires.autograd import Function, Tensor, detect_anomaly


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Keeping(Function):
    """The identity; saves an intermediate array, and tells through ``kept`` whether it still lives."""

    def __init__(self, kept):
        self.kept = kept

    def forward(self, x):
        intermediate = x.copy()
        self.kept.append(weakref.ref(intermediate))
        self.save(intermediate)
        return x * 1

    def backward(self, dy):
        self.saved  # noqa: B018 - as a real backward would
        return dy


class SavesOutput(Function):
    def forward(self, x):
        y = x * 1
        self.save(y)
        return y

    def backward(self, dy):
        return dy * self.saved[0]


def leaf():
    return Tensor(np.ones(3), requires_grad=True)


def alive(references):
    return [reference() is not None for reference in references]


def plain(x):
    return x * 2


def with_hook(x):
    y = x * 2
    y.register_hook(lambda grad: grad)
    return y


def with_retain_grad(x):
    y = x * 2
    y.retain_grad()
    return y


def with_saved_output(x):
    return SavesOutput()(x)


def with_view(x):
    return (x * 2).reshape(3, 1)


def with_several_outputs(x):
    class Two(Function):
        def forward(self, x):
            y, z = x * 1, x * 2
            self.save(x, y, z)
            return y, z

        def backward(self, dy, dz):
            return dy + dz

    first, second = Two()(x)
    first.retain_grad()
    second.register_hook(lambda grad: None)
    return first + second


def under_anomaly(x):
    with detect_anomaly():
        return x * 2


@pytest.mark.parametrize(
    "make",
    [plain, with_hook, with_retain_grad, with_saved_output, with_view, with_several_outputs, under_anomaly],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("walked", ["not walked", "walked", "walked and retained", "create_graph"])
def test_graph_goes_with_its_last_name(make, walked):
    x, kept = leaf(), []
    y = make(Keeping(kept)(x))
    references = [weakref.ref(y), weakref.ref(y.grad_fn), weakref.ref(y.array), *kept]
    loss = (y * y).sum()
    if walked == "create_graph":
        gradient = minires.autograd.grad(loss, x, create_graph=True)
        references.append(weakref.ref(gradient[0]))
        del gradient
    elif walked != "not walked":
        loss.backward(retain_graph=walked.endswith("retained"))
    del y
    assert alive(kept) == [walked != "walked"]
    del loss
    assert not any(alive(references))


def test_saved_arrays_go_as_the_walk_passes():
    kept, at_the_hook = [], []
    x = leaf()
    a = Keeping(kept)(x)
    a.register_hook(lambda grad: at_the_hook.extend(alive(kept)))
    b = Keeping(kept)(a)
    b.sum().backward()
    assert at_the_hook == [True, False]  # the later one was passed, the earlier one is still to come
    assert alive(kept) == [False, False]


def test_activations_go_as_the_walk_passes_while_the_loss_lives():
    x = leaf()
    h = x * 2
    activation = weakref.ref(h.array)
    loss = (h * h).sum()
    del h
    assert activation() is not None
    loss.backward()
    assert activation() is None


def test_nothing_is_kept_under_no_grad():
    kept = []
    with minires.no_grad():
        y = Keeping(kept)(leaf())
    assert alive(kept) == [False]
    assert y.grad_fn is None


def test_graph_goes_after_an_exception_in_backward():
    def run():
        kept = []
        y = Keeping(kept)(leaf())
        y.register_hook(lambda grad: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            y.sum().backward()
        return kept

    kept = run()
    gc.collect()  # tracebacks and the frames they hold do form cycles
    assert alive(kept) == [False]


def test_gradients_under_way_do_not_outlive_the_walk():
    seen = []
    x = leaf()
    y = x * 2
    y.register_hook(lambda grad: seen.append(weakref.ref(grad)))
    (y * 3).sum().backward()
    assert alive(seen) == [False]


def test_retained_gradient_goes_with_its_tensor():
    x = leaf()
    y = x * 2
    y.retain_grad()
    loss = (y * 3).sum()
    tensor = weakref.ref(y)
    del y
    assert tensor() is None
    loss.backward()
    assert x.grad.tolist() == [6.0, 6.0, 6.0]


def steep_leaf():
    return Tensor(np.array([1.0, -3.0]), requires_grad=True)


class Doubled(Function):
    """2 * x, which can be had from x again; ``remade`` gets an entry whenever it is."""

    can_remake = True

    def __init__(self, remade=None):
        self.remade = [] if remade is None else remade

    def forward(self, x):
        self.save(x)
        return 2 * x

    def remake(self, x):
        self.remade.append(x.shape)
        return 2 * x.array

    def backward(self, dy):
        return 2 * dy


def test_an_output_that_can_be_remade_goes_although_the_next_function_saved_it():
    x, remade = steep_leaf(), []
    y = Doubled(remade)(x)
    array = weakref.ref(y.array)
    loss = (y * y).sum()
    del y
    assert array() is None
    loss.backward()
    assert remade
    assert np.array_equal(x.grad.numpy(), [8.0, -24.0])


def test_an_output_that_somebody_holds_is_not_remade():
    x, remade = steep_leaf(), []
    y = Doubled(remade)(x)
    (y * y).sum().backward()
    assert not remade
    assert np.array_equal(x.grad.numpy(), [8.0, -24.0])


def test_a_remade_output_has_second_derivatives():
    x = steep_leaf()
    y = Doubled()(x)
    loss = (y * y * y).sum()  # 8 x^3
    del y
    (gradient,) = minires.autograd.grad(loss, x, create_graph=True)
    (second,) = minires.autograd.grad(gradient.sum(), x)
    assert np.array_equal(gradient.detach().numpy(), [24.0, 216.0])
    assert np.array_equal(second.numpy(), [48.0, -144.0])


def test_an_output_can_be_remade_after_its_function_was_freed():
    y = Doubled()(steep_leaf())
    other = Tensor(np.array([5.0, 7.0]), requires_grad=True)
    product = (y * other).sum()
    y.sum().backward()
    del y
    (gradient,) = minires.autograd.grad(product, other)
    assert np.array_equal(gradient.numpy(), [2.0, -6.0])


@pytest.mark.parametrize("change", ["before it is saved", "after"])
def test_an_output_changed_in_place_is_not_remade(change):
    y = Doubled()(steep_leaf())
    other = Tensor(np.array([5.0, 7.0]), requires_grad=True)
    if change == "after":
        product = (y * other).sum()
    with minires.no_grad():
        y.add_(1)
    if change == "after":
        del y
        with pytest.raises(RuntimeError, match="changed in place"):
            minires.autograd.grad(product, other)
    else:
        product = (y * other).sum()
        del y
        (gradient,) = minires.autograd.grad(product, other)
        assert np.array_equal(gradient.numpy(), [3.0, -5.0])


def test_an_output_whose_input_changed_in_place_is_refused():
    x = steep_leaf()
    y = Doubled()(x)
    other = Tensor(np.array([5.0, 7.0]), requires_grad=True)
    product = (y * other).sum()
    del y
    with minires.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="Doubled needs input 0"):
        minires.autograd.grad(product, other)


class Arrays:
    """An observer that has weak references to the large arrays that operations made."""

    def __init__(self):
        self.made = []

    def forward(self, function, inputs, outputs, seconds):
        self.made.extend(weakref.ref(output.array) for output in outputs if output.ndim == 4)

    def backward(self, function, grads, gradients, seconds):
        pass


def test_a_residual_block_keeps_three_activations_of_four():
    """What its first batch norm made can be had from what its first convolution made."""
    block = minires.models.blocks.BasicBlock(4, 4)
    with minires.autograd.observe(Arrays()) as arrays:
        y = block(minires.randn(2, 4, 5, 5))
    assert len(arrays.made) == 4
    assert sum(alive(arrays.made)) == 3
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
