"""Lanczos, Hessians, Jacobians, landscapes and shattering, against spectra and functions known on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from study_nets import LinearBlock, labels, matrix_layer, rows

import minires
from minires import nn
from minires.models import BasicBlock, CifarResNet
from minires.models.shortcuts import make_shortcut
from minires.nn import functional as F
from minires.study import (
    RectifierNet,
    StudyError,
    block_jacobians,
    draw_autocorrelation,
    draw_block_jacobians,
    draw_hessian_spectrum,
    draw_landscape,
    draw_shattering_by_depth,
    gradient_autocorrelation,
    hessian_spectrum,
    loss_landscape,
    shattering_by_depth,
)
from minires.study.figure import svg
from minires.study.lanczos import lanczos
from minires.study.landscape import Landscape, filter_normalised
from minires.study.shattering import Autocorrelation, ShatteringByDepth, autocorrelation


def symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))
    return q @ np.diag(eigenvalues) @ q.T


# Lanczos


def test_lanczos_finds_every_eigenvalue_in_as_many_steps_as_dimensions():
    eigenvalues = [-3.0, -0.5, 0.0, 1.0, 2.0, 7.0]
    matrix = symmetric(eigenvalues)
    spectrum = lanczos(lambda v: matrix @ v, 6, steps=6)
    assert spectrum.values == pytest.approx(eigenvalues, abs=1e-10)
    assert spectrum.weights.sum() == pytest.approx(1)


def test_lanczos_finds_the_outermost_eigenvalues_first():
    eigenvalues = np.concatenate([np.linspace(-1, 1, 300), [5.0, 10.0]])
    matrix = symmetric(eigenvalues)
    spectrum = lanczos(lambda v: matrix @ v, 302, steps=25)
    assert spectrum.values[-2:] == pytest.approx([5, 10], rel=1e-6)


def test_lanczos_stops_where_it_has_seen_everything():
    spectrum = lanczos(lambda v: 2 * v, 50, steps=20)
    assert spectrum.values == pytest.approx([2])
    assert spectrum.complete
    assert not lanczos(lambda v: np.arange(50) * v, 50, steps=20).complete
    assert lanczos(lambda v: 0 * v, 50, steps=20).values == pytest.approx([0])


def test_the_density_of_two_levels():
    """A quarter of the eigenvalues at 0, the rest at 4: areas of 1/4 and 3/4, in expectation over start vectors."""
    diagonal = np.repeat([0.0, 4.0], [250, 750])
    spectrum = lanczos(lambda v: diagonal * v, 1000, steps=10, runs=40)
    grid = np.linspace(-2, 6, 4001)
    density = spectrum.density(grid, 0.1)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-6)
    assert density[grid < 2].sum() * step == pytest.approx(0.25, abs=0.02)


# Hessian


def test_hessian_of_least_squares():
    """L = mean (x_i . w - y_i)^2 over x = diag(1, 2, 3): H = 2/3 diag(1, 4, 9), whatever w and y are."""
    result = hessian_spectrum(
        nn.Sequential(matrix_layer([[0.3, -1.0, 2.0]])),
        minires.tensor(np.diag([1.0, 2.0, 3.0])),
        rows([1.0], [0.0], [-1.0]),
        F.mse_loss,
    )
    assert result.spectrum.values == pytest.approx([2 / 3, 8 / 3, 6])
    assert (result.smallest, result.largest) == pytest.approx((2 / 3, 6))
    assert "<svg" in svg(draw_hessian_spectrum({"least squares": result}))
    gradient = 2 / 3 * np.array([1, 2, 3]) * (np.array([0.3, -2.0, 6.0]) - [1, 0, -1])
    assert result.gradient_norm == pytest.approx(np.linalg.norm(gradient))


def test_the_trace_of_a_multiple_of_the_identity():
    """L = mean over 4 samples of w^2 for a 1 x 5 weight on 5 unit vectors: H = 2/5 I, trace 2."""
    result = hessian_spectrum(
        matrix_layer([[1.0, 2.0, 3.0, 4.0, 5.0]]),
        minires.eye(5, dtype=minires.float64),
        minires.zeros(5, 1, dtype=minires.float64),
        F.mse_loss,
    )
    assert result.spectrum.values == pytest.approx([0.4])
    assert result.trace == pytest.approx(2)


def test_hessian_of_a_small_conv_net_against_differences_of_gradients():
    """The whole matrix by central differences of first gradients, and its eigenvalues by NumPy."""
    minires.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    x, y = minires.randn(6, 1, 4, 4, dtype=minires.float64), labels(0, 1, 0, 1, 1, 0)
    parameters = list(net.parameters())

    def gradient(shift):
        start = 0
        for parameter, origin in zip(parameters, origins, strict=True):
            step = shift[start : start + parameter.numel()].reshape(parameter.shape)
            parameter.data.copy_(minires.tensor(origin + step))
            start += parameter.numel()
        found = minires.autograd.grad(F.cross_entropy(net(x), y), parameters)
        return np.concatenate([g.numpy().ravel() for g in found])

    origins = [parameter.detach().numpy().copy() for parameter in parameters]
    size = sum(parameter.numel() for parameter in parameters)
    h = 1e-5
    matrix = np.stack([(gradient(h * e) - gradient(-h * e)) / (2 * h) for e in np.eye(size)])
    gradient(np.zeros(size))
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    result = hessian_spectrum(net, x, y, steps=size)
    assert (result.smallest, result.largest) == pytest.approx((eigenvalues[0], eigenvalues[-1]), rel=1e-4)


def test_a_frozen_model_has_no_hessian():
    with pytest.raises(StudyError, match="no parameter of this model requires a gradient"):
        hessian_spectrum(CifarResNet(8).requires_grad_(False), minires.randn(1, 3, 8, 8), labels(0))


def test_a_loss_of_several_numbers():
    with pytest.raises(StudyError, match="must be one number"):
        hessian_spectrum(matrix_layer([[1.0]]), rows([1.0], [2.0]), labels(0, 0), lambda output, labels: output)


# Jacobians


@pytest.mark.parametrize("exact_up_to", [128, 0], ids=["written down", "by Lanczos"])
def test_singular_values_of_a_linear_block(exact_up_to):
    weight = np.random.default_rng(0).standard_normal((5, 5))
    net = LinearBlock(weight)
    (block,) = block_jacobians(net, rows([1.0, 2.0, 3.0, 4.0, 5.0]), exact_up_to=exact_up_to).blocks
    for found, matrix in ((block.whole, np.eye(5) + weight), (block.branch, weight)):
        assert found.exact is bool(exact_up_to)
        assert found.values == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[::-1], rel=1e-6)


def test_an_identity_block():
    """With F = 0 the block's Jacobian is I, and the branch's 0."""
    for exact_up_to in (128, 0):
        (block,) = block_jacobians(
            LinearBlock(np.zeros((4, 4))), rows([1.0, 2.0, 3.0, 4.0]), exact_up_to=exact_up_to
        ).blocks
        assert block.whole.values == pytest.approx(1)
        assert block.branch.values == pytest.approx(0)
        assert [block.whole.quantile(share) for share in (0.1, 0.5, 1.0)] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("stride", [1, 2])
def test_lanczos_agrees_with_the_whole_jacobian_of_a_conv_block(stride):
    minires.manual_seed(0)
    shortcut = make_shortcut("A", 3, 4, stride)
    net = nn.Sequential(BasicBlock(3, 4, stride, shortcut)).double()
    x = minires.randn(2, 3, 4, 4, dtype=minires.float64)
    exact, found = block_jacobians(net, x), block_jacobians(net, x, exact_up_to=0, steps=64)
    for part in ("whole", "branch"):
        a, b = (getattr(result.blocks[0], part) for result in (exact, found))
        assert (a.exact, b.exact) == (True, False)
        assert len(a.values) == min(3 * 16, 4 * 16 // stride**2)
        assert b.values[-1] == pytest.approx(a.values[-1], rel=1e-6)
        distances = np.abs(a.values[:, None] - b.values)
        assert distances.min(0).max() < 1e-6  # what Lanczos finds is a singular value,
        assert distances.min(1).max() < 1e-6  # and it finds each, equal ones once
    assert "<svg" in svg(draw_block_jacobians({"net": exact}))


class RectifierBlock(nn.Module):
    """y = x + V relu(W x): the branch's Jacobian is V D W, with D = 1 where W x > 0 and 0 elsewhere."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = matrix_layer(first), matrix_layer(second)

    def forward(self, x):
        return x + self.second(F.relu(self.first(x)))


def rectifier_block(size, dtype, seed=0):
    """A block, an input, and the exact Jacobian of the branch there."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, size, size)) / math.sqrt(size)
    x = rng.standard_normal((1, size))
    jacobian = second @ np.diag((first @ x[0] > 0).astype(float)) @ first
    return RectifierBlock(first, second).to(dtype), minires.tensor(x).to(dtype), jacobian


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("svd_up_to", [1024, 0], ids=["svd", "eigenvalues"])
def test_closed_rectifiers_are_zero_singular_values(dtype, svd_up_to, monkeypatch):
    """About half of a branch's singular values are zero, so that Ritz values tell nothing about the median."""
    monkeypatch.setattr("minires.study.jacobian.SVD_UP_TO", svd_up_to)
    size = 200
    net, x, expected = rectifier_block(size, getattr(minires, dtype))
    rank = np.linalg.matrix_rank(expected)
    assert 0.4 * size < rank < 0.6 * size
    (block,) = block_jacobians(net, x).blocks
    assert block.branch.exact
    assert block.branch.zero_share == pytest.approx(1 - rank / size, abs=1e-12)
    assert block.whole.zero_share == 0
    for found, matrix in ((block.whole, np.eye(size) + expected), (block.branch, expected)):
        values = np.linalg.svd(matrix, compute_uv=False)[::-1]
        assert found.values == pytest.approx(values, abs=3e-6)
        assert found.quantile(0.5) == pytest.approx(values[size // 2 - 1], abs=3e-6)
    whole, branch = block_jacobians(net, x).rows()
    assert branch["zero"] == block.branch.zero_share
    assert branch["largest"] == pytest.approx(np.linalg.norm(expected, 2), rel=1e-5)
    assert "largest, at least" not in whole


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_zero_is_told_from_small_in_16_bits(dtype):
    """Branches of F(x) = W relu(x) have as many zeros as x has negative numbers; none is added by the shortcut."""
    x = np.where(np.arange(64) % 4, 1.0, -1.0)[None]
    net = RectifierBlock(np.eye(64), np.diag(np.linspace(0.25, 1, 64))).to(getattr(minires, dtype))
    (block,) = block_jacobians(net, minires.tensor(x).to(getattr(minires, dtype))).blocks
    assert (block.branch.zero_share, block.whole.zero_share) == (0.25, 0)


def test_bounds_are_named_as_bounds():
    """Where Lanczos stops early, no quantile and no exact value is given, and the bounds are bounds."""
    net, x, expected = rectifier_block(200, minires.float64)
    result = block_jacobians(net, x, exact_up_to=0, steps=8)
    (block,) = result.blocks
    for row, found, matrix in zip(
        result.rows(), (block.whole, block.branch), (np.eye(200) + expected, expected), strict=True
    ):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert not found.exact
        assert math.isnan(found.quantile(0.5))
        assert math.isnan(found.zero_share)
        assert {row[name] for name in ("zero", "smallest", "10 % quantile", "median", "90 % quantile", "largest")} == {
            None
        }
        assert 0.9 * values[0] < row["largest, at least"] <= values[0] * (1 + 1e-12)
        assert row["smallest, at most"] >= values[-1]
    assert "<svg" in svg(draw_block_jacobians({"net": result}))


def test_one_step_of_lanczos_is_not_the_whole_spectrum():
    (block,) = block_jacobians(LinearBlock(np.diag([1.0, 2.0])), rows([1.0, 2.0]), exact_up_to=0, steps=1).blocks
    assert not block.branch.exact
    assert math.isnan(block.branch.quantile(0.5))


def test_images_that_depend_on_each_other_do_not_mix():
    """A layer that adds the mean over the batch: with one image, J = I + 2 W, also where rows are found in batches."""

    class Mixed(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.layer = matrix_layer(weight)

        def forward(self, x):
            branch = self.layer(x)
            return x + (branch + branch.mean(0, keepdim=True))

    weight = np.random.default_rng(0).standard_normal((5, 5))
    (block,) = block_jacobians(Mixed(weight), rows([1.0, 2.0, 3.0, 4.0, 5.0])).blocks
    assert block.branch.values == pytest.approx(2 * np.linalg.svd(weight, compute_uv=False)[::-1])
    assert block.whole.values == pytest.approx(np.linalg.svd(np.eye(5) + 2 * weight, compute_uv=False)[::-1])


def test_a_block_that_is_not_there():
    with pytest.raises(StudyError, match=r"no residual block 'layer9': this model has layer1\.0, layer2\.0"):
        block_jacobians(CifarResNet(8), minires.randn(1, 3, 8, 8), ["layer9"])


# Landscapes


def test_a_parabola():
    """L = |w|^2 / 2 over x = I, along a direction of w's own norm: L(a) + L(-a) = |w|^2 (1 + a^2)."""
    net = matrix_layer([[3.0, 4.0]])
    x, y = minires.eye(2, dtype=minires.float64), minires.zeros(2, 1, dtype=minires.float64)
    result = loss_landscape(net, x, y, F.mse_loss, points=5, reach=2.0)
    assert result.steps == pytest.approx([-2, -1, 0, 1, 2])
    assert result.centre == pytest.approx(12.5)
    assert result.losses + result.losses[::-1] == pytest.approx(25 * (1 + result.steps**2))
    assert net.weight.detach().numpy().tolist() == [[3, 4]]


def test_a_parabola_over_two_directions():
    """The four signs of a d + b e cancel all that is linear: L's sum over them is 2 |w|^2 (1 + a^2 + b^2)."""
    net = matrix_layer([[3.0, 4.0]])
    x, y = minires.eye(2, dtype=minires.float64), minires.zeros(2, 1, dtype=minires.float64)
    result = loss_landscape(net, x, y, F.mse_loss, axes=2, points=5)
    losses = result.losses
    together = losses + losses[::-1] + losses[:, ::-1] + losses[::-1, ::-1]
    assert together == pytest.approx(50 * (1 + result.steps[:, None] ** 2 + result.steps**2))
    assert result.centre == pytest.approx(12.5)


def test_two_directions_meet_the_first_in_the_middle():
    net = CifarResNet(8)
    x, y = minires.randn(4, 3, 8, 8), labels(0, 1, 2, 3)
    line = loss_landscape(net, x, y, points=3)
    plane = loss_landscape(net, x, y, axes=2, points=3)
    assert plane.losses.shape == (3, 3)
    assert plane.losses[:, 1] == pytest.approx(line.losses)
    with minires.no_grad():
        assert plane.centre == pytest.approx(F.cross_entropy(net.eval()(x), y).item())
    assert len(plane.rows()) == 9
    assert "<svg" in svg(draw_landscape({"line": line}))
    assert "<svg" in svg(draw_landscape({"plane": plane}))
    with pytest.raises(StudyError, match="draw them apart"):
        draw_landscape({"line": line, "plane": plane})


def test_planes_share_one_scale_and_no_label_is_cut_off():
    steps = np.linspace(-1, 1, 5)
    planes = {
        name: Landscape(steps, scale * (1 + steps[:, None] ** 2 + steps**2))
        for name, scale in {"flat": 1.0, "steep": 1000.0}.items()
    }
    figure = draw_landscape(planes)
    flat, steep, _ = figure.axes  # and one colour bar
    assert flat.collections[0].get_clim() == steep.collections[0].get_clim()
    figure.draw_without_rendering()
    for axes in figure.axes:
        for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
            box = label.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
    assert "<svg" in svg(draw_landscape({"level": Landscape(steps, np.ones((5, 5)))}))


def test_directions_have_the_norm_of_each_filter():
    weight = nn.Conv2d(3, 4, 3).weight
    weight.data[2] = 0
    direction = filter_normalised(weight, np.random.default_rng(0)).numpy()
    norms = np.linalg.norm(weight.detach().numpy().reshape(4, -1), axis=1)
    assert np.linalg.norm(direction.reshape(4, -1), axis=1) == pytest.approx(norms, rel=1e-5)
    assert norms[2] == 0


@pytest.mark.parametrize("options", [{"axes": 3}, {"points": 4}, {"points": 1}, {"reach": 0.0}])
def test_bad_landscapes(options):
    with pytest.raises(StudyError, match="a landscape has"):
        loss_landscape(CifarResNet(8), minires.randn(2, 3, 8, 8), labels(0, 1), **options)


def test_a_model_without_weights_has_no_landscape():
    with pytest.raises(StudyError, match="nowhere to go"):
        loss_landscape(nn.ReLU(), rows([1.0]), labels(0))


# Shattering


class Wave(nn.Module):
    """f(x) = -cos(omega x) / omega: the gradient is sin(omega x)."""

    def __init__(self, omega):
        super().__init__()
        self.omega = omega

    def forward(self, x):
        return (x * self.omega).cos() * (-1 / self.omega)


def test_a_sine_is_correlated_like_a_cosine():
    """Over whole periods, the autocorrelation of sin(omega i) at lag l is cos(omega l) (1 - l / n) for large n."""
    n, periods = 1001, 10
    low, high = minires.tensor([0.0], dtype=minires.float64), minires.tensor([1.0], dtype=minires.float64)
    result = gradient_autocorrelation(Wave(2 * math.pi * periods), low, high, points=n, max_lag=150)
    lags = np.arange(151)
    expected = np.cos(2 * math.pi * periods * lags / (n - 1)) * (1 - lags / n)
    assert result.values == pytest.approx(expected, abs=0.02)  # the sum over 2 omega i leaves 1 / (n omega)
    assert result.length == pytest.approx(1 / 6 / periods, rel=0.02)  # cos falls below 1/2 at a sixth of a period


def test_white_noise_is_not_correlated():
    series = np.random.default_rng(0).standard_normal((5000, 1))
    values = autocorrelation(series, 20)
    assert values[0] == 1
    assert np.abs(values[1:]).max() < 4 / math.sqrt(5000)


def test_the_length_is_interpolated():
    assert Autocorrelation(np.array([1.0, 0.8, 0.3]), spacing=0.1).length == pytest.approx(0.16)
    assert Autocorrelation(np.array([1.0, 0.9]), spacing=0.1).length == math.inf


def test_what_falls_within_a_step_is_drawn_at_the_step():
    """Values of 0 at the first lag give half a step by interpolation, which nobody has seen."""
    curves = [Autocorrelation(np.array(values), 0.1) for values in ([1.0, 0.9, 0.2], [1.0, 0.0, 0.0], [1.0, 0.9, 0.8])]
    assert curves[1].length == pytest.approx(0.05)
    figure = draw_shattering_by_depth({"net": ShatteringByDepth("net", (1, 2, 4), tuple(curves))})
    drawn = figure.axes[0].lines[0].get_ydata()
    assert drawn[:2] == pytest.approx([0.1 + 0.1 * 4 / 7, 0.1])
    assert math.isnan(drawn[2])


def test_a_linear_model_has_nothing_to_correlate():
    with pytest.raises(StudyError, match="the same all along the line"):
        gradient_autocorrelation(matrix_layer([[2.0, 1.0]]), rows([0.0, 0.0])[0], rows([1.0, 2.0])[0])


def test_lines_through_images():
    net = CifarResNet(8)
    result = gradient_autocorrelation(net, minires.randn(3, 8, 8), minires.randn(3, 8, 8), points=16, max_lag=4)
    assert len(result.values) == 5
    assert result.values[0] == 1
    assert "<svg" in svg(draw_autocorrelation({"net": result}))


@pytest.mark.parametrize(
    ("start", "end", "options", "message"),
    [
        ((3,), (4,), {}, "two inputs of one shape"),
        ((3,), (3,), {"points": 2}, "three points or more"),
        ((3,), (3,), {"points": 9, "max_lag": 9}, "three points or more"),
    ],
)
def test_bad_lines(start, end, options, message):
    with pytest.raises(StudyError, match=message):
        gradient_autocorrelation(nn.Linear(3, 1), minires.zeros(*start), minires.ones(*end), **options)


def test_a_line_between_integers():
    image = minires.ones(3, dtype=minires.int64)
    with pytest.raises(StudyError, match="floating-point Tensor"):
        gradient_autocorrelation(nn.Linear(3, 1), image, image)


def test_skips_keep_gradients_together():
    """Balduzzi et al. 2017, figure 1: at depth 24 the plain net's gradients are shattered, the residual net's not."""
    options = {"depths": (2, 24), "width": 50, "points": 128, "seeds": 4}
    plain, residual = (shattering_by_depth(net, **options) for net in ("plain, batch norm", "residual, batch norm"))
    shallow, deep = (found.length for found in plain.autocorrelations)
    assert deep < shallow / 4
    assert residual.autocorrelations[1].length > 4 * deep
    assert len(plain.rows()) == 2 * 65
    assert "<svg" in svg(draw_shattering_by_depth({"plain": plain, "residual": residual}))
    with pytest.raises(StudyError, match="there is no net"):
        shattering_by_depth("dense")


def test_the_layers_of_a_rectifier_net():
    """Without batch norm and with zero weights in its layers, a residual net passes its first layer through."""
    net = RectifierNet(3, width=4, batch_norm=False)
    for layer in net.layers:
        nn.init.zeros_(layer.weight)
    x = minires.randn(5, 1)
    assert np.allclose(net(x).detach().numpy(), net.leave(net.enter(x)).detach().numpy())
