"""Finding residual sums and blocks in nets of all kinds, and what cannot be studied."""

from __future__ import annotations

import numpy as np
import pytest
from study_nets import COMBINATIONS, Bare, Combination, Scaling, labels, rows, total

import minires
from minires import nn
from minires.models import BasicBlock, Bottleneck, CifarResNet
from minires.models.shortcuts import make_shortcut
from minires.nn import functional as F
from minires.study import (
    StudyError,
    block_jacobians,
    computation_graph,
    find_blocks,
    find_skips,
    gradient_flow,
    hessian_spectrum,
    lesions,
    loss_landscape,
    path_gradients,
    skip_decomposition,
    trace,
)
from minires.study.fixup import FixupBlock
from minires.study.highway import HighwayBlock

IMAGE = (2, 8, 6, 6)


def skips_of(model, *shape):
    return find_skips(trace(model, minires.randn(*(shape or IMAGE))))


class Handwritten(nn.Module):
    """As tutorials write it: += on the branch, the shortcut an empty Sequential, ReLU after it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Sequential()

    def forward(self, x):
        out = F.relu(self.conv(x))
        out += self.shortcut(x)
        return F.relu(out)


class BranchFirst(nn.Module):
    def __init__(self, shortcut_first):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.shortcut_first = shortcut_first

    def forward(self, x):
        return x + self.conv(x) if self.shortcut_first else self.conv(x) + x


@pytest.mark.parametrize(
    ("block", "identity"),
    [
        (BasicBlock(8, 8), True),
        (BasicBlock(8, 16, 2, make_shortcut("A", 8, 16, 2)), False),
        (BasicBlock(8, 16, 2, make_shortcut("B", 8, 16, 2)), False),
        (Bottleneck(8, 2), True),
        (Handwritten(), True),
        (BranchFirst(True), True),
        (BranchFirst(False), True),
        (FixupBlock(8, 8), True),
        (HighwayBlock(8, 8), False),
    ],
    ids=["basic", "padded", "projection", "bottleneck", "handwritten", "x + F", "F + x", "fixup", "highway"],
)
def test_one_skip_in_every_kind_of_block(block, identity):
    (skip,) = skips_of(nn.Sequential(block))
    assert (skip.name, skip.is_identity, skip.feeds_only_this) == ("0", identity, True)
    assert (skip.shortcut is skip.fork) is identity
    assert skip.shortcut.shape == skip.branch.shape == skip.sum.shape
    assert np.allclose((skip.shortcut + skip.branch).detach().numpy(), skip.sum.detach().numpy())


def test_the_shortcut_is_the_way_with_fewer_weights():
    """In a projection block both ways have weights: the shortcut is the 1x1 convolution with its batch norm."""
    block = BasicBlock(8, 16, 2, make_shortcut("B", 8, 16, 2)).eval()
    x = minires.randn(*IMAGE)
    (skip,) = find_skips(trace(block, x))
    assert np.allclose(skip.shortcut.detach().numpy(), block.downsample(x).detach().numpy())


def test_names_and_order_in_a_net():
    names = [skip.name for skip in skips_of(CifarResNet(14), 2, 3, 16, 16)]
    assert names == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]


def test_sums_in_no_module_of_their_own_are_numbered():
    assert [skip.name for skip in skips_of(Bare(), 2, 3)] == ["sum 1", "sum 2"]


def test_a_frozen_model_has_its_skips():
    model = CifarResNet(8).requires_grad_(False)
    assert len(skips_of(model, 2, 3, 16, 16)) == 3


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_linear_combination_is_a_skip(name):
    combine, _, _, identity = COMBINATIONS[name]
    (skip,) = find_skips(trace(nn.Sequential(Combination(3.0, combine)), rows([1.0, -2.0]), labels(0), total))
    assert skip.is_identity is identity
    sum_of_parts = skip.shortcut_sign * skip.shortcut + skip.branch_sign * skip.branch
    assert (sum_of_parts == skip.sum).all()
    assert skip.feeds_only_this


def test_a_scaled_shortcut_with_a_parameter_beside_a_single_layer():
    """Both ways have one operation with a parameter: the shortcut is the one with a number, not the one of a matrix."""

    class Scaled(nn.Module):
        def __init__(self, layer_first):
            super().__init__()
            self.a, self.layer = nn.Parameter(minires.ones(1)), nn.Linear(3, 3, bias=False)
            self.layer_first = layer_first

        def forward(self, x):
            return self.layer(x) - self.a * x if self.layer_first else self.a * x - self.layer(x)

    for layer_first in (False, True):
        (skip,) = skips_of(Scaled(layer_first), 2, 3)
        assert (skip.shortcut_index, skip.is_identity) == (int(layer_first), False)
        assert skip.shortcut_sign == (-1 if layer_first else 1)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_weight_that_is_computed_from_parameters_is_one(frozen):
    """Weight normalisation: no operation on the way from fork to sum takes a Parameter itself."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.g = nn.Parameter(minires.randn(8, 8, 3, 3)), nn.Parameter(minires.ones(8, 1, 1, 1))

        def forward(self, x):
            weight = self.g * self.v / (self.v * self.v).sum((1, 2, 3), keepdim=True).sqrt()
            return x - F.conv2d(x, weight, padding=1)

    (skip,) = skips_of(Normalised().requires_grad_(not frozen))
    assert skip.is_identity


def test_differences_without_parameters_are_no_skips():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x - F.relu(x)) - 1

    assert skips_of(Centred(), 2, 3) == []


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3)),
        CifarResNet(8, residual=False, in_channels=8),
        nn.SiLU(),
    ],
    ids=["bias and gelu", "plain", "activation"],
)
def test_no_skip_where_there_is_none(model):
    assert skips_of(model) == []


def test_parallel_layers_of_one_input_are_a_sum_too():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.a(x) + self.b(x)

    (skip,) = skips_of(Parallel())
    assert not skip.is_identity


def test_the_trace_leaves_the_model_as_it_was():
    model = CifarResNet(8)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    x = minires.randn(2, 3, 16, 16)
    trace(model, x, labels(0, 1))
    assert all((value.numpy() == before[name]).all() for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.training
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (CifarResNet(14), [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]),
        (CifarResNet(8, residual=False), ["layer1.0", "layer2.0", "layer3.0"]),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), ["0", "2"]),
        (nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 2)), ["0.0", "0.1", "1"]),
        (Bare(), ["layers.0", "layers.1"]),
        (nn.Linear(3, 3), []),
    ],
    ids=["residual", "plain", "layers", "nested containers", "module list", "single layer"],
)
def test_find_blocks(model, expected):
    assert find_blocks(model) == expected


def test_find_blocks_inside_a_wrapper():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = CifarResNet(8)

        def forward(self, x):
            return self.body(x)

    assert find_blocks(Wrapper()) == [f"body.layer{stage}.0" for stage in (1, 2, 3)]


# What cannot be studied: a sentence each.


def test_no_residual_block():
    with pytest.raises(StudyError, match="no residual block"):
        skip_decomposition(CifarResNet(8, residual=False), minires.randn(2, 3, 16, 16), labels(0, 1))


def test_nan_in_a_parameter_is_named():
    model = CifarResNet(8)
    model.layer2[0].conv1.weight.data.fill_(float("nan"))
    instruments = (
        trace, gradient_flow, skip_decomposition, path_gradients, lesions, hessian_spectrum, loss_landscape,
        lambda model, images, labels: block_jacobians(model, images), computation_graph,
    )  # fmt: skip
    for instrument in instruments:
        with pytest.raises(StudyError, match=r"layer2\.0\.conv1 is NaN"):
            instrument(model, minires.randn(2, 3, 16, 16), labels(0, 1))


def test_nan_in_the_images():
    with pytest.raises(StudyError, match="images hold NaN"):
        trace(nn.Linear(2, 2), minires.tensor([[np.nan, 1.0]]), labels(0))


def test_nan_made_on_the_way_is_named():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return (self.layer(x) * 0 - 1).sqrt()

    with pytest.raises(StudyError, match=r"Sqrt in the model made the first value that is not finite"):
        trace(Root(), minires.randn(1, 2), labels(0))


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (minires.zeros(0, 2), minires.tensor([], dtype=minires.int64), "nothing to study"),
        (minires.zeros(2, 2), labels(0), "one label for each of the 2 images"),
        (minires.zeros(2, 2, dtype=minires.int64), labels(0, 1), "floating-point"),
        (np.zeros((2, 2)), labels(0, 1), "floating-point Tensor, got ndarray"),
    ],
)
def test_bad_batches(images, targets, message):
    with pytest.raises(StudyError, match=message):
        trace(nn.Linear(2, 2), images, targets)


def test_a_batch_of_one_in_training_mode():
    """Batch norm has its own sentence where one image gives one value a channel; elsewhere one image is enough."""
    model = CifarResNet(8)
    assert len(skip_decomposition(model, minires.randn(1, 3, 16, 16), labels(0)).blocks) == 3
    with pytest.raises(ValueError, match="use a larger batch, or model"):
        skip_decomposition(model, minires.randn(1, 3, 1, 1), labels(0))


def test_a_model_that_returns_a_tuple():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(StudyError, match="one Tensor to be studied, it returned tuple"):
        trace(Two(), minires.randn(2, 2))


def test_checkpointed_models_are_refused_with_the_remedy():
    model = CifarResNet(14, checkpoint=True)
    for instrument in (skip_decomposition, gradient_flow):
        with pytest.raises(StudyError, match="checkpoint=False"):
            instrument(model, minires.randn(2, 3, 16, 16), labels(0, 1))


def test_a_block_used_twice_is_found_twice():
    block = Scaling(0.5)
    names = [skip.name for skip in find_skips(trace(nn.Sequential(block, block), rows([1.0]), labels(0), total))]
    assert names == ["0 (1)", "0 (2)"]
