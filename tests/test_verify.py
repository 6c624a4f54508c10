"""The gradient checks find seeded bugs, and pass what is right."""

from __future__ import annotations

import builtins
import time

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.autograd import Function, Tensor
from minires.nn import functional as F
from minires.verify import GradcheckError, Verdict, gradcheck, verify_model
from minires.verify.against_torch import torch_gradients


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


class Scaled(Function):
    """y = x^2, with a backward that is off by a factor, or wrong at one element only."""

    def __init__(self, factor=1.0, wrong_at=None):
        self.factor, self.wrong_at = factor, wrong_at

    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, dy):
        (x,) = self.saved
        dx = (2 * self.factor * x * dy).array.copy()
        if self.wrong_at is not None:
            dx[self.wrong_at] *= 1.01
        return Tensor(dx)


RIGHT = {
    "elementwise": (lambda x: x.exp() * x, [leaf(2, 3)]),
    "two inputs": (lambda a, b: a @ b, [leaf(2, 3), leaf(3, 4, seed=1)]),
    "two outputs": (lambda x: (x.sum(0), x.tanh()), [leaf(2, 3)]),
    "0-dimensional": (lambda x: x * x, [leaf()]),
    "an input without gradient": (lambda a, b: a * b, [leaf(3), minires.ones(3, dtype=minires.float64)]),
    "a number as input": (lambda a, power: a**power, [leaf(3), 3]),
    "convolution": (lambda x, w: F.conv2d(x, w, padding=1), [leaf(1, 2, 4, 4), leaf(3, 2, 3, 3)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_gradcheck_passes_what_is_right(name):
    fn, inputs = RIGHT[name]
    assert gradcheck(fn, inputs)


@pytest.mark.parametrize("function", [lambda: Scaled(1.01), lambda: Scaled(-1), lambda: Scaled(wrong_at=(1, 2))])
def test_gradcheck_finds_a_wrong_backward(function):
    assert not gradcheck(lambda x: function()(x), leaf(2, 3), raise_exception=False)


def test_gradcheck_names_the_worst_element_and_both_values():
    x = leaf(2, 3)
    with pytest.raises(GradcheckError, match=r"output 0\[1, 2\] by input 0\[1, 2\]") as caught:
        gradcheck(lambda x: Scaled(wrong_at=(1, 2))(x), x)
    right, wrong = 2 * x.array[1, 2], 2.02 * x.array[1, 2]
    assert f"{wrong:.6g}"[:6] in str(caught.value)
    assert f"{right:.6g}"[:6] in str(caught.value)


def test_gradcheck_fails_a_gradient_that_is_nan():
    assert not gradcheck(lambda x: Scaled(float("nan"))(x), leaf(3), raise_exception=False)


@pytest.mark.parametrize(
    ("fn", "inputs", "message"),
    [
        (lambda x: x, [Tensor(np.ones(2))], "requires_grad"),
        (lambda x: x * 2, [minires.ones(2, dtype=minires.float16, requires_grad=True)], "float16"),
        (lambda x: None, [leaf(2)], "NoneType"),
        (lambda x: x.detach() * 2, [leaf(2)], "no output depends"),
    ],
)
def test_gradcheck_refuses_what_it_cannot_judge(fn, inputs, message):
    with pytest.raises(ValueError, match=message):
        gradcheck(fn, inputs)


def test_gradcheck_leaves_inputs_and_their_gradients_alone():
    x = leaf(3)
    before = x.array.copy()
    gradcheck(lambda x: x * x, x)
    np.testing.assert_array_equal(x.array, before)
    assert x.grad is None


def test_an_input_without_influence_is_no_pass_unless_allowed():
    inputs = [leaf(3), leaf(3)]
    assert gradcheck(lambda a, b: a * 2, inputs, raise_exception=False).verdict is Verdict.IGNORED
    assert gradcheck(lambda a, b: a * 2, inputs, allow_unused=True)


def data(classes=10, size=2, pixels=8):
    rng = np.random.default_rng(3)
    return rng.standard_normal((size, 3, pixels, pixels)), rng.integers(0, classes, size)


@pytest.mark.parametrize(("shortcut", "train"), [("A", False), ("B", True)])
def test_every_parameter_of_a_right_net_passes(shortcut, train):
    minires.manual_seed(0)
    net = models.CifarResNet(8, shortcut=shortcut).train(train)
    checks = verify_model(net, *data(), against_torch=True)
    assert {check.name for check in checks} == {name for name, _ in net.named_parameters()}
    assert all(check.passed for check in checks)
    assert [check.badness for check in checks] == sorted((check.badness for check in checks), reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pixels", "train", "seconds"),
    [("resnet20", 32, True, 20), ("resnet20", 32, False, 20), ("resnet50", 64, True, 180)],
)
def test_every_parameter_of_a_whole_resnet_passes_in_time(name, pixels, train, seconds):
    minires.manual_seed(0)
    net = models.get_model(name).train(train)
    begin = time.process_time()
    checks = verify_model(net, *data(pixels=pixels))
    assert time.process_time() - begin < seconds
    assert len(checks) == len(list(net.parameters()))
    assert [check for check in checks if not check.passed] == []


class SlightlyMore(Function):
    """The identity, whose backward is off by a part of 1e-3."""

    def forward(self, x):
        return x.copy()

    def backward(self, dy):
        return dy * 1.001


@pytest.mark.slow
def test_a_small_error_deep_in_a_resnet_shows_in_what_lies_before_it_and_nowhere_else():
    minires.manual_seed(0)
    net = models.get_model("resnet20")
    net.layer2.register_forward_hook(lambda module, inputs, output: SlightlyMore()(output))
    wrong = {check.name for check in verify_model(net, *data(pixels=16)) if not check.passed}
    assert wrong == {name for name, _ in net.named_parameters() if not name.startswith(("layer3", "fc"))}


def test_verifying_leaves_the_model_as_it_was():
    net = models.CifarResNet(8)
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    verify_model(net, *data())
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert all(parameter.grad is None for parameter in net.parameters())


class HalfAdd(Function):
    """A residual add whose backward forgets half of what goes through the shortcut."""

    def forward(self, branch, shortcut):
        return branch + shortcut

    def backward(self, dy):
        return dy, dy * 0.5


class BuggyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.first(x)
        return self.fc(HalfAdd()(self.branch(x), x).mean((2, 3)))


def test_a_wrong_shortcut_shows_in_what_lies_before_it_and_nowhere_else():
    minires.manual_seed(0)
    checks = {check.name: check for check in verify_model(BuggyNet(), *data())}
    assert {name for name, check in checks.items() if not check.passed} == {"first.weight", "first.bias"}


def test_what_vanishes_but_for_rounding_is_as_in_pytorch():
    """A batch norm takes away what the bias before it adds: both gradients are rounding, and unlike."""
    minires.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    checks = {check.name: check for check in verify_model(net, *data(pixels=6), against_torch=True)}
    assert checks["0.bias"].gradient_norm < 1e-14
    assert all(check.passed for check in checks.values())


class InPlaceNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        out = self.conv(x)
        shortcut = out * 2
        out += shortcut
        return self.fc((self.relu(out) * 3 + out).mean((2, 3)))


def test_the_replay_on_pytorch_follows_changes_in_place():
    net = InPlaceNet().double()
    images, labels = (Tensor(array) for array in data())
    F.cross_entropy(net(images), labels).backward()
    theirs = torch_gradients(net, images, labels)
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), theirs[name], rtol=1e-10, atol=1e-12)


def test_the_replay_on_pytorch_says_which_operation_it_does_not_know():
    net = BuggyNet().double()
    images, labels = data()
    with pytest.raises(NotImplementedError, match="HalfAdd"):
        torch_gradients(net, Tensor(images), Tensor(labels))


def test_without_pytorch_the_comparison_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    with pytest.raises(ImportError, match="pip install torch"):
        verify_model(models.CifarResNet(8), *data(), against_torch=True)
