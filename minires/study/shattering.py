"""Shattered gradients: how alike the input gradients at neighbouring inputs are.

Balduzzi et al. 2017, "The Shattered Gradients Problem: If resnets are the answer, then what is the question?": in plain
rectifier nets the correlation between gradients at neighbouring inputs halves with each layer, until they are as if
drawn independently; in residual nets it falls far more slowly (with batch norm like 1/sqrt(depth)).

Along a line of inputs x_1 ... x_n at equal distances, with c_i = df/dx(x_i) less the mean over the line,

    autocorrelation(lag) = sum_i c_i . c_{i + lag} / sum_i c_i . c_i

It tells over which distance the gradient's deviations from its mean stay alike: not its direction, of which the mean is
a part. What happens between two neighbouring inputs it does not see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minires.autograd import Tensor, enable_grad, grad
from minires.autograd.creation import linspace, tensor
from minires.device import manual_seed
from minires.nn import BatchNorm1d, Identity, Linear, Module, ModuleList, init
from minires.nn import functional as F
from minires.study.errors import StudyError
from minires.study.figure import check_results, legend_above, line_style, new_figure
from minires.study.trace import check_batch, check_output, trace, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Autocorrelation:
    """The autocorrelation of input gradients along a line, by lag: ``values[0]`` is 1.

    ``spacing`` is the distance of neighbouring inputs as a share of the line.
    """

    values: NDArray[np.float64]
    spacing: float

    @property
    def length(self) -> float:
        """The share of the line after which the autocorrelation has fallen below 1/2, by linear interpolation.

        Infinite if it does not fall that far.
        """
        below = np.flatnonzero(self.values < 0.5)
        if not below.size:
            return math.inf
        after = int(below[0])
        high, low = self.values[after - 1], self.values[after]
        return (after - 1 + (high - 0.5) / (high - low)) * self.spacing

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a lag."""
        return [
            {"lag": lag, "share of the line": lag * self.spacing, "autocorrelation": float(value)}
            for lag, value in enumerate(self.values)
        ]


def gradient_autocorrelation(
    model: Module, start: Tensor, end: Tensor, points: int = 128, max_lag: int | None = None, output: int = 0
) -> Autocorrelation:
    """Return the autocorrelation of the gradients of one output along the line from one input to another.

    The points form one batch: in training mode batch norm uses their statistics, as the paper does at initialisation.

    Parameters
    ----------
    start, end : Tensors of one input each, without the batch axis
    points : inputs on the line, both ends included
    max_lag : the largest lag; half of the points unless given
    output : which output of the model to differentiate, where it has several

    Raises
    ------
    StudyError
        If the shapes differ, there are fewer than three points, a gradient is not finite, or the gradient does not
        vary along the line at all (a linear model): then nothing can be correlated.
    """
    check_batch(start)
    check_batch(end)
    if start.shape != end.shape or start.ndim == 0:
        raise StudyError(f"the ends of the line must be two inputs of one shape, got {start.shape} and {end.shape}")
    max_lag = points // 2 if max_lag is None else max_lag
    if points < 3 or not 1 <= max_lag < points:
        raise StudyError(f"needs three points or more and a lag below their number, got {points} and {max_lag}")
    share = linspace(0, 1, points, dtype=start.dtype, device=start.device).reshape(points, *[1] * start.ndim)
    x = (start + share * (end - start)).detach().requires_grad_()
    with untouched(model), enable_grad():
        values = model(x)
        check_output(values)
        chosen = values if values.ndim == 1 else values.flatten(1)[:, output]
        if not chosen.requires_grad:
            raise StudyError("the output does not depend on the input: is it detached?")
        (gradient,) = grad(chosen.sum(), x, materialize_grads=True)
    assert gradient is not None  # materialised
    gradients = gradient.cpu().numpy().astype(np.float64).reshape(points, -1)
    if not np.isfinite(gradients).all():
        trace(model, x)  # names the operation that made the first NaN
        raise StudyError("gradients on this line are not finite, though the model's outputs are")
    return Autocorrelation(autocorrelation(gradients, max_lag), 1 / (points - 1))


def autocorrelation(series: NDArray[np.float64], max_lag: int) -> NDArray[np.float64]:
    """Return the autocorrelation of a series of vectors (n, features) at the lags 0 to ``max_lag``.

    Raises
    ------
    StudyError
        If the series is constant.
    """
    centred = series - series.mean(0)
    power = (centred * centred).sum()
    if power <= (len(series) * np.finfo(np.float32).eps) ** 2 * (series * series).sum():
        raise StudyError("the gradient is the same all along the line: there is nothing to correlate")
    lags = [(centred[: len(series) - lag] * centred[lag:]).sum() / power for lag in range(max_lag + 1)]
    return np.array(lags)


class RectifierNet(Module):
    """The fully connected nets of Balduzzi et al. 2017, section 2: one number in, one number out.

    h_0 = W_0 x + b_0, then ``depth`` layers h' = F(h), or h' = h + beta * F(h) with ``residual``, where F(h) =
    W relu(bn(h)). Weights are drawn from N(0, 2 / fan_in), b_0 from N(0, 1); other biases would break the balance of
    variances that this keeps.
    """

    def __init__(self, depth: int, width: int = 200, residual: bool = True, batch_norm: bool = True, beta: float = 0.1):
        super().__init__()
        self.residual = residual
        self.beta = beta
        self.enter = Linear(1, width)
        self.norms = ModuleList(BatchNorm1d(width) if batch_norm else Identity() for _ in range(depth))
        self.layers = ModuleList(Linear(width, width, bias=False) for _ in range(depth))
        self.leave = Linear(width, 1, bias=False)
        init.normal_(self.enter.bias)
        for layer in (self.enter, *self.layers, self.leave):
            init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1) -> (N, 1)."""
        h = self.enter(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            branch = layer(F.relu(norm(h)))
            h = h + self.beta * branch if self.residual else branch
        return self.leave(h)


RECTIFIER_NETS: dict[str, dict[str, Any]] = {
    "residual, batch norm": {"residual": True, "batch_norm": True},
    "plain, batch norm": {"residual": False, "batch_norm": True},
    "plain": {"residual": False, "batch_norm": False},
}


@dataclass(frozen=True)
class ShatteringByDepth:
    """Autocorrelations of fresh nets of several depths, each a mean over seeds."""

    net: str
    depths: tuple[int, ...]
    autocorrelations: tuple[Autocorrelation, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a depth and lag."""
        return [
            {"depth": depth, **row}
            for depth, found in zip(self.depths, self.autocorrelations, strict=True)
            for row in found.rows()
        ]


def shattering_by_depth(
    net: str, depths: Sequence[int] = (2, 4, 10, 24, 50), width: int = 100, points: int = 256, seeds: int = 8
) -> ShatteringByDepth:
    """Return the autocorrelations of fresh `RectifierNet` of several depths on inputs from -2 to 2.

    Parameters
    ----------
    net : one of ``RECTIFIER_NETS``
    seeds : how many nets to average over for each depth

    Raises
    ------
    StudyError
        If there is no such net.
    """
    if net not in RECTIFIER_NETS:
        raise StudyError(f"there is no net {net!r}: choose from {', '.join(RECTIFIER_NETS)}")
    low, high = tensor([-2.0]), tensor([2.0])
    found = []
    for depth in depths:
        curves = []
        for seed in range(seeds):
            manual_seed(seed)
            curves.append(
                gradient_autocorrelation(RectifierNet(depth, width, **RECTIFIER_NETS[net]), low, high, points)
            )
        found.append(Autocorrelation(np.mean([curve.values for curve in curves], axis=0), curves[0].spacing))
    return ShatteringByDepth(net, tuple(depths), tuple(found))


def draw_autocorrelation(results: Mapping[str, Autocorrelation]) -> Figure:
    """Draw autocorrelations by lag."""
    check_results(results)
    figure, (axes,) = new_figure(height=3.2)
    for index, (label, result) in enumerate(results.items()):
        shares = np.arange(len(result.values)) * result.spacing
        axes.plot(shares, result.values, color=line_style(index)["color"], label=label)
    axes.axhline(0, color="0.6", linewidth=1)
    axes.set(xlabel="lag, share of the line", ylabel="autocorrelation")
    legend_above(figure, axes)
    return figure


def draw_shattering_by_depth(results: Mapping[str, ShatteringByDepth]) -> Figure:
    """Draw the autocorrelation length of each kind of net by depth."""
    check_results(results)
    figure, (axes,) = new_figure(height=3.2)
    for index, (label, result) in enumerate(results.items()):
        # One that does not fall below 1/2 is left out, and one that falls within a step drawn at the step.
        lengths = [max(f.length, f.spacing) if math.isfinite(f.length) else math.nan for f in result.autocorrelations]
        axes.plot(result.depths, lengths, label=label, **line_style(index))
    axes.set(xscale="log", yscale="log", xlabel="depth", ylabel="lag where it falls below 1/2\n(share of the line)")
    step = max(found.spacing for result in results.values() for found in result.autocorrelations)
    axes.axhline(step, color="0.4", linewidth=1, linestyle=":", label="one step: nothing shorter can be seen")
    ticks = max((result.depths for result in results.values()), key=len)
    axes.set_xticks(ticks, [str(depth) for depth in ticks])
    axes.minorticks_off()
    legend_above(figure, axes)
    return figure
