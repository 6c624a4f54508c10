"""What a skip connection does to the gradient: at each block, the part that came straight and the part that came round.

With z = s(x) + F(x), s the shortcut and F the branch, and dL/dz given,

    dL/dx = s'(x)^T dL/dz + F'(x)^T dL/dz        for an identity shortcut: dL/dz (1 + dF/dx)

(He et al. 2016, "Identity Mappings in Deep Residual Networks", equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minires.autograd import Tensor, grad
from minires.device import Array, array_module
from minires.nn import Module
from minires.nn import functional as F
from minires.study.figure import check_results, label_ticks, legend_above, line_style, new_figure
from minires.study.skips import Skip, require_skips
from minires.study.trace import LossFunction, epsilon, norm, trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDING = 1000  # units in the last place, of the norms that are added: sums over many elements in two orders


@dataclass(frozen=True)
class SkipGradient:
    """The gradient that arrives at the input of one residual block.

    Attributes
    ----------
    block : the block's name
    identity : whether the shortcut is the identity; else it is a projection, a gate or padding
    shortcut_norm, branch_norm : norms of the two parts
    whole_norm : norm of the whole gradient at the block's input
    cosine : of the angle between the two parts; NaN where one of them vanishes
    rest : norm of the whole less the two parts, over the sum of their norms: rounding, unless the block's input is used
        elsewhere too
    feeds_only_this : whether the block's input is used by this block alone
    """

    block: str
    identity: bool
    shortcut_norm: float
    branch_norm: float
    whole_norm: float
    cosine: float
    rest: float
    feeds_only_this: bool

    @property
    def ratio(self) -> float:
        """The branch's norm over the shortcut's; NaN where both vanish."""
        if self.shortcut_norm:
            return self.branch_norm / self.shortcut_norm
        return math.inf if self.branch_norm else math.nan

    @property
    def angle(self) -> float:
        """The angle between the two parts in degrees; NaN where one of them vanishes."""
        if math.isnan(self.cosine):  # max and min would make a number of it
            return math.nan
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))


@dataclass(frozen=True)
class SkipDecomposition:
    """The blocks of a model, in the order in which they ran."""

    blocks: tuple[SkipGradient, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a block."""
        return [
            {
                "block": block.block,
                "identity": block.identity,
                "shortcut norm": block.shortcut_norm,
                "branch norm": block.branch_norm,
                "branch / shortcut": block.ratio,
                "angle (degrees)": block.angle,
                "whole norm": block.whole_norm,
                "rest": block.rest,
            }
            for block in self.blocks
        ]


def skip_decomposition(
    model: Module, images: Tensor, labels: Tensor, loss_fn: LossFunction = F.cross_entropy
) -> SkipDecomposition:
    """Split the gradient at the input of each residual block into what came through shortcut and branch.

    Blocks are found by the rule of `minires.study.skips`. The two parts are computed by two backward walks from the
    gradient at the sum, and their sum is compared with what the ordinary backward pass brings to the block's input.

    Raises
    ------
    StudyError
        If the model has no residual block, or as `minires.study.trace.trace` does.
    ArithmeticError
        If the parts do not add up to the whole gradient to rounding: a wrong backward pass, or a branch that is not the
        same function in both walks.
    """
    traced = trace(model, images, labels, loss_fn)
    skips = require_skips(traced)
    assert traced.loss is not None  # labels were given
    wanted = [tensor for skip in skips for tensor in (skip.fork, skip.sum)]
    gradients = grad(traced.loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    at = {id(tensor): gradient for tensor, gradient in zip(wanted, gradients, strict=True) if gradient is not None}
    return SkipDecomposition(tuple(_split(skip, at[id(skip.sum)], at[id(skip.fork)]) for skip in skips))


def parts_at(skip: Skip, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``gradient``, that of the sum, brings to the fork through the shortcut and through the branch."""
    return through_shortcut(skip, gradient), through_branch(skip, gradient)


def through_shortcut(skip: Skip, gradient: Tensor) -> Tensor:
    """Return what ``gradient``, that of the sum, brings to the fork through the shortcut."""
    return _through(skip, skip.shortcut, skip.shortcut_sign, gradient)


def through_branch(skip: Skip, gradient: Tensor) -> Tensor:
    """Return what ``gradient``, that of the sum, brings to the fork through the branch."""
    return _through(skip, skip.branch, skip.branch_sign, gradient)


def _through(skip: Skip, operand: Tensor, sign: int, gradient: Tensor) -> Tensor:
    if sign < 0:
        gradient = -gradient
    if operand is skip.fork:
        return gradient
    (result,) = grad(operand, skip.fork, gradient, retain_graph=True, materialize_grads=True)
    assert result is not None  # materialised
    return result


def _split(skip: Skip, at_sum: Tensor, at_fork: Tensor) -> SkipGradient:
    shortcut, branch = (_wide(part.array) for part in parts_at(skip, at_sum))
    whole = _wide(at_fork.array)
    norms = [norm(shortcut), norm(branch)]
    scale = sum(norms)
    rest = norm(whole - shortcut - branch) / scale if scale else 0.0
    if skip.feeds_only_this and rest > ROUNDING * epsilon(at_fork.dtype):
        raise ArithmeticError(
            f"at {skip.name} the gradient through the shortcut and the gradient through the branch do not add up to "
            f"the whole: they differ by {rest:.1e} of their norms"
        )
    cosine = float((shortcut / norms[0] * (branch / norms[1])).sum()) if norms[0] and norms[1] else math.nan
    return SkipGradient(
        skip.name, skip.is_identity, norms[0], norms[1], norm(whole), cosine, rest, skip.feeds_only_this
    )


def _wide(array: Array) -> Array:
    return array.astype(array_module(array).float64)


def draw_skip_decomposition(results: Mapping[str, SkipDecomposition]) -> Figure:
    """Draw the norms of the two parts by block, and the angle between them."""
    check_results(results)
    figure, (norms, angles) = new_figure(2, height=3)
    for index, (label, result) in enumerate(results.items()):
        prefix = f"{label}: " if len(results) > 1 else ""
        style = line_style(index)
        places = range(len(result.blocks))
        norms.plot(places, [b.shortcut_norm for b in result.blocks], label=f"{prefix}through the shortcut", **style)
        norms.plot(
            places, [b.branch_norm for b in result.blocks], "--", label=f"{prefix}through the branch", **style, mfc="w"
        )
        angles.plot(places, [b.angle for b in result.blocks], label=label, **style)
    names = max(([block.block for block in result.blocks] for result in results.values()), key=len)
    norms.set(ylabel="gradient norm")
    lowest = _lowest_shown(results)
    if lowest is not None:  # else no gradient arrives anywhere
        norms.set(yscale="log")
        norms.set_ylim(bottom=lowest)
    legend_above(figure, norms)
    angles.set(ylabel="angle (degrees)", ylim=(0, 180), yticks=(0, 45, 90, 135, 180))
    for axes in (norms, angles):
        label_ticks(axes, names)
    return figure


def _lowest_shown(results: Mapping[str, SkipDecomposition]) -> float | None:
    """Leave out of a logarithmic axis what is zero but for rounding."""
    values = [value for r in results.values() for b in r.blocks for value in (b.shortcut_norm, b.branch_norm) if value]
    if not values:
        return None
    return max(min(values) / 2, max(values) * 1e-6)
