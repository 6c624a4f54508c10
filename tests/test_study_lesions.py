"""Lesions, Highway gates and trainings side by side, on nets whose answers are known on paper."""

from __future__ import annotations

import numpy as np
import pytest
from study_nets import COMBINATIONS, Combination, LinearBlock, Scaling, labels, matrix_layer, rows

import minires
from minires import nn
from minires.data import TensorDataset
from minires.models import CifarResNet
from minires.study import (
    StudyError,
    contestant,
    draw_gate_openings,
    draw_lesions,
    draw_training_curves,
    gate_openings,
    lesions,
    train_alike,
)
from minires.study.figure import svg
from minires.study.highway import CifarHighway, HighwayBlock
from minires.study.lesions import kendall_tau
from minires.training import Recipe

X = ([2.0, 1.0], [1.0, 3.0], [0.5, 0.1])


def right_answers(model, x):
    return minires.tensor(model(x).detach().numpy().argmax(1))


def test_dropping_blocks_of_a_linear_residual_net():
    """Factors 1.5, -1, -3: without the second or the third every answer turns round, without both none does."""
    net = nn.Sequential(Scaling(0.5), Scaling(-2.0), Scaling(-4.0))
    x = rows(*X)
    result = lesions(net, x, right_answers(net, x), kinds=("drop one", "drop several"), samples=20)
    assert result.residual
    assert result.error == 0
    assert [(lesion.blocks, lesion.error) for lesion in result.of_kind("drop one")] == [
        (("0",), 0),
        (("1",), 1),
        (("2",), 1),
    ]
    expected = {("0", "1"): 1, ("0", "2"): 1, ("1", "2"): 0, ("0", "1", "2"): 0}
    found = {lesion.blocks: lesion.error for lesion in result.of_kind("drop several")}
    assert found == expected


def test_dropping_a_branch_leaves_the_shortcut():
    """The loss after a lesion is that of the net with this branch's weights at zero, batch norm and ReLU included."""
    net = CifarResNet(14, shortcut="B")
    for module in net.modules():  # so that eval mode's batch norm is no identity
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    net.eval()
    x, y = minires.randn(5, 3, 16, 16), labels(0, 1, 2, 3, 4)
    found = {lesion.blocks[0]: lesion.loss for lesion in lesions(net, x, y, kinds=("drop one",), batch_size=2).lesions}
    for name in ("layer1.1", "layer2.0"):
        norm = net.get_submodule(name).bn2
        kept = [parameter.detach().clone() for parameter in (norm.weight, norm.bias)]
        norm.weight.data.fill_(0)
        norm.bias.data.fill_(0)
        expected = nn.functional.cross_entropy(net(x), y).item()
        norm.weight.data.copy_(kept[0])
        norm.bias.data.copy_(kept[1])
        assert found[name] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_dropping_the_branch_of_a_linear_combination(name):
    """What remains of s x + b w x is s x, whose sign decides whether the answers stay those of x."""
    combine, shortcut, branch, _ = COMBINATIONS[name]
    net = nn.Sequential(Combination(3.0, combine))
    x = rows(*X)
    result = lesions(net, x, right_answers(nn.Identity(), x), kinds=("drop one",))
    assert result.error == (0 if shortcut + 3 * branch > 0 else 1)
    assert result.lesions[0].error == (0 if shortcut > 0 else 1)


SWAP, FLIP = [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]


def test_a_plain_net_is_bridged():
    """FLIP SWAP x = (x2, -x1) and FLIP x = (x1, -x2) have class 0 for positive x, SWAP x = (x2, x1) if x2 > x1."""
    net = nn.Sequential(matrix_layer(SWAP), matrix_layer(FLIP))
    result = lesions(net, rows(*X), labels(0, 0, 0), kinds=("drop one", "drop several"))
    assert not result.residual
    assert result.error == 0
    assert [(lesion.blocks, lesion.error) for lesion in result.of_kind("drop one")] == [
        (("0",), 0),
        (("1",), pytest.approx(2 / 3)),  # (x2, x1): right only where x2 > x1
    ]
    (both,) = result.of_kind("drop several")
    assert both.error == pytest.approx(1 / 3)  # x itself


def test_reordering_two_blocks():
    """SWAP FLIP x = (-x2, x1) has class 1 where FLIP SWAP x = (x2, -x1) has class 0."""
    net = nn.Sequential(matrix_layer(SWAP), matrix_layer(FLIP))
    result = lesions(net, rows(*X), labels(0, 0, 0), kinds=("reorder",), samples=1)
    (lesion,) = result.lesions
    assert (lesion.blocks, lesion.amount, lesion.error) == (("0", "1"), 2, 1)
    assert (net[0].weight.detach().numpy() == SWAP).all()  # they are back in their places


def test_reordering_two_residual_blocks():
    """(I + W)(I + V) x and (I + V)(I + W) x, W = SWAP and V = FLIP: (2 x1, 2 x1) and (2 x1 + 2 x2, 0)."""
    net = nn.Sequential(LinearBlock(FLIP), LinearBlock(SWAP), matrix_layer([[1.0, 0.0], [0.0, 2.0]]))
    result = lesions(net, rows(*X), labels(1, 1, 1), kinds=("reorder",), samples=1)
    assert result.residual
    assert result.error == 0
    assert [(lesion.blocks, lesion.error) for lesion in result.lesions] == [(("0", "1"), 1)]


def test_blocks_that_change_the_shape_are_kept():
    result = lesions(CifarResNet(14, residual=False), minires.randn(2, 3, 16, 16), labels(0, 1), kinds=("drop one",))
    assert [lesion.blocks[0] for lesion in result.lesions] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert result.kept == ("layer2.0", "layer3.0")


@pytest.mark.parametrize(("order", "tau"), [((0, 1, 2), 1), ((2, 1, 0), -1), ((1, 0, 2), 1 / 3), ((0,), 1)])
def test_kendall_tau(order, tau):
    assert kendall_tau(order) == pytest.approx(tau)


def test_lesions_leave_the_model_as_it_was():
    net = CifarResNet(14)
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    result = lesions(net, minires.randn(4, 3, 8, 8), labels(0, 1, 2, 3), samples=1)
    assert {lesion.kind for lesion in result.lesions} == {"drop one", "drop several", "reorder"}
    assert all((value.numpy() == before[name]).all() for name, value in net.state_dict().items())
    assert net.training
    assert "<svg" in svg(draw_lesions({"residual": result}))
    assert len(result.rows()) == 1 + len(result.lesions)


def test_no_lesions_make_no_figure():
    net = nn.Sequential(Scaling(1.0))
    with pytest.raises(StudyError, match="no lesion was made"):
        draw_lesions({"net": lesions(net, rows(*X), labels(0, 0, 0), kinds=())})


def test_a_model_of_one_output_axis():
    with pytest.raises(StudyError, match=r"logits \(N, classes\) are needed, got \(3,\)"):
        lesions(nn.Sequential(Scaling(1.0), nn.Flatten(0)), rows([1.0], [2.0], [3.0]), labels(0, 0, 0))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {}, "no block that could be dropped"),
        (nn.Sequential(Scaling(1.0)), {"kinds": ("amputate",)}, "no lesion 'amputate'"),
        (nn.Sequential(Scaling(1.0)), {"samples": 0}, "at least 1"),
    ],
)
def test_bad_lesions(model, options, message):
    with pytest.raises(StudyError, match=message):
        lesions(model.double(), rows(*X), labels(0, 0, 0), **options)


# Highway


def test_gates_by_hand():
    """With a zero gate weight and bias b, T = sigmoid(b): closed at -inf, half open at 0."""
    net = nn.Sequential(HighwayBlock(4, 4), HighwayBlock(4, 4)).eval()
    for block, bias in zip(net, (0.0, np.log(3)), strict=True):
        nn.init.zeros_(block.gate[0].weight)
        nn.init.constant_(block.gate[0].bias, bias)
    x = minires.randn(2, 4, 5, 5)
    result = gate_openings(net, x)
    assert result.blocks == ("0", "1")
    assert result.openings == pytest.approx((0.5, 0.75))
    assert "<svg" in svg(draw_gate_openings({"net": result}))
    nn.init.constant_(net[0].gate[0].bias, -100.0)
    assert np.allclose(net[0](x).detach().numpy(), x.numpy())  # a closed gate carries its input through
    with pytest.raises(StudyError, match="no Highway block"):
        gate_openings(CifarResNet(8), minires.randn(1, 3, 8, 8))
    nn.init.constant_(net[1].gate[0].bias, float("nan"))
    with pytest.raises(StudyError, match=r"a parameter of 1\.gate\.0 is NaN"):
        gate_openings(net, x)


def test_highway_gates_begin_nearly_closed():
    openings = gate_openings(CifarHighway(8), minires.randn(4, 3, 16, 16)).openings
    assert len(openings) == 3
    assert all(0.1 < opening < 0.5 for opening in openings)


# Contestants and their training


def test_fixup_begins_with_identity_blocks_and_equal_logits():
    net = contestant("fixup-14")
    x = minires.randn(2, 3, 16, 16)
    assert (net(x).detach().numpy() == 0).all()
    inside = nn.functional.relu(minires.randn(2, 16, 8, 8))
    assert (net.layer1[0](inside).detach().numpy() == inside.numpy()).all()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    spread = net.layer1[0].conv1.weight.detach().numpy().std()
    assert spread == pytest.approx(np.sqrt(2 / (16 * 9)) / np.sqrt(6), rel=0.05)  # He's, times L^(-1/2) for 6 blocks


def test_zero_init_begins_with_identity_blocks():
    block = contestant("zero-init-8").layer1[0]
    inside = nn.functional.relu(minires.randn(2, 16, 8, 8))
    assert (block(inside).detach().numpy() == inside.numpy()).all()


@pytest.mark.parametrize("name", ["residual-9", "fixup-9"])
def test_depths_are_6n_plus_2(name):
    with pytest.raises(ValueError, match="6n"):
        contestant(name)


@pytest.mark.parametrize("name", ["residual", "dense-20", "plain-x"])
def test_unknown_contestants(name):
    with pytest.raises(StudyError, match="KIND-DEPTH"):
        contestant(name)


def stripes(count, seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, count)
    waves = np.sin(np.arange(8))
    images = np.where(targets[:, None, None], waves[:, None], waves[None, :])[:, None]
    images = np.repeat(images, 3, axis=1) + 0.1 * rng.standard_normal((count, 3, 8, 8))
    return TensorDataset(minires.from_numpy(images.astype(np.float32)), minires.from_numpy(targets))


def test_nets_trained_alike_see_the_same_images():
    recipe = Recipe("test", steps=6, batch_size=16, learning_rate=0.05)
    sets = stripes(64, 0), stripes(32, 1)
    curves = {}
    for name in ("residual", "again"):
        net, curves[name] = train_alike(lambda: contestant("residual-8", 2), *sets, recipe, seed=3)
    assert not net.training
    assert curves["residual"].step_losses == curves["again"].step_losses
    curve = curves["residual"]
    assert len(curve.step_losses) == 6
    assert [report.step for report in curve.epochs] == [4, 6]
    assert curve.final_train_loss == curve.step_losses[-1]
    assert curve.rows()[-1]["test error"] == curve.final_test_error == 1 - curve.epochs[-1].test.accuracy
    assert curve.step_losses[-1] < curve.step_losses[0]
    assert "<svg" in svg(draw_training_curves(curves))


def test_the_curve_of_a_net_that_has_nothing_to_learn():
    """Black images, one label each, weights of 0: no gradient, a loss of log 2 at each step, always class 0."""
    black = minires.zeros(4, 2)
    recipe = Recipe("test", steps=3, batch_size=4, learning_rate=0.1)

    def build():
        net = nn.Linear(2, 2)
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
        return net

    train_set, test_set = (TensorDataset(black, labels(*targets)) for targets in ((0, 1, 0, 1), (1, 0, 1, 1)))
    _, curve = train_alike(build, train_set, test_set, recipe)
    assert curve.step_losses == pytest.approx([np.log(2)] * 3)
    assert curve.final_train_loss == pytest.approx(np.log(2))
    assert [row["test error"] for row in curve.rows()] == [0.75] * 3


def test_a_training_that_fails_says_so_in_its_curve():
    recipe = Recipe("test", steps=20, batch_size=16, learning_rate=1e20)
    _, curve = train_alike(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), stripes(64, 0), None, recipe)
    assert "training stopped at step" in curve.failure
    assert np.isnan(curve.final_test_error)
