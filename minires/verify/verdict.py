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


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal, beside the uncertainty of the numerical derivative.

    ``relative`` is a part of the derivative itself. ``absolute`` is None for `small`. A derivative whose uncertainty
    is larger than ``resolution`` times itself and larger than the absolute tolerance cannot be judged.
    """

    relative: float = 1e-6
    absolute: float | None = None
    resolution: float = 1e-5

    def small(self, natural: np.ndarray | float) -> np.ndarray | float:
        """Return what is as good as 0, where values over steps are about ``natural``: 1e-10, or that part of it."""
        return 1e-10 * np.minimum(1.0, natural) if self.absolute is None else self.absolute


def judge(
    analytical: np.ndarray,
    value: np.ndarray,
    uncertainty: np.ndarray,
    kink: np.ndarray,
    crossed: np.ndarray,
    scale: np.ndarray | float,
    natural: np.ndarray | float,
    tolerance: Tolerance,
) -> np.ndarray:
    """Return the verdict on each derivative, as positions in `ORDER`.

    Parameters
    ----------
    analytical, value, uncertainty, kink, crossed : arrays of one shape, see `differences.Derivative`
    scale : the size of the derivatives around: what is a thousand times smaller need not be as precise
    natural : values over steps: what a derivative of this function might be
    """
    doubt = SAFETY * uncertainty
    small = tolerance.small(natural)
    rounding = 100 * np.finfo(np.float64).eps * scale  # of the analytical side
    apart = np.abs(analytical - value)
    larger = np.maximum(np.abs(value), np.abs(analytical))
    equal = apart <= tolerance.relative * larger + small + rounding + doubt
    judged = (doubt <= tolerance.resolution * np.maximum(larger, 1e-3 * scale)) | (doubt <= small)
    judged &= np.isfinite(doubt)  # inf <= inf says nothing
    verdicts = np.where(equal, np.where(judged, EQUAL, ILL_CONDITIONED), DIFFERENT)
    # A gradient follows the branch taken at the point itself: beside it, another one may be right.
    verdicts = np.where((verdicts == DIFFERENT) & crossed, NOT_DIFFERENTIABLE, verdicts)
    verdicts = np.where(kink, NOT_DIFFERENTIABLE, verdicts)
    unknown = kink | ~np.isfinite(uncertainty)
    return np.where(np.isfinite(analytical), verdicts, np.where(unknown, NOT_DIFFERENTIABLE, DIFFERENT))
