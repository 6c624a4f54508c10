"""What a gradient check can say of one derivative, and the rule by which it says it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from minires.verify.differences import SAFETY


class Verdict(StrEnum):
    """From best to worst; a check as a whole gets the worst of its parts."""

    EQUAL = "equal"
    IGNORED = "input ignored"
    ILL_CONDITIONED = "ill-conditioned"
    NOT_DIFFERENTIABLE = "not differentiable here"
    NOT_DETERMINISTIC = "not deterministic"
    DIFFERENT = "different"


ORDER = list(Verdict)  # arrays of verdicts hold positions in this list
EQUAL, ILL_CONDITIONED, NOT_DIFFERENTIABLE, DIFFERENT = (
    ORDER.index(v) for v in (Verdict.EQUAL, Verdict.ILL_CONDITIONED, Verdict.NOT_DIFFERENTIABLE, Verdict.DIFFERENT)
)

ROUNDING = 1e-11  # what rounding may leave unknown of a derivative, as a part of the values over the steps
NEGLIGIBLE = 1e-7  # and what of one that it hides, unless both sides are 0


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal, beside the uncertainty of the numerical derivative.

    ``relative`` is a part of the derivative itself. ``absolute`` is None for `small`. A derivative cannot be judged if
    its uncertainty is larger than ``resolution`` times itself, and than what is small, and than what the rounding of
    values leaves unknown anyway, `ROUNDING` times the values over the steps.
    """

    relative: float = 1e-6
    absolute: float | None = None
    resolution: float = 1e-5

    def small(self, natural: np.ndarray | float) -> np.ndarray | float:
        """Return what is as good as 0, where values over steps are about ``natural``: 1e-10, or that part of it."""
        return _small(natural) if self.absolute is None else self.absolute


def _small(natural: np.ndarray | float) -> np.ndarray | float:
    return 1e-10 * np.minimum(1.0, natural)


def judge(
    analytical: np.ndarray,
    value: np.ndarray,
    uncertainty: np.ndarray,
    kink: np.ndarray,
    crossed: np.ndarray,
    summed: np.ndarray | float,
    natural: np.ndarray | float,
    tolerance: Tolerance,
    steepness: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return the verdict on each derivative, as positions in `ORDER`.

    Parameters
    ----------
    analytical, value, uncertainty, kink, crossed : arrays of one shape, see `differences.Derivative`
    summed : the size of the numbers that were added up to make each derivative, 0 where it stands for itself
    natural : of each derivative, the value of its output over the step: the numbers that rounding takes a part of
    steepness : 1 or -1 where the derivative is known to be inf or -inf, see `differences.steepness`
    """
    doubt = SAFETY * uncertainty
    small = tolerance.small(natural)
    apart = np.abs(analytical - value)
    larger = np.maximum(np.maximum(np.abs(value), np.abs(analytical)), summed)
    rounding = 100 * np.finfo(np.float64).eps * larger  # of the analytical side
    equal = apart <= tolerance.relative * larger + small + rounding + doubt
    judged = (doubt <= tolerance.resolution * larger) | (doubt <= np.maximum(small, _small(natural)))
    rounded = doubt <= ROUNDING * natural
    judged |= rounded & ((doubt <= 0.1 * larger) | (doubt <= NEGLIGIBLE) | (larger <= 1e-3 * doubt))
    judged &= np.isfinite(doubt)  # inf <= inf says nothing
    verdicts = np.where(equal, np.where(judged, EQUAL, ILL_CONDITIONED), DIFFERENT)
    # A gradient follows the branch taken at the point itself: beside it, another one may be right.
    verdicts = np.where((verdicts == DIFFERENT) & crossed, NOT_DIFFERENTIABLE, verdicts)
    verdicts = np.where(kink, NOT_DIFFERENTIABLE, verdicts)
    unknown = np.where(np.isnan(analytical), kink | ~np.isfinite(uncertainty), np.sign(analytical) == steepness)
    return np.where(np.isfinite(analytical), verdicts, np.where(unknown, NOT_DIFFERENTIABLE, DIFFERENT))
