"""The derivative of a function of one number at 0, from its values alone, with an uncertainty for what comes out.

    central   C(h) = (f(h) - f(-h)) / 2h = f'(0) + c1 h^2 + c2 h^4 + ...
    right     R(h) = (f(h) - f(0)) / h   = f'(0+) + c1 h + c2 h^2 + ...        left alike

Each is computed at h, h/2, h/4, h/8, and Richardson's extrapolation to h = 0 removes one term after another (Ridders
1982, "Accurate computation of F'(x) and F'(x)F''(x)", makes the same table). The uncertainty adds how far the last two
entries of the table disagree to what rounding can have done. If it is too large, a smaller h is tried.

At a kink the central difference converges too, to the mean of the derivatives on either side. So those two are computed
as well, from the same values: where they differ by more than their uncertainties, there is no derivative.

Most operations are straight lines as far as one element is concerned. Where the slopes to f(h), f(h/8), f(-h/8) and
f(-h) agree to within rounding, on one branch, there is nothing to extrapolate, and the other steps may be spared: two
sides that differ by so little would not be told apart by a whole table either.

f may return a vector: every quantity here is then a vector, and every element has its own uncertainty and verdict. How
precise an element must be rests on its own values, never on those of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np

EPSILON = float(np.finfo(np.float64).eps)
LEVELS = 4
SHRINK = 1 / 16  # from one table to the next
TABLES = 9  # down to steps of 1e-10 of the first
PATIENCE = 5  # so many tables may be left because another branch is taken there; finer ones drown in rounding
FIRST_STEP = 0.0273  # as a part of the scale of x; no round number, lest it fit a period of f
PRECISION = 1e-8  # what uncertainty is good enough to stop, as a part of the derivative
SAFETY = 10.0  # uncertainties are estimates: a difference counts beyond so many of them
ENOUGH = 1e-12  # the same as a part of the values over the steps, where the derivative itself is smaller
KINK = 1e-6  # one-sided derivatives that differ by less, as a part of the larger, are not told apart
DROWNED = 1e-12  # slopes that rounding may feign before the first step grows
STEEPER = 1.15  # slopes to a point 256 times nearer grow at least by this factor if they grow without end
REACH = 1.0  # how far it may grow

Path = Callable[[float], tuple[np.ndarray, bytes]]  # t -> (f(t), which branches were taken)


@dataclass(frozen=True)
class Derivative:
    """Arrays (m,), one element for each output of f.

    ``kink`` tells where f has no derivative at 0: its sides differ, or it jumps, or it is not finite on one side.
    ``crossed`` tells whether another branch (side of a ReLU, winner of a maximum) was taken than at 0.
    """

    value: np.ndarray
    uncertainty: np.ndarray
    kink: np.ndarray
    crossed: np.ndarray
    evaluations: int
    step: float  # the largest of the last table

    def replace(self, where: np.ndarray, other: Derivative) -> Derivative:
        """Return this with the elements at ``where`` (m,) of another."""
        return Derivative(
            np.where(where, other.value, self.value),
            np.where(where, other.uncertainty, self.uncertainty),
            np.where(where, other.kink, self.kink),
            np.where(where, other.crossed, self.crossed),
            self.evaluations + other.evaluations,
            self.step,
        )


def differentiate(
    f: Path,
    start: tuple[np.ndarray, bytes],
    noise: np.ndarray,
    step: float,
    stay_on_branch: bool = False,
    levels: int = LEVELS,
    tables: int = TABLES,
    reach: float = 0.0,
    natural: np.ndarray | float = 0.0,
    resolution: np.ndarray | float = EPSILON,
    origin: float | None = None,
    rough: np.ndarray | float = 0.0,
) -> Derivative:
    """Return the derivative of ``f`` at 0.

    Parameters
    ----------
    f : returns its value, an array (m,), and a digest of the branches that it took
    start : f(0)
    noise : array (m,), by how much an element of a value may be off
    step : the largest step to try
    stay_on_branch : leave a step at once where another branch is taken than at 0, for the first `PATIENCE` tables
    levels : how many steps, each half the one before, make up a table
    tables : how many tables to try, each beginning with `SHRINK` times the step of the one before
    reach : how far the first step may grow while ``f`` does not move at all, for over larger ones rounding weighs less
    natural : array (m,), values over steps: of a derivative much smaller than that, `ENOUGH` of it is precise enough
    resolution : array (m,), the relative spacing of the numbers that f returns, which are rounded at every step anew
    origin : the number that f adds t to; steps are then such that the sum is exact
    rough : array (m,), the part of the noise that shows as steps: what rests over one of them is no constant
    """
    m = start[0].size
    value, uncertainty, gap = np.zeros(m), np.full(m, np.inf), np.full(m, np.inf)
    kink, crossed = np.zeros(m, bool), np.zeros(m, bool)
    seen_kinks = np.zeros(m, int)
    evaluations = 0
    is_first_table = True
    # What rests over the first steps is off by its own rounding only, however noisy other inputs make it.
    still = np.minimum(noise, np.maximum(rough, resolution * np.abs(start[0])))
    while step < reach * SHRINK and (noise > DROWNED * step).any() and _rests(f, start, step):
        step /= SHRINK
        evaluations += 2
    for table in range(tables):
        h = step * SHRINK**table if origin is None else _exact(step * SHRINK**table, origin, levels)
        far = f(h), f(-h)
        evaluations += 2
        is_crossed = any(branches != start[1] for _, branches in far)
        if is_crossed and stay_on_branch and table < min(PATIENCE, tables - 1):
            continue
        least = h / 2 ** (levels - 1)
        near = f(least), f(-least)
        evaluations += 2
        if is_first_table and all(branches == start[1] for _, branches in (*far, *near)):
            values = np.stack([values for values, _ in (*far, *near)])
            rests = (values == start[0]).all(axis=0)
            slope, doubt = _straight(
                start[0], values, (h, -h, least, -least), np.where(rests, still, noise), resolution
            )
            if np.isfinite(slope).all() and (doubt <= _wanted(slope, natural)).all():
                return Derivative(slope, doubt, kink, crossed, evaluations, h)
        pairs = [far, *((f(h / 2**k), f(-h / 2**k)) for k in range(1, levels - 1)), near]
        evaluations += 2 * (levels - 2)
        right, left = (np.stack([values for values, _ in side]) for side in zip(*pairs, strict=True))
        rests = is_first_table & ((right == start[0]) & (left == start[0])).all(axis=0)
        found = _table(start[0], right, left, h, np.where(rests, still, noise), resolution)
        is_first_table = False
        seen_kinks += found.kink & np.isfinite(found.gap)  # a step out of the domain tells nothing of a shorter one
        better = found.uncertainty < uncertainty
        # A finer table may resolve what a coarser one took for a kink, if it is sharp enough to have seen the gap.
        better = np.where(kink, ~found.kink & (found.blur < 0.1 * gap), better & ~found.kink)
        better |= ~np.isfinite(uncertainty)
        value = np.where(better, found.value, value)
        uncertainty = np.where(better, found.uncertainty, uncertainty)
        gap = np.where(better, found.gap, gap)
        kink, crossed = np.where(better, found.kink, kink), np.where(better, is_crossed, crossed)
        precise = (uncertainty <= _wanted(value, natural)) & ~kink
        if np.all(precise | (seen_kinks > 1) | (_rounding(noise, h * SHRINK, levels) > uncertainty)):
            break
    return Derivative(value, uncertainty, kink, crossed, evaluations, h)


def estimate_noise(f: Path, start: np.ndarray, step: float, resolution: np.ndarray) -> np.ndarray:
    """Return by how much each element of f(t) may be off, seen from its differences of order 6 at tiny distances.

    Moré and Wild 2011, "Estimating computational noise", equation 3.1: a smooth function has none to speak of, so what
    remains is noise, amplified by a known factor. ``resolution`` (m,) is the spacing of the numbers that f returns.
    """
    order, windows = 6, 3
    values = np.stack([f(step * k)[0] for k in range(1, order + windows + 1)])
    amplified = np.diff(values, order, axis=0)
    factor = factorial(order) ** 2 / factorial(2 * order)
    noise = np.sqrt(factor * np.mean(amplified**2, axis=0))
    noise = np.where(np.isfinite(noise), noise, 0.0)
    return np.maximum(noise, resolution * np.abs(start))


def steepness(f: Path, start: np.ndarray, noise: np.ndarray, size: float) -> np.ndarray:
    """Return (m,) 1 or -1 where f(t) has the slope inf or -inf at 0, on one side at least, and 0 elsewhere.

    Slopes to points nearer and nearer grow without end, as those of sqrt(t) and t log(t) do.
    """
    found = np.zeros(start.size)
    for sign in (1.0, -1.0):
        steps = sign * size * 2.0 ** -np.array([8.0, 16.0, 24.0, 32.0])
        moves = np.stack([f(t)[0] - start for t in steps])
        slopes = moves / steps[:, None]
        grows = (np.abs(slopes[1:]) >= STEEPER * np.abs(slopes[:-1])).all(axis=0)
        grows &= (np.abs(moves) > SAFETY * noise).all(axis=0) & (np.ptp(np.sign(slopes), axis=0) == 0)
        found = np.where((found == 0) & grows, np.sign(slopes[0]), found)
    return found


def _rests(f: Path, start: tuple[np.ndarray, bytes], step: float) -> bool:
    """Whether f has the same values and branches at both ends as at 0."""
    return all(np.array_equal(value, start[0]) and branches == start[1] for value, branches in (f(step), f(-step)))


def _exact(h: float, origin: float, levels: int) -> float:
    """Return about ``h``, so that h, h/2, ... can be added to ``origin`` without rounding."""
    least = h / 2 ** (levels - 1)
    return 2 ** (levels - 1) * max(abs((origin + least) - origin), float(np.spacing(abs(origin))))


def _wanted(value: np.ndarray, natural: np.ndarray | float) -> np.ndarray:
    return np.maximum(PRECISION * np.abs(value), ENOUGH * natural)


def _rounding(noise: np.ndarray, h: float, levels: int) -> np.ndarray:
    """What noise alone makes of the uncertainty of a table that begins at ``h``."""
    return noise * 2 ** (levels - 1) / h


@dataclass(frozen=True)
class _Table:
    value: np.ndarray
    uncertainty: np.ndarray
    kink: np.ndarray
    gap: np.ndarray  # between the derivatives on either side
    blur: np.ndarray  # what gap could be seen


def _table(
    centre: np.ndarray, plus: np.ndarray, minus: np.ndarray, h: float, noise: np.ndarray, resolution: np.ndarray | float
) -> _Table:
    """From values (levels, m) at h, h/2, h/4, ... and at -h, -h/2, -h/4, ..."""
    steps = h / 2.0 ** np.arange(len(plus))[:, None]
    # A value far larger than the one at 0 is rounded more coarsely.
    errors = np.maximum(noise, resolution * np.maximum(np.abs(plus), np.abs(minus))) / steps
    value, uncertainty = _extrapolate((plus - minus) / (2 * steps), errors, 4.0)
    on_right, right_uncertainty = _extrapolate((plus - centre) / steps, 2 * errors, 2.0)
    on_left, left_uncertainty = _extrapolate((centre - minus) / steps, 2 * errors, 2.0)
    gap = np.abs(on_right - on_left)
    blur = SAFETY * (right_uncertainty + left_uncertainty)
    blur += KINK * np.maximum(np.abs(on_right), np.abs(on_left))
    kink = gap > blur
    for values in (plus, minus):
        limit, limit_uncertainty = _extrapolate(values, np.broadcast_to(noise, values.shape), 2.0)
        kink |= np.abs(limit - centre) > SAFETY * (limit_uncertainty + noise)
        kink |= ~np.isfinite(values[-1])
    # What does not move at all is constant to within its rounding over the largest step.
    constant = ((plus == centre) & (minus == centre)).all(axis=0)
    uncertainty = np.where(constant, noise / h, uncertainty)
    unusable = ~np.isfinite(value) | ~np.isfinite(uncertainty)
    return _Table(
        np.where(unusable, 0.0, value),
        np.where(unusable, np.inf, uncertainty),
        kink,
        np.where(np.isfinite(gap), gap, np.inf),
        np.where(np.isfinite(blur), blur, np.inf),
    )


def _straight(
    centre: np.ndarray,
    values: np.ndarray,
    steps: tuple[float, ...],
    noise: np.ndarray,
    resolution: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope of the line through ``values`` (4, m) at two pairs of ``steps``, h, -h and nearer ones.

    And its uncertainty, which is infinite where they do not lie on a line, within rounding, with ``centre`` at 0.
    """
    h, near = steps[0], steps[2]
    noise = np.maximum(noise, resolution * np.abs(values).max(axis=0))
    spread = np.ptp((values - centre) / np.array(steps)[:, None], axis=0)
    uncertainty = np.where(spread <= SAFETY * noise / near, spread + noise / h, np.inf)
    return (values[0] - values[1]) / (2 * h), uncertainty


def _extrapolate(estimates: np.ndarray, errors: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the limit for h -> 0 of estimates (levels, m) at h, h/2, h/4, ... and its uncertainty.

    ``factor`` is 4 where only even powers of h occur in the error, else 2. ``errors`` bound the rounding of each.
    """
    column, bounds, before = estimates, errors, estimates
    for j in range(1, len(estimates)):
        power = factor**j
        before = column
        column = (power * column[1:] - column[:-1]) / (power - 1)
        bounds = (power * bounds[1:] + bounds[:-1]) / (power - 1)
    value = column[-1]
    disagreement = np.abs(value - before[-2:]).max(axis=0)
    return value, disagreement + bounds[-1]
