"""Initialisation: fans and gains equal PyTorch's, samples have the moments and bounds of the published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from twin import assert_twins, refusal

import minires
from minires import nn
from minires.nn import init


@pytest.fixture(autouse=True)
def seed():
    minires.manual_seed(0)


GAINS = ["linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
GAINS += ["sigmoid", "tanh", "relu", "selu", "leaky_relu"]


@pytest.mark.parametrize("nonlinearity", GAINS)
def test_gain_equals_pytorchs(nonlinearity):
    assert init.calculate_gain(nonlinearity) == torch.nn.init.calculate_gain(nonlinearity)


@pytest.mark.parametrize("slope", [0, 0.0, 0.2, 1, math.sqrt(5)])
def test_gain_of_leaky_relu_equals_pytorchs(slope):
    assert init.calculate_gain("leaky_relu", slope) == torch.nn.init.calculate_gain("leaky_relu", slope)


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (lambda: nn.Linear(30, 20), (30, 20)),
        (lambda: nn.Conv2d(6, 8, (3, 5)), (6 * 15, 8 * 15)),
        (lambda: nn.Conv2d(6, 8, 3, groups=2), (3 * 9, 8 * 9)),
        (lambda: nn.Conv2d(8, 8, 3, groups=8), (9, 8 * 9)),
        (lambda: nn.ConvTranspose2d(6, 8, 3, groups=2), (4 * 9, 6 * 9)),
    ],
)
def test_fans(layer, fans):
    assert init.fan_in_and_fan_out(layer().weight) == fans


LARGE = (400, 50, 3, 3)  # fan_in 450, fan_out 3600; 180,000 samples
METHODS = [
    # name, options, variance by the formula of the paper, whether uniform
    ("kaiming_normal_", {}, 2 / 450, False),
    ("kaiming_normal_", {"nonlinearity": "relu"}, 2 / 450, False),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}, 2 / 3600, False),
    ("kaiming_normal_", {"a": 0.5}, 2 / 1.25 / 450, False),
    ("kaiming_uniform_", {"mode": "fan_out"}, 2 / 3600, True),
    ("kaiming_uniform_", {"a": math.sqrt(5)}, 1 / 3 / 450, True),
    ("kaiming_uniform_", {"nonlinearity": "tanh"}, 25 / 9 / 450, True),
    ("xavier_normal_", {}, 2 / 4050, False),
    ("xavier_uniform_", {"gain": 3.0}, 9 * 2 / 4050, True),
    ("normal_", {"mean": 0.0, "std": 0.3}, 0.09, False),
    ("uniform_", {"a": -0.3, "b": 0.3}, 0.03, True),
]


@pytest.mark.parametrize(("name", "options", "variance", "is_uniform"), METHODS)
def test_moments_and_shape_of_the_distribution(name, options, variance, is_uniform):
    weight = nn.Parameter(minires.empty(*LARGE, dtype=minires.float64))
    assert getattr(init, name)(weight, **options) is weight
    samples = weight.detach().numpy() / math.sqrt(variance)
    count = samples.size
    assert abs(samples.mean()) < 5 / math.sqrt(count)
    assert abs(samples.var() - 1) < 5 * math.sqrt(2 / count)
    fourth = 9 / 5 if is_uniform else 3  # the fourth moment tells the two apart
    assert abs((samples**4).mean() - fourth) < 0.15
    if is_uniform:
        assert np.abs(samples).max() <= math.sqrt(3) * (1 + 1e-12)
    assert weight.requires_grad
    assert weight.grad_fn is None


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda: nn.Linear(400, 300), 1 / math.sqrt(400)),
        (lambda: nn.Conv2d(40, 60, 3), 1 / math.sqrt(40 * 9)),
        (lambda: nn.Conv2d(40, 600, 3, groups=4), 1 / math.sqrt(10 * 9)),
        (lambda: nn.ConvTranspose2d(60, 40, 3), 1 / math.sqrt(40 * 9)),
    ],
)
def test_layers_start_from_pytorchs_uniform_distribution(make, bound):
    layer = make()
    for parameter in layer.parameters():
        samples = parameter.detach().numpy().astype(np.float64)
        assert np.abs(samples).max() <= bound * (1 + 1e-6)
        assert np.abs(samples).max() > 0.8 * bound
        assert abs(samples.var() - bound**2 / 3) < 5 * bound**2 / 3 * math.sqrt(0.8 / samples.size)


def test_constants():
    weight = minires.empty(2, 3)
    assert np.all(init.zeros_(weight).numpy() == 0)
    assert np.all(init.ones_(weight).numpy() == 1)
    assert np.all(init.constant_(weight, 2.5).numpy() == 2.5)


def test_same_seed_same_weights():
    minires.manual_seed(3)
    first = nn.Conv2d(2, 3, 3).weight.detach().numpy()
    minires.manual_seed(3)
    np.testing.assert_array_equal(nn.Conv2d(2, 3, 3).weight.detach().numpy(), first)


def test_layers_without_elements_can_be_made():
    assert nn.Linear(0, 3).weight.shape == (3, 0)
    assert nn.Linear(0, 3)(minires.ones(2, 0)).shape == (2, 3)


@pytest.mark.parametrize(
    "program",
    [
        lambda lib: lib.nn.init.calculate_gain("swish"),
        lambda lib: lib.nn.init.kaiming_normal_(lib.ones(3)),
        lambda lib: lib.nn.init.xavier_uniform_(lib.ones(3)),
        lambda lib: lib.nn.init.kaiming_uniform_(lib.ones(3, 3), mode="fan_avg"),
        lambda lib: lib.nn.init.kaiming_uniform_(lib.ones(3, 3), nonlinearity="swish"),
    ],
)
def test_refused_as_pytorch_refuses(program):
    assert isinstance(refusal(program), ValueError)


def test_frozen_and_plain_tensors_may_be_filled():
    assert_twins(lambda lib: lib.nn.init.constant_(lib.zeros(2, 2), 3.0))
    assert_twins(lambda lib: lib.nn.init.ones_(lib.nn.Parameter(lib.zeros(2), requires_grad=False)))
