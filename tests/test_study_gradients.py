"""Gradient flow, skip decomposition and paths, on nets whose gradients are known on paper."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from study_nets import COMBINATIONS, Bare, Combination, LinearBlock, Scaling, labels, matrix_layer, rows, total

import minires
from minires import nn
from minires.models import CifarResNet
from minires.nn import functional as F
from minires.study import (
    GradientFlowRecorder,
    StudyError,
    draw_gradient_flow,
    draw_path_gradients,
    draw_skip_decomposition,
    gradient_flow,
    path_gradients,
    skip_decomposition,
    write_tensorboard,
)
from minires.study.figure import svg

WEIGHTS = (0.5, -2.0, 0.25)


def scaling_net(weights=WEIGHTS):
    return nn.Sequential(*map(Scaling, weights))


# Gradient flow


def test_moments_by_hand():
    """x = (1, -1), through the identity and ReLU, summed: the gradient is (1, 1) behind ReLU and (1, 0) before."""
    net = nn.Sequential(matrix_layer(np.eye(2)), nn.ReLU())
    linear, relu = gradient_flow(net, rows([1.0, -1.0]), labels(0), total).layers
    assert (linear.name, linear.type, linear.depth, linear.shape) == ("0", "Linear", 1, (1, 2))
    assert (relu.name, relu.type, relu.depth) == ("1", "ReLU", 2)
    moments = linear.activation
    assert (moments.norm, moments.mean, moments.variance, moments.dead) == (math.sqrt(2), 0, 1, 0)
    moments = relu.activation
    assert (moments.norm, moments.mean, moments.variance, moments.dead) == (1, 0.5, 0.25, 0.5)
    assert (relu.gradient.norm, relu.gradient.dead) == (math.sqrt(2), 0)
    assert (linear.gradient.norm, linear.gradient.mean, linear.gradient.dead) == (1, 0.5, 0.5)


def test_a_channel_is_dead_only_if_it_is_zero_for_every_image():
    net = nn.Sequential(nn.ReLU())
    (layer,) = gradient_flow(net, rows([1.0, -1.0, -1.0], [-1.0, -1.0, 2.0]), labels(0, 0), total).layers
    assert layer.activation.dead == pytest.approx(1 / 3)


def test_gradients_shrink_by_the_weight_of_each_layer():
    net = nn.Sequential(*(matrix_layer([[0.5]]) for _ in range(5)))
    norms = [layer.gradient.norm for layer in gradient_flow(net, rows([1.0]), labels(0), total).layers]
    assert norms == [0.5**4, 0.5**3, 0.5**2, 0.5, 1]


def test_frozen_models_have_a_gradient_flow():
    net = CifarResNet(8)
    x, y = minires.randn(2, 3, 16, 16), labels(0, 1)
    expected = gradient_flow(net, x, y)
    assert gradient_flow(net.requires_grad_(False), x, y) == expected


def test_the_recorder_follows_a_training():
    """y = w x with loss y: the activation is w, which falls by the rate times x = 2 at each step."""
    net = nn.Sequential(matrix_layer([[1.0]]))
    optimizer = minires.optim.SGD(net.parameters(), lr=0.1)
    recorder = GradientFlowRecorder(net, every=2)
    with recorder.recording():
        for _ in range(4):
            optimizer.zero_grad()
            with minires.no_grad():
                net(rows([2.0]))  # an evaluation in between is not a step
            net(rows([2.0])).sum().backward()
            optimizer.step()
    assert [flow.step for flow in recorder.history] == [1, 3]
    means = [flow.layers[0].activation.mean for flow in recorder.history]
    assert means == pytest.approx([2.0, 2.0 - 2 * 0.1 * 2 * 2])
    assert all(flow.layers[0].gradient.norm == 1 for flow in recorder.history)
    net(rows([2.0]))
    assert len(recorder.history) == 2  # the hooks are gone


def test_recording_every_zero_steps_is_refused():
    with pytest.raises(StudyError, match="every must be at least 1"):
        GradientFlowRecorder(nn.ReLU(), every=0)


def test_tensorboard_logs(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    net = nn.Sequential(matrix_layer([[1.0]]))
    write_tensorboard([gradient_flow(net, rows([2.0]), labels(0), total)], tmp_path)
    (file,) = tmp_path.iterdir()
    assert b"gradient-norm/0" in file.read_bytes()


def test_no_layers():
    class Nothing(nn.Module):
        def forward(self, x):
            return (x * 2,)

    with pytest.raises(StudyError):
        gradient_flow(Nothing(), rows([1.0]), labels(0), total)


# Skip decomposition


def test_decomposition_of_a_linear_residual_net():
    """With factors 1 + w_k, the gradient at sum k is G = prod_{j > k} (1 + w_j): G by the shortcut, w_k G round."""
    result = skip_decomposition(scaling_net(), rows([1.0, 2.0]), labels(0), total)
    for k, (block, w) in enumerate(zip(result.blocks, WEIGHTS, strict=True)):
        at_sum = math.sqrt(2) * abs(math.prod(1 + later for later in WEIGHTS[k + 1 :]))
        assert block.block == str(k)
        assert block.identity
        assert block.shortcut_norm == pytest.approx(at_sum)
        assert block.branch_norm == pytest.approx(abs(w) * at_sum)
        assert block.whole_norm == pytest.approx(abs(1 + w) * at_sum)
        assert block.ratio == pytest.approx(abs(w))
        assert block.cosine == pytest.approx(math.copysign(1, w))
        assert block.angle == pytest.approx(0 if w > 0 else 180, abs=1e-4)
        assert block.rest < 1e-15


@pytest.mark.parametrize("name", COMBINATIONS)
def test_decomposition_and_paths_of_linear_combinations(name):
    """y = s x + b w x: of the gradient 1, s comes back by the shortcut and b w by the branch."""
    combine, shortcut, branch, _ = COMBINATIONS[name]
    halved = 0.5 if name == "(x - F) / 2" else 1  # of the gradient, before it comes to the sum
    net, w = nn.Sequential(Combination(3.0, combine)), 3.0
    (block,) = skip_decomposition(net, rows([1.0]), labels(0), total).blocks
    parts = [halved * shortcut, halved * branch * w]
    assert [block.shortcut_norm, block.branch_norm] == pytest.approx(np.abs(parts))
    assert block.whole_norm == pytest.approx(abs(sum(parts)))
    assert block.angle == pytest.approx(0 if parts[0] * parts[1] > 0 else 180, abs=1e-4)
    for options in ({}, {"exact_up_to": 0}):  # every path, and random ones
        result = path_gradients(net, rows([1.0]), labels(0), total, **options)
        assert [length.mean_norm for length in result.lengths] == pytest.approx(np.abs(parts))
        assert result.whole_norm == pytest.approx(abs(sum(parts)))


def test_two_differences_in_a_row():
    """(1 - 2)(1 - 3): the paths bring 1, -2 and -3 together, and 6."""
    net = nn.Sequential(*(Combination(w, lambda x, f: x - f) for w in (2.0, 3.0)))
    result = path_gradients(net, rows([1.0]), labels(0), total)
    assert [length.sum_norm for length in result.lengths] == pytest.approx([1, 5, 6])


def test_a_part_that_vanishes_has_no_angle():
    """Zero-init residual nets: nothing comes back through any branch, and no angle of 0 says that it is aligned."""
    net = CifarResNet(8, zero_init_residual=True)
    result = skip_decomposition(net, minires.randn(2, 3, 8, 8), labels(0, 1))
    for block, record in zip(result.blocks, result.rows(), strict=True):
        assert block.branch_norm == 0 < block.shortcut_norm
        assert block.ratio == 0
        assert math.isnan(block.angle)
        assert math.isnan(record["angle (degrees)"])
    assert "<svg" in svg(draw_skip_decomposition({"zero-init": result}))
    (nothing,) = skip_decomposition(Scaling(2.0), rows([1.0]), labels(0), lambda y, t: (y * 0).sum()).blocks
    assert math.isnan(nothing.ratio)
    assert math.isnan(nothing.angle)


def test_gradients_whose_squares_underflow():
    (block,) = skip_decomposition(Scaling(2.0), rows([1.0]), labels(0), lambda y, t: (y * 1e-200).sum()).blocks
    assert (block.shortcut_norm, block.branch_norm, block.angle) == pytest.approx((1e-200, 2e-200, 0), rel=1e-6)
    (layer,) = gradient_flow(matrix_layer([[2.0]]), rows([1.0]), labels(0), lambda y, t: (y * 1e-200).sum()).layers
    assert layer.gradient.norm == pytest.approx(1e-200)


def test_the_angle_of_a_rotated_branch():
    """W turns by a right angle: the branch's part stands at 90 degrees on the shortcut's."""
    (block,) = skip_decomposition(LinearBlock([[0.0, -3.0], [3.0, 0.0]]), rows([1.0, 5.0]), labels(0), total).blocks
    assert block.angle == pytest.approx(90)
    assert block.ratio == pytest.approx(3)
    assert block.whole_norm == pytest.approx(math.sqrt(2) * math.sqrt(10))


def test_parts_add_up_in_a_real_net_and_the_whole_is_that_of_backward():
    net = CifarResNet(14, shortcut="B").double()
    x, y = minires.randn(4, 3, 16, 16, dtype=minires.float64), labels(0, 1, 2, 3)
    result = skip_decomposition(net, x, y)
    assert len(result.blocks) == 6
    assert all(block.rest < 1e-14 for block in result.blocks)
    norms = {}
    for name, stage in (("layer2.1", net.layer2[1]), ("layer3.0", net.layer3[0])):
        stage.register_forward_pre_hook(
            lambda module, inputs, name=name: (
                inputs[0].register_hook(lambda gradient: norms.__setitem__(name, np.linalg.norm(gradient.numpy())))
                and None
            )
        )
    F.cross_entropy(net(x), y).backward()
    found = {block.block: block.whole_norm for block in result.blocks}
    assert {name: found[name] for name in norms} == pytest.approx(norms)


def test_an_input_used_elsewhere_has_a_rest():
    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Scaling(1.0)

        def forward(self, x):
            return minires.cat([self.block(x), 3 * x], 1)

    (block,) = skip_decomposition(Elsewhere(), rows([1.0]), labels(0), total).blocks
    assert not block.feeds_only_this
    assert (block.shortcut_norm, block.branch_norm, block.whole_norm) == (1, 1, 5)
    assert block.rest == pytest.approx(1.5)


def test_a_wrong_backward_pass_is_noticed():
    """A gradient hook that doubles what arrives at a block's input breaks the sum of the parts."""

    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Scaling(1.0), Scaling(1.0)

        def forward(self, x):
            x = self.first(x)
            x.register_hook(lambda gradient: gradient * 2)
            return self.second(x)

    with pytest.raises(ArithmeticError, match=r"at second .* do not add up"):
        skip_decomposition(Doubling(), rows([1.0]), labels(0), total)


# Paths


def test_every_path_of_a_linear_net():
    """The path through the branches of a set S brings prod_{k in S} w_k; those of a length together their sum."""
    result = path_gradients(scaling_net(), rows([1.0]), labels(0), total)
    assert result.exact
    carried = []
    for found in result.lengths:
        single = [abs(math.prod(chosen)) for chosen in itertools.combinations(WEIGHTS, found.length)]
        together = abs(sum(math.prod(chosen) for chosen in itertools.combinations(WEIGHTS, found.length)))
        assert found.paths == found.measured == len(single)
        assert found.mean_norm == pytest.approx(np.mean(single))
        assert found.sum_norm == pytest.approx(together)
        carried.append(sum(single))
    assert [found.share for found in result.lengths] == pytest.approx(np.array(carried) / sum(carried))
    assert result.whole_norm == pytest.approx(abs(math.prod(1 + w for w in WEIGHTS)))


def test_sampled_paths_of_equal_blocks():
    """With equal weights w every path of length k brings w^k: sampling must find exactly that, binomial shares."""
    count, w = 12, 0.5
    result = path_gradients(scaling_net((w,) * count), rows([1.0]), labels(0), total, samples=3)
    assert not result.exact
    assert [found.measured for found in result.lengths] == [1] + [3] * (count - 1) + [1]
    assert [found.mean_norm for found in result.lengths] == pytest.approx([w**k for k in range(count + 1)])
    binomial = [math.comb(count, k) * w**k / (1 + w) ** count for k in range(count + 1)]
    assert [found.share for found in result.lengths] == pytest.approx(binomial)
    assert result.median_length == 4  # of a binomial distribution with n = 12 and p = 1/3


def test_sampling_agrees_with_all_paths_in_a_real_net():
    net = CifarResNet(8).double()
    x, y = minires.randn(2, 3, 8, 8, dtype=minires.float64), labels(0, 1)
    exact = path_gradients(net, x, y)
    sampled = path_gradients(net, x, y, samples=1000, exact_up_to=0)  # more than there are: all of them
    assert exact.exact
    assert not sampled.exact
    for a, b in zip(exact.lengths, sampled.lengths, strict=True):
        assert (a.paths, a.measured) == (b.paths, b.measured)
        assert a.mean_norm == pytest.approx(b.mean_norm)


def test_paths_of_blocks_that_do_not_follow_one_another():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.bridge = Scaling(0.5), Scaling(2.0)

        def forward(self, x):
            return self.bridge(self.block(x)) + 0.1 * x

    with pytest.raises(StudyError, match="with no way around them"):
        path_gradients(Around(), rows([1.0]), labels(0), total)


def test_sums_without_modules_have_paths_too():
    assert path_gradients(Bare(), minires.randn(2, 3), labels(0, 1)).blocks == 2


def test_a_figure_of_gradients_that_vanish():
    """With a classifier of zeros nothing arrives at any block, and a logarithmic axis would have nothing to show."""
    net = CifarResNet(8)
    nn.init.zeros_(net.fc.weight)
    result = skip_decomposition(net, minires.randn(2, 3, 8, 8), labels(0, 1))
    assert all(block.whole_norm == 0 for block in result.blocks)
    assert "<svg" in svg(draw_skip_decomposition({"dead": result}))


def test_figures():
    net, x, y = CifarResNet(8), minires.randn(2, 3, 8, 8), labels(0, 1)
    for instrument, draw in [
        (gradient_flow, draw_gradient_flow),
        (skip_decomposition, draw_skip_decomposition),
        (path_gradients, draw_path_gradients),
    ]:
        result = instrument(net, x, y)
        text = svg(draw({"residual": result}))
        assert text == svg(draw({"residual": result}))
        assert "<svg" in text
        assert len(result.rows()) > 2
    with pytest.raises(StudyError, match="nothing to draw"):
        draw_gradient_flow({})
