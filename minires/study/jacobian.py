"""Singular values of the Jacobians of residual blocks: by how much a block stretches what passes through it.

With z = s(x) + F(x), the Jacobian of a block's sum is s' + F'. Around an identity with a small branch all singular
values lie near 1, so that a product of many such Jacobians neither explodes nor vanishes; those of F' alone spread
towards 0 (dynamical isometry: Saxe, McClelland and Ganguli 2013; for residual nets Tarnowski et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Tensor, enable_grad, grad
from minires.device import module_for
from minires.nn import Module
from minires.study.errors import StudyError
from minires.study.figure import check_results, label_ticks, legend_above, line_style, new_figure
from minires.study.lanczos import Vector, lanczos
from minires.study.skips import require_skips
from minires.study.trace import trace, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SingularValues:
    """Singular values of one Jacobian, with the share of the spectrum that each stands for.

    ``exact`` tells whether they are all of them, equal shares each; else they are square roots of Ritz values of J^T J
    or J J^T, of which the outermost are singular values.
    """

    values: Vector
    weights: Vector
    exact: bool

    def quantile(self, share: float) -> float:
        """Return the least value such that ``share`` of the singular values are not above it."""
        reached = np.cumsum(self.weights)
        return float(self.values[min(int(np.searchsorted(reached, share * reached[-1])), len(self.values) - 1)])


@dataclass(frozen=True)
class BlockJacobian:
    """One residual block: its whole Jacobian s' + F', and that of its branch alone, F'."""

    block: str
    whole: SingularValues
    branch: SingularValues


@dataclass(frozen=True)
class BlockJacobians:
    """The blocks that were looked at, in the order in which they ran."""

    blocks: tuple[BlockJacobian, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a Jacobian."""
        records = []
        for block in self.blocks:
            for part, values in (("whole", block.whole), ("branch", block.branch)):
                records.append(
                    {
                        "block": block.block,
                        "part": part,
                        "exact": values.exact,
                        "smallest": float(values.values[0]),
                        "10 % quantile": values.quantile(0.1),
                        "median": values.quantile(0.5),
                        "90 % quantile": values.quantile(0.9),
                        "largest": float(values.values[-1]),
                    }
                )
        return records


def block_jacobians(
    model: Module,
    images: Tensor,
    blocks: Sequence[str] | None = None,
    steps: int = 30,
    exact_up_to: int = 128,
    seed: int = 0,
) -> BlockJacobians:
    """Return the singular values of residual blocks at the first image of a batch, in eval mode.

    Parameters
    ----------
    blocks : names of blocks, as `minires.study.skips` finds them; all unless given
    steps : Lanczos iterations where the Jacobian is too large to be written down
    exact_up_to : write it down, and find every singular value, up to so many rows

    Raises
    ------
    StudyError
        If the model has no residual block, or none of a given name.
    """
    with untouched(model, training=False), enable_grad():
        skips = {skip.name: skip for skip in require_skips(trace(model, images[:1]))}
        unknown = [name for name in blocks or () if name not in skips]
        if unknown:
            raise StudyError(f"there is no residual block {unknown[0]!r}: this model has {', '.join(skips)}")
        found = []
        for name in skips if blocks is None else blocks:
            skip = skips[name]
            parts = (_singular_values(end, skip.fork, steps, exact_up_to, seed) for end in (skip.sum, skip.branch))
            found.append(BlockJacobian(name, *parts))
    return BlockJacobians(tuple(found))


def _singular_values(output: Tensor, source: Tensor, steps: int, exact_up_to: int, seed: int) -> SingularValues:
    """Return the singular values of d output / d source, of which both are Tensors of one graph."""
    if output.numel() <= exact_up_to:
        rows = [_pulled_back(output, source, row) for row in np.eye(output.numel())]
        values = np.linalg.svd(np.stack(rows), compute_uv=False)[::-1]
        return SingularValues(values, np.full(len(values), 1 / len(values)), exact=True)
    # Linear in its argument u, J^T u can be differentiated by u: its gradient along v is J v.
    u = _like(output, np.zeros(output.numel())).requires_grad_()
    (pulled,) = grad(output, source, u, create_graph=True, materialize_grads=True)

    def pull(vector: Vector) -> Vector:
        return _pulled_back(output, source, vector)

    def push(vector: Vector) -> Vector:
        if pulled is None or not pulled.requires_grad:  # the output does not depend on the source
            return np.zeros(output.numel())
        (pushed,) = grad(pulled, u, _like(source, vector), retain_graph=True, materialize_grads=True)
        assert pushed is not None  # materialised
        return pushed.cpu().numpy().astype(np.float64).ravel()

    # J J^T or J^T J, whichever is smaller: the other has zeros beside the singular values.
    first, second = (push, pull) if source.numel() <= output.numel() else (pull, push)
    spectrum = lanczos(lambda vector: second(first(vector)), min(source.numel(), output.numel()), steps, seed=seed)
    return SingularValues(np.sqrt(np.maximum(spectrum.values, 0)), spectrum.weights, exact=False)


def _pulled_back(output: Tensor, source: Tensor, u: Vector) -> Vector:
    """Return J^T u."""
    (result,) = grad(output, source, _like(output, u), retain_graph=True, materialize_grads=True)
    assert result is not None  # materialised
    return result.cpu().numpy().astype(np.float64).ravel()


def _like(tensor: Tensor, vector: Vector) -> Tensor:
    return Tensor(module_for(tensor.device).asarray(vector.reshape(tensor.shape).astype(tensor.dtype)))


def draw_block_jacobians(results: Mapping[str, BlockJacobians]) -> Figure:
    """Draw, for each block, the range of singular values with and without the shortcut: 10 %, median, 90 %, largest."""
    check_results(results)
    figure, panels = new_figure(len(results), height=3.4)
    for axes, (label, result) in zip(panels, results.items(), strict=True):
        for index, (part, offset) in enumerate((("whole", -0.12), ("branch", 0.12))):
            style = line_style(index)
            chosen: list[SingularValues] = [getattr(block, part) for block in result.blocks]
            places = np.arange(len(chosen)) + offset
            medians, lows, highs = ([values.quantile(q) for values in chosen] for q in (0.5, 0.1, 0.9))
            name = {"whole": "with the shortcut", "branch": "branch alone"}[part]
            axes.plot(places, medians, linestyle="none", label=f"{name}: 10, 50, 90 %", **style)
            axes.vlines(places, lows, highs, color=style["color"])
            axes.plot(
                places, [values.values[-1] for values in chosen], "_", color=style["color"], label=f"{name}: largest"
            )
        axes.axhline(1, color="0.6", linewidth=1)
        axes.set(ylabel="singular value", title=label if len(results) > 1 else "")
        axes.set_ylim(bottom=0)
        label_ticks(axes, [block.block for block in result.blocks])
    legend_above(figure, panels[0])
    return figure
