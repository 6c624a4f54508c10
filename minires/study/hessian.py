"""The Hessian of the loss by the parameters: bounds of its outermost eigenvalues, and its spectral density.

    H v = d/dp (g(p) . v)        g = dL/dp

one gradient of a gradient for each product (Pearlmutter 1994), and `minires.study.lanczos` on top of it (Ghorbani,
Krishnan and Xiao 2019; Yao et al. 2020, "PyHessian"). Yao et al. find that taking skip connections away makes the
spectrum of a deep net far wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Tensor, enable_grad, grad
from minires.device import module_for
from minires.nn import Module, Parameter
from minires.nn import functional as F
from minires.study.errors import StudyError
from minires.study.figure import check_results, legend_above, line_style, new_figure
from minires.study.lanczos import Spectrum, Vector, lanczos
from minires.study.trace import LossFunction, scalar_loss, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class HessianSpectrum:
    """What Lanczos runs found of a Hessian.

    Attributes
    ----------
    spectrum : Ritz values with their weights, which stand for regions; the outermost ones come near the outermost
        eigenvalues first, from inside
    loss, gradient_norm : at the parameters
    """

    spectrum: Spectrum
    loss: float
    gradient_norm: float

    @property
    def largest(self) -> float:
        """The largest Ritz value, which the largest eigenvalue is not below."""
        return float(self.spectrum.values[-1])

    @property
    def smallest(self) -> float:
        """The smallest Ritz value, which the smallest eigenvalue is not above; negative at a saddle."""
        return float(self.spectrum.values[0])

    @property
    def trace(self) -> float:
        """The estimated sum of all eigenvalues."""
        return float(self.spectrum.weights @ self.spectrum.values) * self.spectrum.dimension

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a Ritz value, the largest first."""
        return [
            {"Ritz value": float(value), "weight": float(weight)}
            for value, weight in zip(self.spectrum.values[::-1], self.spectrum.weights[::-1], strict=True)
        ]


def hessian_spectrum(
    model: Module,
    images: Tensor,
    labels: Tensor,
    loss_fn: LossFunction = F.cross_entropy,
    steps: int = 30,
    runs: int = 1,
    seed: int = 0,
) -> HessianSpectrum:
    """Return the spectrum of the Hessian of the batch's loss by all parameters that require a gradient.

    The model runs in the mode it is in: in training mode, batch norm's statistics depend on the parameters too. Where a
    ReLU bends, the second derivative is that of the piece on which the parameters lie.

    Parameters
    ----------
    steps : Hessian-vector products in each run; for the largest eigenvalue some 20 are mostly enough
    runs : random first vectors; more make the density surer

    Raises
    ------
    StudyError
        If no parameter requires a gradient, or the loss is not a finite number.
    """
    if steps < 1 or runs < 1:
        raise StudyError(f"steps and runs must be at least 1, got {steps} and {runs}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise StudyError("no parameter of this model requires a gradient: there is nothing to take a Hessian by")
    with untouched(model), enable_grad():
        loss = scalar_loss(model, images, labels, loss_fn)
        gradients: Any = grad(loss, parameters, create_graph=True, materialize_grads=True)  # none of them None

        def apply(vector: Vector) -> Vector:
            directions = _as_tensors(vector, parameters)
            products = grad(gradients, parameters, directions, retain_graph=True, materialize_grads=True)
            return _as_vector(products)

        dimension = sum(parameter.numel() for parameter in parameters)
        if not np.isfinite(apply(np.zeros(dimension))).all():
            raise StudyError("the second derivatives of this model are not finite")
        spectrum = lanczos(apply, dimension, steps, runs, seed)
    return HessianSpectrum(spectrum, loss.item(), float(np.linalg.norm(_as_vector(gradients))))


def _as_tensors(vector: Vector, parameters: list[Parameter]) -> list[Tensor]:
    """Cut a flat vector into Tensors of the parameters' shapes, dtypes and devices."""
    ends = np.cumsum([parameter.numel() for parameter in parameters])
    return [
        Tensor(module_for(p.device).asarray(vector[end - p.numel() : end].reshape(p.shape).astype(p.dtype)))
        for p, end in zip(parameters, ends, strict=True)
    ]


def _as_vector(tensors: Any) -> Vector:
    return np.concatenate([tensor.detach().cpu().numpy().astype(np.float64).ravel() for tensor in tensors])


def draw_hessian_spectrum(results: Mapping[str, HessianSpectrum]) -> Figure:
    """Draw the spectral densities over one axis, logarithmic: most eigenvalues of a net are nearly zero."""
    check_results(results)
    low = min(result.smallest for result in results.values())
    high = max(result.largest for result in results.values())
    width = max(high - low, 1e-12) / 100
    grid = np.linspace(low - 4 * width, high + 4 * width, 800)
    figure, (axes,) = new_figure(height=3.4)
    peak = 0.0
    for index, (label, result) in enumerate(results.items()):
        colour, density = line_style(index)["color"], result.spectrum.density(grid, width)
        axes.plot(grid, density, color=colour, label=label)
        axes.axvline(result.largest, color=colour, linewidth=1, linestyle=":")
        peak = max(peak, density.max())
    axes.set(yscale="log", ylim=(peak * 1e-8, peak * 3), xlabel="eigenvalue", ylabel="density")
    legend_above(figure, axes)
    return figure
