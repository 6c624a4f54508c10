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
