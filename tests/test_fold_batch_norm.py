"""Batch norm folded into convolutions: the same outputs, the original left alone, and only what is certain folded."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from kernel_cases import MEMORY_ORDERS, always_threaded, every_module, normal, relative_error  # noqa: F401 (a fixture)
from test_models import pair

import minires
from minires import models, nn
from minires.kernels.geometry import Conv2dGeometry
from minires.models.summary import count_macs
from minires.nn.folded import FoldedConv2d

# name, options of ours, options of the twin, number of batch norms
NETS = [
    ("resnet20", {"shortcut": "A"}, {"option": "A"}, 19),
    ("resnet20", {"shortcut": "B"}, {"option": "B"}, 21),
    ("resnet20", {"shortcut": "C"}, {"option": "C"}, 28),
    ("plain20", {}, {}, 19),
    ("resnet18", {}, {}, 20),
    pytest.param("resnet50", {"version": "v1"}, {"version": "v1"}, 53, marks=pytest.mark.slow),
    ("resnet50", {"version": "v1.5"}, {"version": "v1.5"}, 53),
    ("resnext50_32x4d", {}, {}, 53),
]
each_net = pytest.mark.parametrize(("name", "ours", "theirs", "norms"), NETS)


def drawn(module, seed=0):
    """``module`` in eval mode, with values of its own in every parameter and buffer."""
    rng = np.random.default_rng(seed)
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.array[...] = rng.uniform(0.5, 1.5, value.shape) if "var" in key else rng.standard_normal(value.shape)
    return module.eval()


def kinds(model):
    return [type(module) for module in model.modules()]


def count(model, kind):
    return kinds(model).count(kind)


def run(model, x):
    with minires.no_grad():
        return model(minires.tensor(x)).numpy()


@each_net
def test_folded_nets_compute_what_pytorch_computes(name, ours, theirs, norms):
    net, twin = pair(name, ours, theirs)
    twin.eval()
    x = normal(2, 3, 32, 32)
    folded = minires.fold_batch_norm(net.eval())
    assert (count(folded, FoldedConv2d), count(folded, nn.BatchNorm2d)) == (norms, 0)
    with torch.no_grad():
        expected = twin(torch.from_numpy(x)).numpy()
    assert relative_error(run(net, x), expected) < 1e-12
    assert relative_error(run(folded, x), expected) < 1e-12


@each_net
def test_float32_and_the_original(name, ours, theirs, norms):
    net, _ = pair(name, ours, theirs, np.float32)
    net.eval()
    before = {key: value.array.copy() for key, value in net.state_dict().items()}
    x = normal(2, 3, 32, 32, dtype=np.float32)
    expected = run(net, x)
    folded = minires.fold_batch_norm(net)
    assert relative_error(run(folded, x), expected) < 1e-5
    for value in folded.parameters():
        value.detach().array[...] = 0  # nothing is shared
    assert np.array_equal(run(net, x), expected)
    assert count(net, nn.BatchNorm2d) == norms
    for key, value in net.state_dict().items():
        assert np.array_equal(value.array, before[key]), key


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("norm", [{}, {"affine": False}, {"bias": False}, {"eps": 0.5}], ids=str)
def test_folded_weights_are_those_of_the_formula(conv_bias, norm):
    net = drawn(nn.Sequential(nn.Conv2d(2, 3, 3, bias=conv_bias), nn.BatchNorm2d(3, **norm)).double())
    conv, bn = net
    joined = minires.fold_batch_norm(net)[1]
    for o in range(3):
        gamma = bn.weight.array[o] if norm.get("affine", True) else 1.0
        beta = bn.bias.array[o] if norm.get("affine", True) and norm.get("bias", True) else 0.0
        b = conv.bias.array[o] if conv_bias else 0.0
        scale = gamma / math.sqrt(bn.running_var.array[o] + norm.get("eps", 1e-5))
        np.testing.assert_allclose(joined.weight.array[o], conv.weight.array[o] * scale, rtol=1e-14)
        np.testing.assert_allclose(joined.bias.array[o], beta + (b - bn.running_mean.array[o]) * scale, rtol=1e-13)
    x = normal(2, 2, 6, 5)
    assert relative_error(run(minires.fold_batch_norm(net), x), run(net, x)) < 1e-12


def test_folded_weights_lie_as_the_kernels_read_them():
    net = minires.fold_batch_norm(models.resnet18().eval())
    for module in net.modules():
        if isinstance(module, FoldedConv2d):
            assert module.weight.array.transpose(2, 3, 1, 0).flags.c_contiguous


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"groups": 4, "padding": (0, 2)},
        {"kernel_size": 1, "stride": (1, 2)},
    ],
    ids=str,
)
def test_every_option_of_the_convolution_is_kept(options):
    net = drawn(nn.Sequential(nn.Conv2d(4, 8, **{"kernel_size": 3, **options}), nn.BatchNorm2d(8), nn.ReLU()).double())
    folded = minires.fold_batch_norm(net)
    assert count(folded, FoldedConv2d) == 1
    x = normal(2, 4, 9, 8)
    assert relative_error(run(folded, x), run(net, x)) < 1e-12


def conv_and_norm(channels=4):
    return nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv_and_norm()

    def forward(self, x):
        return self.bn1(self.conv1(x) + x)


class OwnBlock(models.BasicBlock):
    def forward(self, x):
        return self.bn1(x) + self.conv1(x)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input) + 1


def used_twice():
    conv, bn = conv_and_norm()
    return nn.Sequential(conv, bn, nn.ReLU(), conv, nn.BatchNorm2d(4))


def hooked():
    conv, bn = conv_and_norm()
    conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    return nn.Sequential(conv, bn)


def replaced_forward():
    conv, bn = conv_and_norm()
    conv.forward = lambda x: -x
    return nn.Sequential(conv, bn)


UNCERTAIN = {
    "own forward": Own,
    "block with its own forward": lambda: OwnBlock(4, 4),
    "norm with its own forward": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), OwnNorm(4)),
    "something between": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
    "norm before": lambda: nn.Sequential(*reversed(conv_and_norm())),
    "no running statistics": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    "transposed convolution": lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 1), nn.BatchNorm2d(4)),
    "used twice": used_twice,
    "hooked": hooked,
    "forward replaced": replaced_forward,
}


@pytest.mark.parametrize("build", UNCERTAIN.values(), ids=UNCERTAIN)
def test_what_is_not_certain_stays(build):
    net = drawn(build().double())
    folded = minires.fold_batch_norm(net)
    assert kinds(folded) == kinds(net)
    x = normal(2, 4, 5, 5)
    assert np.array_equal(run(folded, x), run(net, x))


def test_pairs_deep_inside_modules_of_ones_own_are_folded():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            names = ("conv", "norm", "relu")
            self.stem = nn.Sequential(OrderedDict(zip(names, (*conv_and_norm(), nn.ReLU()), strict=True)))
            self.blocks = nn.ModuleList([models.BasicBlock(4, 4), Own()])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](self.stem(x)))

    net = drawn(Net().double())
    folded = minires.fold_batch_norm(net)
    assert (count(folded, FoldedConv2d), count(folded, nn.BatchNorm2d)) == (3, 1)
    x = normal(2, 4, 5, 5)
    assert relative_error(run(folded, x), run(net, x)) < 1e-12


def test_folding_what_is_folded_changes_nothing():
    net = minires.fold_batch_norm(drawn(models.resnet20()))
    again = minires.fold_batch_norm(net)
    x = normal(2, 3, 8, 8, dtype=np.float32)
    assert np.array_equal(run(again, x), run(net, x))


def test_unfused_and_reference_give_the_same():
    net = minires.fold_batch_norm(drawn(nn.Sequential(models.BasicBlock(4, 4)).double()))
    x = normal(2, 4, 6, 5)
    expected = run(net, x)
    with minires.unfused():
        assert relative_error(run(net, x), expected) < 1e-14
    with minires.use_reference():
        assert relative_error(run(net, x), expected) < 1e-14


def test_gradient_of_the_input():
    net = drawn(models.resnet20(shortcut="B").double())
    x = normal(2, 3, 16, 16)
    gradients = []
    for model in (net, minires.fold_batch_norm(net)):
        image = minires.tensor(x, requires_grad=True)
        model(image).square().sum().backward()
        gradients.append(image.grad.numpy())
    assert relative_error(gradients[1], gradients[0]) < 1e-10


def test_batch_norm_costs_no_multiply_adds():
    net = models.resnet20().eval()
    assert count_macs(minires.fold_batch_norm(net), (3, 32, 32)) == count_macs(net, (3, 32, 32)) == 40_551_040


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(RuntimeError, match=r"needs a model in eval mode, but it is in training mode: call .eval\(\)"):
        minires.fold_batch_norm(models.resnet20())
    net = models.resnet20().eval()
    net.layer2[1].bn1.train()
    with pytest.raises(RuntimeError, match=r"but its layer2\.1\.bn1 is in training mode"):
        minires.fold_batch_norm(net)


def test_a_folded_model_cannot_be_trained():
    net = minires.fold_batch_norm(models.resnet20().eval())
    with pytest.raises(RuntimeError, match=r"cannot train this CifarResNet, its bn1, a FoldedConv2d, is for inference"):
        net.train()
    with pytest.raises(RuntimeError, match="cannot train this FoldedConv2d, which is for inference only: train the"):
        net.bn1.train()
    assert not any(module.training for module in net.modules())
    assert not net.eval().training


def test_changed_filters_count():
    conv, bn = drawn(nn.Conv2d(32, 32, 3, padding=1)), drawn(nn.BatchNorm2d(32))
    other = FoldedConv2d(drawn(nn.Conv2d(32, 32, 3, padding=1), seed=7), bn)
    folded, x = FoldedConv2d(conv, bn), minires.randn(1, 32, 20, 20)
    run_twice = [folded(x).numpy(), folded(x).numpy()]
    assert np.array_equal(*run_twice)
    assert folded._kept.made
    copied = copy.deepcopy(folded)
    assert not copied._kept.made
    folded.load_state_dict(other.state_dict())
    assert np.array_equal(folded(x).numpy(), other(x).numpy())
    assert np.array_equal(copied(x).numpy(), run_twice[0])
    folded.weight.mul_(2.0)
    folded.bias.zero_()
    assert relative_error(folded(x).numpy(), nn.functional.conv2d(x, folded.weight, padding=1).numpy()) < 1e-5


def test_only_modules_are_folded():
    with pytest.raises(TypeError, match="needs a Module, got dict"):
        minires.fold_batch_norm({})


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm2d(3), "a batch norm of 3 channels into a convolution to 4"),
        (nn.BatchNorm2d(4, track_running_stats=False), "without running statistics"),
    ],
    ids=["channels", "statistics"],
)
def test_a_pair_that_does_not_fit_is_refused(norm, message):
    with pytest.raises(ValueError, match=message):
        FoldedConv2d(nn.Conv2d(4, 4, 1), norm)


def test_a_shortcut_of_another_shape_is_refused():
    block = minires.fold_batch_norm(models.BasicBlock(4, 8, stride=2).eval())
    with pytest.raises(ValueError, match="give the shortcut a 1x1 convolution from 4 to 8 channels with stride 2"):
        block(minires.zeros(1, 4, 6, 6))


@every_module
@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (0, 3, 5, 4), (3, 300, 2, 1), (4, 16, 8, 8)], ids=str)
def test_kernel(kernels, order, relu, residual, shape, always_threaded):  # noqa: F811
    c = shape[1]
    x, filters, bias, added = normal(*shape), normal(c, c, 1, 1, seed=1), normal(c, seed=2), normal(*shape, seed=3)
    expected = np.einsum("nchw,oc->nohw", x, filters[:, :, 0, 0]) + bias[:, None, None]
    expected = expected + added if residual else expected
    expected = expected * (expected > 0) if relu else expected
    geometry = Conv2dGeometry(shape, (c, c, 1, 1))
    shortcut = MEMORY_ORDERS[order](added)
    before = shortcut.copy()
    y = kernels.conv2d_add_relu(MEMORY_ORDERS[order](x), filters, bias, shortcut if residual else None, relu, geometry)
    assert relative_error(y, expected) < 1e-13
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert np.array_equal(shortcut, before)


@every_module
def test_kernel_keeps_nan(kernels):
    x = np.full((1, 1, 1, 2), np.nan)
    y = kernels.conv2d_add_relu(x, np.ones((1, 1, 1, 1)), np.zeros(1), None, True, Conv2dGeometry(x.shape, (1,) * 4))
    assert np.isnan(y).all()
