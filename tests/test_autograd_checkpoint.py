"""Gradient checkpointing: the same bits as without it, from less memory."""

from __future__ import annotations

import sys
import tracemalloc
import weakref
from collections import namedtuple

import numpy as np
import pytest
import torch

import minires
from minires import autograd, models, nn
from minires.autograd import AnomalyError, Tensor, checkpoint, checkpoint_sequential, is_recomputing
from minires.models import Bottleneck, ResNet
from minires.nn import functional as F
from minires.verify import gradcheck

Pair = namedtuple("Pair", "first second")


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def plainly(function, *args, **options):
    return function(*args, **options)


def state_after_backward(net, x, run=plainly):
    """Loss, gradients and buffers after a step, as bytes: equal is equal to the last bit."""
    minires.manual_seed(3)
    x = x.detach().requires_grad_()
    loss = (run(net, x) ** 2).sum()
    loss.backward()
    arrays = {"loss": loss.detach().array, "x": x.grad.array}
    arrays |= {name: parameter.grad.array for name, parameter in net.named_parameters()}
    arrays |= {name: buffer.array for name, buffer in net.named_buffers()}
    arrays["next random number"] = minires.rand(1).array
    return {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}


def bottleneck_net(**options):
    return ResNet(Bottleneck, (2, 1, 3, 1), num_classes=5, width_per_group=16, **options)


@pytest.mark.parametrize("build", [models.resnet20, models.plain20, bottleneck_net])
def test_a_net_trains_to_the_same_bits(build):
    minires.manual_seed(0)
    net = build(checkpoint=True)
    twin = build()
    twin.load_state_dict(net.state_dict())
    x = minires.randn(4, 3, 32, 32)
    for _ in range(2):  # the second backward adds to the gradients of the first
        assert state_after_backward(net, x) == state_after_backward(twin, x)


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "plain20"])
def test_nets_take_the_option(name):
    net = models.get_model(name, num_classes=2, checkpoint=True)
    stages = [module for module in net.modules() if isinstance(module, models.stages.Stage)]
    assert [stage.checkpoint for stage in stages] == [True] * len(stages)
    assert len(stages) in (3, 4)


def dropping_net(momentum=0.1):
    minires.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=momentum), nn.Dropout(0.5), nn.ReLU(), nn.Dropout2d(0.3)]
    return nn.Sequential(*layers, nn.Conv2d(8, 4, 3))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_dropout_and_batch_norm_are_repeated(momentum):
    x = minires.randn(2, 3, 9, 9)
    expected = state_after_backward(dropping_net(momentum), x)
    assert state_after_backward(dropping_net(momentum), x, checkpoint) == expected


def test_without_its_random_state_dropout_drops_others():
    x = minires.ones(1000, requires_grad=True)
    minires.manual_seed(0)
    y = checkpoint(F.dropout, x, preserve_rng_state=False)
    y.sum().backward()
    assert not np.array_equal(x.grad.array, y.detach().array)


def test_dropout_drops_the_same_though_others_drew_meanwhile():
    x = minires.ones(1000, requires_grad=True)
    y = checkpoint(F.dropout, x)
    minires.rand(5)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.array, y.detach().array)


@pytest.mark.parametrize("seed", [None, 5])
def test_generators_that_cannot_be_read_repeat_their_numbers_too(seed, monkeypatch):
    device = sys.modules["minires.device"]  # minires.device itself is the class
    monkeypatch.setattr(device, "cupy", lambda: np)  # NumPy's generator, treated as a GPU's
    monkeypatch.setattr(device, "_generators", {})
    monkeypatch.setattr(device, "_seeds", {} if seed is None else {"cpu": seed, "cuda": seed})
    draws = []

    def draw(x, where):
        draws.append((where, device.generator("cuda").random()))
        return x * 2

    def outer(x):
        return draw(checkpoint(draw, draw(x, 0), 1), 2)

    for _ in range(2):  # the generator is made inside the first time, and is there the second time
        draws.clear()
        checkpoint(outer, leaf(3)).sum().backward()
        first, again = draws[:3], draws[3:]
        assert again == [*first, first[1]]  # the outer function runs twice, the inner one three times
        assert len({number for _, number in draws}) == 3
        assert device.generator("cuda").random() not in [number for _, number in draws]


@pytest.mark.parametrize("run", [checkpoint, lambda f, x: checkpoint(lambda x: checkpoint(f, x), x)])
def test_nested_and_repeated_checkpoints(run):
    x = minires.randn(2, 3, 9, 9)

    def twice(net, x):
        return run(net, x) + run(net, 2 * x)

    expected = state_after_backward(dropping_net(), x, lambda net, x: net(x) + net(2 * x))
    assert state_after_backward(dropping_net(), x, twice) == expected


def test_a_checkpoint_within_closes_over_what_the_outer_one_computes():
    x, w = leaf(3), leaf(3, seed=1)

    def outer(x):
        h = x * w
        return checkpoint(lambda: (h * h * w).exp())

    checkpoint(outer, x).sum().backward()
    p, q = x.detach().array, w.detach().array  # exp(p^2 q^3)
    np.testing.assert_allclose(x.grad.array, 2 * p * q**3 * np.exp(p**2 * q**3), rtol=1e-12)
    np.testing.assert_allclose(w.grad.array, 3 * p**2 * q**2 * np.exp(p**2 * q**3), rtol=1e-12)


def test_gradients_reach_parameters_where_no_input_needs_one():
    net = nn.Linear(3, 2)
    x = minires.randn(4, 3)
    checkpoint(net, x).sum().backward()
    np.testing.assert_allclose(net.weight.grad.array, np.tile(x.array.sum(0), (2, 1)), rtol=1e-6)
    np.testing.assert_array_equal(net.bias.grad.array, [4, 4])


def test_a_tensor_that_is_closed_over_and_one_behind_it_get_their_own_gradients():
    x = leaf(3)
    y = x * x  # both are used inside: the walk inside must not go on from y to x
    y.retain_grad()
    checkpoint(lambda: x * y).sum().backward()
    np.testing.assert_allclose(x.grad.array, 3 * x.detach().array ** 2)
    np.testing.assert_allclose(y.grad.array, x.detach().array)


def test_tensors_in_lists_and_keywords_get_their_gradients():
    a, b, c = leaf(3), leaf(3, seed=1), leaf(3, seed=2)

    def function(pair, *, scale):
        return pair[0] * pair[1] * scale

    checkpoint(function, [a, b], scale=c).sum().backward()
    np.testing.assert_allclose(a.grad.array, b.detach().array * c.detach().array)
    np.testing.assert_allclose(c.grad.array, a.detach().array * b.detach().array)


@pytest.mark.parametrize("kind", [tuple, list, Pair._make])
def test_outputs_in_a_sequence(kind):
    x = leaf(3)
    result = checkpoint(lambda x: kind([x * 2, x * x]), x)
    assert type(result) is type(kind([0, 0]))
    result[1].sum().backward()  # no gradient comes to the first
    np.testing.assert_allclose(x.grad.array, 2 * x.detach().array)


def test_other_values_and_integers_pass_through():
    x = leaf(3)
    doubled, number, order, nothing = checkpoint(lambda x: (x * 2, 7, x.argsort(), None), x)
    assert (number, nothing, order.requires_grad, doubled.requires_grad) == (7, None, False, True)


def test_an_input_may_be_an_output():
    x = leaf(3)
    h = x * 3
    same, doubled = checkpoint(lambda: (h, h * 2))
    (same + doubled).sum().backward()
    np.testing.assert_array_equal(x.grad.array, [9, 9, 9])


def test_no_graph_is_left_by_the_first_run_and_none_is_made_under_no_grad():
    runs = []

    def function(x):
        y = x.exp()
        runs.append((y.requires_grad, is_recomputing()))
        return y

    with minires.no_grad():
        assert not checkpoint(function, leaf(3)).requires_grad
    assert not checkpoint(function, Tensor(np.ones(3))).requires_grad
    y = checkpoint(function, leaf(3))
    y.sum().backward()
    assert runs == [(False, False), (False, False), (False, False), (True, True)]
    assert not is_recomputing()


def test_autograd_grad_computes_what_it_is_asked_for():
    x, w = leaf(3), leaf(3, seed=1)
    y = checkpoint(lambda x: x * w, x).sum()
    (gradient,) = autograd.grad(y, w)
    np.testing.assert_array_equal(gradient.array, x.detach().array)
    assert x.grad is w.grad is None


def test_retain_graph_and_its_absence():
    x = leaf(3)
    y = checkpoint(minires.exp, x).sum()
    y.backward(retain_graph=True)
    once = x.grad.array.copy()
    y.backward()
    np.testing.assert_array_equal(x.grad.array, 2 * once)
    with pytest.raises(RuntimeError, match="a second time"):
        y.backward()


def test_second_derivatives():
    x, w = leaf(2, 3), leaf(2, 3, seed=1)
    assert gradcheck(lambda x, w: checkpoint(lambda x: (x * w).sin() * checkpoint(minires.exp, x), x), (x, w))
    (first,) = autograd.grad(checkpoint(lambda x: x**3 * w, x).sum(), x, create_graph=True)
    second, mixed = autograd.grad(first.sum(), (x, w))
    np.testing.assert_allclose(second.array, 6 * x.detach().array * w.detach().array)
    np.testing.assert_allclose(mixed.array, 3 * x.detach().array ** 2)


def test_hooks_of_leaves_and_of_what_is_outside_are_called_once():
    x = leaf(3)
    h = x * 2
    seen = []
    x.register_hook(lambda gradient: seen.append("x"))
    h.register_hook(lambda gradient: seen.append("h"))
    checkpoint(lambda: h * x).sum().backward()
    assert sorted(seen) == ["h", "x"]


def test_backward_hooks_of_modules_inside_are_called():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    seen = []
    net[0].register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(len(grad_input)))
    checkpoint(net, minires.randn(2, 3)).sum().backward()
    assert seen == [1]


def test_anomaly_mode_names_the_operation_inside():
    x = Tensor(np.zeros(3), requires_grad=True)
    with autograd.detect_anomaly():
        y = checkpoint(lambda x: (x * 2).sqrt() * 3, x)
        with pytest.raises(AnomalyError) as error:
            y.sum().backward()
    assert error.value.op in ("Sqrt", "Pow")


def test_an_input_changed_between_the_runs_is_noticed():
    x, plain = leaf(3), minires.ones(3, dtype=minires.float64)
    y = checkpoint(lambda x, plain: x * plain, x, plain).sum()
    plain.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, others: x[: 2 + is_recomputing()], r"shapes \[\(2,\)\] in the forward pass and \[\(3,\)\]"),
        (lambda x, others: x * others[0] if is_recomputing() else x * 1, r"used Tensors of shapes \[\(3,\)\]"),
    ],
)
def test_a_function_that_does_another_thing_the_second_time_is_noticed(function, message):
    y = checkpoint(function, leaf(3), [leaf(3)]).sum()
    with pytest.raises(RuntimeError, match=message):
        y.backward()


def test_a_function_that_returns_something_else_is_refused():
    with pytest.raises(TypeError, match="got dict"):
        checkpoint(lambda x: {"y": x}, leaf(3))


def test_an_error_in_the_function_leaves_nothing_behind():
    x = leaf(3)
    with pytest.raises(ZeroDivisionError):
        checkpoint(lambda x: 1 / 0, x)
    assert (x * x).requires_grad


def test_the_function_and_what_it_uses_are_let_go_by_the_walk():
    h = leaf(3) * 2
    known = weakref.ref(h)
    y = checkpoint(lambda kept: kept * 2, h)
    loss = y.sum()
    del h
    assert known() is not None
    loss.backward()
    assert known() is None


@pytest.mark.parametrize("segments", [1, 2, 3, 5])
def test_sequential_runs_segments(segments):
    minires.manual_seed(0)
    net = nn.Sequential(*[layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.Tanh())][:-5])
    x = minires.randn(3, 4)
    expected = state_after_backward(net, x)
    net.zero_grad()
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append("first"))
    net[4].register_forward_hook(lambda *_: calls.append("last"))
    run = state_after_backward(net, x, lambda net, x: checkpoint_sequential(net, segments, x, use_reentrant=False))
    assert run == expected
    assert calls.count("first") == (1 if segments == 1 else 2)
    assert calls.count("last") == 1


@pytest.mark.parametrize("segments", [0, 4])
def test_sequential_refuses_impossible_segments(segments):
    with pytest.raises(ValueError, match=f"between 1 and the 3 functions, got {segments}"):
        checkpoint_sequential([minires.exp] * 3, segments, leaf(3))


def test_it_agrees_with_pytorch():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    ours = [Tensor(a, requires_grad=True) for a in (x, w)]
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, w)]
    for (a, b), run in (
        (ours, lambda f, a: checkpoint(f, a, use_reentrant=False)),
        (theirs, lambda f, a: torch.utils.checkpoint.checkpoint(f, a, use_reentrant=False)),
    ):
        h = run(lambda a, b=b: (a @ b).tanh(), a)
        (run(lambda h, b=b: (h @ b).exp(), h) * h).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.grad.array, other.grad.numpy(), rtol=1e-12)


def peak_of_a_step(checkpoint):
    minires.manual_seed(0)
    net = models.CifarResNet(98, checkpoint=checkpoint)  # 16 blocks a stage: segments of 4
    x, y = minires.randn(8, 3, 16, 16), minires.arange(8)
    F.cross_entropy(net(x), y).backward()  # compiles, and makes the gradients
    tracemalloc.start()
    try:
        F.cross_entropy(net(x), y).backward()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_falls():
    assert peak_of_a_step(checkpoint=True) < 0.45 * peak_of_a_step(checkpoint=False)
