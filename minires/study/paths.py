"""Residual nets as ensembles of paths: how much gradient the paths of each length carry.

A net of n residual blocks one after another is a sum over 2^n paths, each of which takes the branch or the shortcut of
every block (Veit, Wilber and Belongie 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks").
Backward, block k multiplies by S_k + B_k (shortcut and branch, transposed Jacobians); a path picks one of the two in
each block, and its *length* is the number of branches it takes. There are C(n, k) paths of length k.

Two measures are given:

- of single paths, as in the paper's section 4.3: the mean norm of the gradient that one path of length k brings to the
  input, and the share C(n, k) * norm_k / sum of these;
- of all paths of a length together: the norm of their *sum*, in which paths may cancel. It needs no sampling, because
  the sums for all lengths are the coefficients of the polynomial prod_k (S_k + t B_k) applied to the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Tensor, grad, no_grad
from minires.nn import Module
from minires.nn import functional as F
from minires.study.decomposition import ROUNDING, parts_at, through_branch, through_shortcut
from minires.study.errors import StudyError
from minires.study.figure import check_results, legend_above, line_style, new_figure, whole_ticks
from minires.study.skips import Skip, require_skips
from minires.study.trace import LossFunction, Trace, epsilon, norm, trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PathLength:
    """The paths of one length.

    Attributes
    ----------
    length : how many branches they take
    paths : how many there are, C(n, length)
    measured : how many of them were measured one by one
    mean_norm : mean norm of the gradient that one of them brings to the input
    share : ``paths * mean_norm`` over the sum of that for all lengths
    sum_norm : norm of the sum of all their gradients, exact
    """

    length: int
    paths: int
    measured: int
    mean_norm: float
    share: float
    sum_norm: float


@dataclass(frozen=True)
class PathGradients:
    """All lengths from 0 to the number of blocks.

    ``exact`` tells whether every path was measured; ``whole_norm`` is the norm of the whole gradient at the input.
    """

    blocks: int
    exact: bool
    whole_norm: float
    lengths: tuple[PathLength, ...]

    @property
    def median_length(self) -> int:
        """The least length such that the paths up to it carry half of the gradient (by ``share``)."""
        reached = np.cumsum([length.share for length in self.lengths])
        return int(np.searchsorted(reached, 0.5 * reached[-1]))

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a length."""
        return [
            {
                "length": length.length,
                "paths": length.paths,
                "measured": length.measured,
                "mean norm of one path": length.mean_norm,
                "share": length.share,
                "norm of their sum": length.sum_norm,
            }
            for length in self.lengths
        ]


def path_gradients(
    model: Module,
    images: Tensor,
    labels: Tensor,
    loss_fn: LossFunction = F.cross_entropy,
    samples: int = 8,
    exact_up_to: int = 9,
    seed: int = 0,
) -> PathGradients:
    """Return the number of paths and their gradients by length.

    Parameters
    ----------
    samples : how many random paths to measure of each length, in nets of more than ``exact_up_to`` blocks
    exact_up_to : measure every path of nets with up to this many blocks: 2^n of them
    seed : of the random paths

    Raises
    ------
    StudyError
        If the model has no residual block, or its blocks are not one after another.
    """
    if samples < 1:
        raise StudyError(f"at least one path of each length must be measured, got samples={samples}")
    traced = trace(model, images, labels, loss_fn)
    chain = _Chain(traced, require_skips(traced))
    count = len(chain.skips)
    sums = chain.sums_by_length()
    whole = chain.whole(sums)
    exact = count <= exact_up_to
    norms = chain.norms_of_all_paths() if exact else chain.norms_of_random_paths(samples, np.random.default_rng(seed))
    carried = [math.comb(count, k) * float(np.mean(of_length)) for k, of_length in enumerate(norms)]
    total = sum(carried)
    lengths = tuple(
        PathLength(
            length=k,
            paths=math.comb(count, k),
            measured=len(of_length),
            mean_norm=float(np.mean(of_length)),
            share=carried[k] / total if total else 0.0,
            sum_norm=norm(sums[k].array),
        )
        for k, of_length in enumerate(norms)
    )
    return PathGradients(count, exact, norm(whole.array), lengths)


class _Chain:
    """Residual blocks one after another, and the backward maps between and through them."""

    def __init__(self, traced: Trace, skips: list[Skip]):
        assert traced.loss is not None  # labels were given
        self.skips = skips
        self.input, self.loss = traced.input, traced.loss
        self.at_last_sum = self._gradient(traced.loss, skips[-1].sum)

    def whole(self, sums: list[Tensor]) -> Tensor:
        """Return the whole gradient at the input, after comparing it with the sum of those of all paths.

        Raises
        ------
        StudyError
            If they differ: then something leads past the blocks.
        """
        whole = self._gradient(self.loss, self.input)
        with no_grad():
            rest = whole - reduce(Tensor.__add__, sums)
        if norm(rest.array) > ROUNDING * epsilon(whole.dtype) * sum(norm(part.array) for part in sums):
            raise StudyError(
                "the gradients of all paths do not add up to the gradient at the input: paths are counted in nets "
                "whose residual blocks follow one another, with no way around them"
            )
        return whole

    def before(self, index: int, gradient: Tensor) -> Tensor:
        """Carry a gradient from the fork of a block to the sum of the block before it, or to the net's input."""
        fork, target = self.skips[index].fork, self.skips[index - 1].sum if index else self.input
        if fork is target:
            return gradient
        return self._gradient(fork, target, gradient)

    @staticmethod
    def _gradient(output: Tensor, source: Tensor, gradient: Tensor | None = None) -> Tensor:
        (result,) = grad(output, source, gradient, retain_graph=True, materialize_grads=True)
        assert result is not None  # materialised
        return result

    def norms_of_all_paths(self) -> list[list[float]]:
        """Return the norms of every path's gradient at the input, by length; paths share what they have in common."""
        norms: list[list[float]] = [[] for _ in range(len(self.skips) + 1)]
        stack = [(len(self.skips) - 1, 0, self.at_last_sum)]
        while stack:
            index, length, gradient = stack.pop()
            if index < 0:
                norms[length].append(norm(gradient.array))
                continue
            for step, part in enumerate(parts_at(self.skips[index], gradient)):
                stack.append((index - 1, length + step, self.before(index, part)))
        return norms

    def norms_of_random_paths(self, samples: int, rng: np.random.Generator) -> list[list[float]]:
        """Return the norms of the gradients of random paths, by length; not more than there are."""
        count = len(self.skips)
        norms = []
        for length in range(count + 1):
            chosen: set[tuple[int, ...]] = set()
            while len(chosen) < min(samples, math.comb(count, length)):
                chosen.add(tuple(sorted(rng.choice(count, length, replace=False).tolist())))
            norms.append([self._norm_of_path(set(branches)) for branches in sorted(chosen)])
        return norms

    def _norm_of_path(self, branches: set[int]) -> float:
        gradient = self.at_last_sum
        for index in reversed(range(len(self.skips))):
            part = through_branch if index in branches else through_shortcut
            gradient = self.before(index, part(self.skips[index], gradient))
        return norm(gradient.array)

    def sums_by_length(self) -> list[Tensor]:
        """Return, for each length, the sum of the gradients of all its paths at the input."""
        sums = [self.at_last_sum]
        for index in reversed(range(len(self.skips))):
            grown: list[Tensor | None] = [None] * (len(sums) + 1)
            for length, gradient in enumerate(sums):
                for step, part in enumerate(parts_at(self.skips[index], gradient)):
                    moved, before = self.before(index, part), grown[length + step]
                    with no_grad():
                        grown[length + step] = moved if before is None else before + moved
            sums = [gradient for gradient in grown if gradient is not None]
        return sums


def draw_path_gradients(results: Mapping[str, PathGradients]) -> Figure:
    """Draw by path length: how many paths there are, what one carries, and the share that all of them carry."""
    check_results(results)
    figure, (numbers, norms, shares) = new_figure(3, height=2.4)
    for index, (label, result) in enumerate(results.items()):
        lengths = [length.length for length in result.lengths]
        prefix = f"{label}: " if len(results) > 1 else ""
        style = line_style(index)
        total = 2**result.blocks
        numbers.plot(lengths, [length.paths / total for length in result.lengths], **style)
        positive = [length for length in result.lengths if length.mean_norm > 0]
        norms.plot([length.length for length in positive], [length.mean_norm for length in positive], **style)
        shares.plot(lengths, [length.share for length in result.lengths], label=f"{prefix}single paths", **style)
        together = sum(length.sum_norm for length in result.lengths) or 1.0
        shares.plot(
            lengths,
            [length.sum_norm / together for length in result.lengths],
            ":",
            label=f"{prefix}sums of paths",
            color=style["color"],
        )
    numbers.set(ylabel="share of the paths")
    norms.set(ylabel="gradient of one path", yscale="log")
    shares.set(ylabel="share of the gradient", xlabel="path length (branches taken)")
    for axes in (numbers, norms, shares):
        whole_ticks(axes)
    legend_above(figure, shares)
    return figure
