"""The loss landscape around a net's parameters, along one or two random directions.

Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4: the loss at theta + a d (or theta + a d +
b e) over a grid of a (and b), where each random direction is *filter-normalised*: each filter d_i is scaled to the norm
of the filter theta_i, because a rectifier net is the same function after a filter was scaled up and the next scaled
down. Parameters of one axis (biases, batch norm's weights) stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minires.autograd import Tensor, no_grad
from minires.device import module_for
from minires.nn import Module, Parameter
from minires.nn import functional as F
from minires.study.errors import StudyError
from minires.study.figure import check_results, legend_above, line_style, new_figure
from minires.study.trace import LossFunction, check_batch, scalar_loss, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Landscape:
    """The loss over a grid.

    Attributes
    ----------
    steps : float64 array (points,), positions along each direction: at 1, a filter has moved by its own norm
    losses : float64 array (points,) or (points, points); may be infinite where the net overflows
    """

    steps: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def centre(self) -> float:
        """The loss at the parameters themselves."""
        middle = len(self.steps) // 2
        return float(self.losses[(middle,) * self.losses.ndim])

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a point."""
        names = ("step", "second step")[: self.losses.ndim]
        return [
            {**{name: float(self.steps[i]) for name, i in zip(names, index, strict=True)}, "loss": float(loss)}
            for index, loss in np.ndenumerate(self.losses)
        ]


def loss_landscape(
    model: Module,
    images: Tensor,
    labels: Tensor,
    loss_fn: LossFunction = F.cross_entropy,
    axes: int = 1,
    reach: float = 1.0,
    points: int = 21,
    seed: int = 0,
) -> Landscape:
    """Return the loss of a batch around the model's parameters, in eval mode. The model is left as it was.

    Parameters
    ----------
    axes : 1 or 2 random directions
    reach : how far to go to either side
    points : along each direction, an odd number, so that the middle one is the model itself
    seed : of the directions: the same for nets of equal shapes

    Raises
    ------
    StudyError
        If an option is out of range, the model has no weights of two axes or more, or its own loss is not finite.
    """
    if axes not in (1, 2) or points < 3 or points % 2 == 0 or not reach > 0:
        raise StudyError(
            "a landscape has 1 or 2 axes, an odd number of points from 3 on and a positive reach, "
            f"got {axes}, {points} and {reach}"
        )
    check_batch(images, labels)
    weights = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    if not weights:
        raise StudyError("this model has no weights of two axes or more: there is nowhere to go")
    rng = np.random.default_rng(seed)
    directions = [[filter_normalised(weight, rng) for weight in weights] for _ in range(axes)]
    start = [weight.detach().clone() for weight in weights]
    steps = np.linspace(-reach, reach, points)
    losses = np.empty((points,) * axes)
    with untouched(model, training=False), no_grad():
        scalar_loss(model, images, labels, loss_fn)  # not finite: an error that says where
        try:
            for index in np.ndindex(*losses.shape):
                for place, (weight, origin) in enumerate(zip(weights, start, strict=True)):
                    moved = origin
                    for i, direction in zip(index, directions, strict=True):
                        moved = moved + float(steps[i]) * direction[place]
                    weight.copy_(moved)
                losses[index] = loss_fn(model(images), labels).item()
        finally:
            for weight, origin in zip(weights, start, strict=True):
                weight.copy_(origin)
    return Landscape(steps, losses)


def filter_normalised(weight: Parameter, rng: np.random.Generator) -> Tensor:
    """Return a random direction for a weight, each filter (along axis 0) scaled to the norm of the weight's own."""
    values = weight.detach().cpu().numpy().astype(np.float64).reshape(weight.shape[0], -1)
    direction = rng.standard_normal(values.shape)
    norms = np.linalg.norm(direction, axis=1, keepdims=True)
    direction *= np.linalg.norm(values, axis=1, keepdims=True) / np.where(norms > 0, norms, 1)
    return Tensor(module_for(weight.device).asarray(direction.reshape(weight.shape).astype(weight.dtype)))


def draw_landscape(results: Mapping[str, Landscape]) -> Figure:
    """Draw curves of one figure for one direction, contours of one panel each for two."""
    check_results(results)
    if {result.losses.ndim for result in results.values()} == {1}:
        figure, (axes,) = new_figure(height=3.2)
        for index, (label, result) in enumerate(results.items()):
            axes.plot(result.steps, _finite(result.losses), label=label, **line_style(index))
        axes.set(xlabel="step along a random direction", ylabel="loss", yscale="log")
        legend_above(figure, axes)
        return figure
    if any(result.losses.ndim != 2 for result in results.values()):
        raise StudyError("landscapes of one and of two axes do not go into one figure: draw them apart")
    figure, panels = new_figure(len(results), height=4.4)
    figure.set_layout_engine("compressed")  # for axes of equal aspect: else labels are cut off
    logs = [np.log10(np.maximum(_finite(result.losses), 1e-12)) for result in results.values()]
    from matplotlib.ticker import MaxNLocator

    # Levels of all panels together, so that a colour is the same loss in each.
    levels = MaxNLocator(16).tick_values(min(values.min() for values in logs), max(values.max() for values in logs))
    for axes, values, (label, result) in zip(panels, logs, results.items(), strict=True):
        drawn = axes.contourf(result.steps, result.steps, values.T, levels, cmap="viridis")
        axes.plot(0, 0, "r+", markersize=10)
        axes.set(title=label, xlabel="step along one direction", ylabel="step along another", aspect="equal")
    figure.colorbar(drawn, ax=panels, label="log10 of the loss")
    return figure


def _finite(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Show what overflowed as the largest finite loss."""
    finite = np.isfinite(losses)
    return np.where(finite, losses, losses[finite].max(initial=1.0))
