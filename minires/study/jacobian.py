"""Singular values of the Jacobians of residual blocks: by how much a block stretches what passes through it.

With z = s(x) + F(x), the Jacobian of a block's sum is s' + F'. Around an identity with a small branch all singular
values lie near 1, so that a product of many such Jacobians neither explodes nor vanishes; those of F' alone spread
towards 0 (dynamical isometry: Saxe, McClelland and Ganguli 2013; for residual nets Tarnowski et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minires.autograd import Tensor, enable_grad, grad
from minires.device import module_for
from minires.dtypes import wide_dtype
from minires.nn import Module
from minires.study.errors import StudyError
from minires.study.figure import check_results, label_ticks, legend_above, line_style, new_figure
from minires.study.lanczos import Vector, lanczos
from minires.study.skips import Skip, find_skips, require_skips
from minires.study.trace import epsilon, trace, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = NDArray[np.float64]

COPIES = 16  # of the image in one batch
SVD_UP_TO = 1024  # rows or columns. Beyond, the eigenvalues of J J^T take a third of the time; they are exact to 1e-7


@dataclass(frozen=True)
class SingularValues:
    """Singular values of one Jacobian, ascending.

    Attributes
    ----------
    values : all of them, or, where not ``exact``, square roots of Ritz values of J^T J or J J^T: the first is no less
        than the smallest singular value, the last no more than the largest
    weights : the share of the spectrum that each stands for, if ``exact``
    exact : whether these are all singular values
    rounding : what is not above it is zero but for rounding
    """

    values: Vector
    weights: Vector
    exact: bool
    rounding: float = 0.0

    @property
    def zero_share(self) -> float:
        """The share of the singular values that are zero but for rounding; NaN unless ``exact``."""
        return float(self.weights[self.values <= self.rounding].sum()) if self.exact else math.nan

    def quantile(self, share: float) -> float:
        """Return the least value such that ``share`` of the singular values are not above it; NaN unless ``exact``."""
        if not self.exact:
            return math.nan
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
        """Return one record a Jacobian: the distribution of its singular values, or else a bound from either side."""
        parts = [
            (block.block, part, values)
            for block in self.blocks
            for part, values in (("whole", block.whole), ("branch", block.branch))
        ]
        all_exact = all(values.exact for _, _, values in parts)
        names = ("zero", "smallest", "10 % quantile", "median", "90 % quantile", "largest")
        records = []
        for block, part, values in parts:
            low, high = float(values.values[0]), float(values.values[-1])
            known = (values.zero_share, low, *(values.quantile(share) for share in (0.1, 0.5, 0.9)), high)
            record: dict[str, Any] = {"block": block, "part": part, "exact": values.exact}
            record |= zip(names, known, strict=True) if values.exact else dict.fromkeys(names)
            if not all_exact:
                record["smallest, at most"] = None if values.exact else low
                record["largest, at least"] = None if values.exact else high
            records.append(record)
        return records


def block_jacobians(
    model: Module,
    images: Tensor,
    blocks: Sequence[str] | None = None,
    steps: int = 30,
    exact_up_to: int = 4096,
    seed: int = 0,
) -> BlockJacobians:
    """Return the singular values of residual blocks at the first image of a batch, in eval mode.

    Parameters
    ----------
    blocks : names of blocks, as `minires.study.skips` finds them; all unless given
    steps : Lanczos iterations where the Jacobian is too large to be written down: they find bounds only
    exact_up_to : write it down, and find every singular value, up to so many rows and columns. 4096 of both take
        seconds and half a gigabyte.

    Raises
    ------
    StudyError
        If the model has no residual block, or none of a given name.
    """
    with untouched(model, training=False), enable_grad():
        skips = {skip.name: skip for skip in require_skips(trace(model, images[:1]))}
        chosen = list(skips) if blocks is None else list(blocks)
        unknown = [name for name in chosen if name not in skips]
        if unknown:
            raise StudyError(f"there is no residual block {unknown[0]!r}: this model has {', '.join(skips)}")
        small = [name for name in chosen if max(skips[name].fork.numel(), skips[name].sum.numel()) <= exact_up_to]
        copied = {}
        if small:
            copies = images[:1].repeat(COPIES, *[1] * (images.ndim - 1))
            copied = {skip.name: skip for skip in find_skips(trace(model, copies))}
        found = []
        for name in chosen:
            skip = skips[name]
            if name in small:
                parts = [
                    _all_singular_values(matrix, _rounding(skip.sum.dtype))
                    for matrix in _jacobians(skip, copied.get(name))
                ]
            else:
                parts = [_bounds(end, skip.fork, steps, seed) for end in (skip.sum, skip.branch)]
            found.append(BlockJacobian(name, *parts))
    return BlockJacobians(tuple(found))


def _jacobians(skip: Skip, copied: Skip | None) -> list[Matrix]:
    """Return d sum / d fork and d branch / d fork.

    ``copied`` is the same block with `COPIES` of the image in one batch: where these have nothing to do with each
    other, as in most models, a backward pass gives that many rows at once.
    """
    if copied is not None and all(_are_independent(end, copied.fork) for end in (copied.sum, copied.branch)):
        return [_jacobian(end, copied.fork, COPIES) for end in (copied.sum, copied.branch)]
    return [_jacobian(end, skip.fork, 1) for end in (skip.sum, skip.branch)]


def _are_independent(output: Tensor, source: Tensor) -> bool:
    """Return whether the first of `COPIES` equal parts of ``output`` depends on the first of ``source`` alone."""
    if output.numel() % COPIES or source.numel() % COPIES:
        return False
    u = np.zeros((COPIES, output.numel() // COPIES))
    u[0] = np.random.default_rng(0).standard_normal(u.shape[1])
    return not _pulled_back(output, source, u).reshape(COPIES, -1)[1:].any()


def _jacobian(output: Tensor, source: Tensor, copies: int) -> Matrix:
    """Return d output / d source for one of ``copies`` equal parts of both, row by row."""
    size = output.numel() // copies
    rows = []
    for begin in range(0, size, copies):
        count = min(copies, size - begin)
        u = np.zeros((copies, size))
        u[np.arange(count), begin + np.arange(count)] = 1
        rows.append(_pulled_back(output, source, u).reshape(copies, -1)[:count])
    return np.concatenate(rows)


def _rounding(dtype: np.dtype) -> float:
    """Return by which part of the largest one rounding may change a singular value.

    Independent errors of n units in the last place of each element change it by about 2 n: two for what is stored, 16
    for what is computed, as Winograd convolutions make them.
    """
    return 4 * epsilon(dtype) + 32 * epsilon(wide_dtype(dtype))


def _all_singular_values(matrix: Matrix, rounding: float) -> SingularValues:
    """Return the singular values of a matrix, where ``rounding`` is the part of the largest that may be an error."""
    rows, columns = matrix.shape
    if min(rows, columns) <= SVD_UP_TO:
        values = np.linalg.svd(matrix, compute_uv=False)[::-1]
    else:
        square = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0))
        rounding = max(rounding, math.sqrt(4 * math.sqrt(len(values)) * np.finfo(np.float64).eps))
    return SingularValues(
        values.astype(np.float64), np.full(len(values), 1 / len(values)), True, rounding * float(values[-1])
    )


def _bounds(output: Tensor, source: Tensor, steps: int, seed: int) -> SingularValues:
    """Return what Lanczos tells about the singular values of d output / d source, two Tensors of one graph."""
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
    # One value in a space that the map does not leave: a multiple of the identity, of which it is all there is.
    exact = spectrum.complete and len(spectrum.values) == 1
    return SingularValues(np.sqrt(np.maximum(spectrum.values, 0)), spectrum.weights, exact)


def _pulled_back(output: Tensor, source: Tensor, u: Vector) -> Vector:
    """Return J^T u."""
    (result,) = grad(output, source, _like(output, u), retain_graph=True, materialize_grads=True)
    assert result is not None  # materialised
    return result.cpu().numpy().astype(np.float64).ravel()


def _like(tensor: Tensor, vector: Vector) -> Tensor:
    return Tensor(module_for(tensor.device).asarray(vector.reshape(tensor.shape).astype(tensor.dtype)))


def draw_block_jacobians(results: Mapping[str, BlockJacobians]) -> Figure:
    """Draw, for each block, singular values with and without the shortcut, and the share of them that are zero.

    Of exact ones 10 %, median, 90 % and largest are drawn; else an arrow upwards from the least that the largest can
    be.
    """
    check_results(results)
    figure, panels = new_figure(2 * len(results), height=3)
    for axes, zeros, (label, result) in zip(panels[::2], panels[1::2], results.items(), strict=True):
        for index, (part, offset) in enumerate((("whole", -0.12), ("branch", 0.12))):
            style = line_style(index)
            chosen: list[SingularValues] = [getattr(block, part) for block in result.blocks]
            known = [place for place, values in enumerate(chosen) if values.exact]
            bounded = [place for place, values in enumerate(chosen) if not values.exact]
            name = {"whole": "with the shortcut", "branch": "branch alone"}[part]
            if known:
                places = np.array(known) + offset
                medians, lows, highs = ([chosen[k].quantile(q) for k in known] for q in (0.5, 0.1, 0.9))
                largest = [chosen[k].values[-1] for k in known]
                axes.plot(places, medians, linestyle="none", label=f"{name}: 10, 50, 90 %", clip_on=False, **style)
                axes.vlines(places, lows, highs, color=style["color"])
                axes.plot(places, largest, "_", color=style["color"], label=f"{name}: largest")
                zeros.bar(places, [chosen[k].zero_share for k in known], 0.24, color=style["color"])
            if bounded:
                places, least = np.array(bounded) + offset, [chosen[k].values[-1] for k in bounded]
                axes.plot(places, least, linestyle="none", marker="$\\uparrow$", markersize=9, color=style["color"],
                          label=f"{name}: largest, at least")  # fmt: skip
                for place in places:
                    zeros.text(place, 0.02, "?", ha="center", color=style["color"])
        axes.axhline(1, color="0.6", linewidth=1)
        axes.set(ylabel="singular value", title=label if len(results) > 1 else "")
        axes.set_ylim(bottom=0)
        zeros.set(ylabel="share that are zero", ylim=(0, 1))
        for panel in (axes, zeros):
            panel.set_xlim(-0.5, len(result.blocks) - 0.5)
            label_ticks(panel, [block.block for block in result.blocks])
    legend_above(figure, panels[0])
    return figure
