"""Every instrument on models of a user's own, and on models that are hard to study: a result or a sentence."""

from __future__ import annotations

import math

import pytest
from study_nets import labels

import minires
from minires import nn
from minires.models import CifarResNet
from minires.nn import functional as F
from minires.study import (
    block_jacobians,
    computation_graph,
    gradient_autocorrelation,
    gradient_flow,
    hessian_spectrum,
    lesions,
    loss_landscape,
    path_gradients,
    skip_decomposition,
)

INSTRUMENTS = {
    "flow": gradient_flow,
    "decomposition": skip_decomposition,
    "paths": path_gradients,
    "lesions": lambda model, x, y: lesions(model, x, y, samples=1),
    "autocorrelation": lambda model, x, y: gradient_autocorrelation(model, x[0], 1 - x[0], points=8),
    "jacobians": lambda model, x, y: block_jacobians(model, x, steps=4),
    "hessian": lambda model, x, y: hessian_spectrum(model, x, y, steps=3),
    "landscape": lambda model, x, y: loss_landscape(model, x, y, points=3),
    "graph": computation_graph,
}


class TutorialBlock(nn.Module):
    """A basic block as tutorials write it: += and separate ReLUs, the shortcut a slice and a pad."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - in_channels

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        out += x
        return F.relu(out)


class Tutorial(nn.Module):
    """The ResNet-8 for CIFAR, with blocks in a plain list of another name."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.units = nn.ModuleList([TutorialBlock(16, 16, 1), TutorialBlock(16, 32, 2), TutorialBlock(32, 64, 2)])
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        for unit in self.units:
            x = unit(x)
        return self.last(x.mean((2, 3)))


class Recurrent(nn.Module):
    """One block used three times, on vectors, without any normalisation; residual sums in the model itself."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(192, 8)
        self.cells = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.leave = nn.Linear(8, 10)

    def forward(self, x):
        h = self.enter(x.flatten(1))
        for cell in (*self.cells, self.cells[0]):
            h = h + F.gelu(cell(h))
        return self.leave(h)


def batch(size=2):
    minires.manual_seed(1)
    return minires.randn(size, 3, 8, 8), labels(*range(size))


@pytest.mark.parametrize("build", [Tutorial, Recurrent])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_every_instrument_works_on_a_model_of_ones_own(instrument, build):
    minires.manual_seed(0)
    records = INSTRUMENTS[instrument](build(), *batch()).rows()
    assert records
    numbers = [value for record in records for value in record.values() if isinstance(value, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))


def test_what_is_found_depends_on_the_net_and_not_on_its_classes():
    """The same net with the same weights, ours with fused operations and the tutorial's: the same numbers."""
    minires.manual_seed(0)
    ours, theirs = CifarResNet(8).double(), Tutorial().double()
    weights = ours.state_dict()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights.values(), strict=True)))
    x, y = batch(4)
    for name in ("decomposition", "paths", "lesions", "autocorrelation", "jacobians", "hessian", "landscape"):
        expected, found = (INSTRUMENTS[name](model, x.double(), y).rows() for model in (ours, theirs))
        assert len(found) == len(expected)
        for mine, other in zip(expected, found, strict=True):
            for key, value in mine.items():
                if key == "rest":  # rounding
                    assert max(value, other[key]) < 1e-14
                elif not isinstance(value, str):  # the names of blocks are each net's own
                    assert other[key] == pytest.approx(value, rel=1e-6, abs=1e-9), (name, key)


def frozen():
    return Tutorial().requires_grad_(False)


def with_nan():
    model = Tutorial()
    model.units[1].conv2.weight.data.fill_(float("nan"))
    return model


def without_skips():
    return CifarResNet(14, residual=False)


NO_SKIP = "no residual block"
SENTENCES = {
    frozen: {"hessian": "no parameter of this model requires a gradient"},
    with_nan: dict.fromkeys(INSTRUMENTS, r"a parameter of units\.1\.conv2 is NaN or infinite"),
    without_skips: {"decomposition": NO_SKIP, "paths": NO_SKIP, "jacobians": NO_SKIP},
}


@pytest.mark.parametrize("build", SENTENCES)
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_hard_models_give_a_result_or_a_sentence(instrument, build):
    minires.manual_seed(0)
    model, sentence = build(), SENTENCES[build].get(instrument)
    if sentence is None:
        assert INSTRUMENTS[instrument](model, *batch()).rows()
        return
    with pytest.raises(ValueError, match=sentence) as caught:
        INSTRUMENTS[instrument](model, *batch())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_a_batch_of_one_is_enough(instrument):
    assert INSTRUMENTS[instrument](Tutorial(), *batch(1)).rows()


def test_freezing_does_not_change_what_is_found():
    minires.manual_seed(0)
    model, (x, y) = Tutorial(), batch()
    for name, instrument in INSTRUMENTS.items():
        if name != "hessian":
            free = instrument(model.requires_grad_(True), x, y).rows()
            assert instrument(model.requires_grad_(False), x, y).rows() == free, name
