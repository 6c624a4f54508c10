"""The quick check: random directions of every input, random weights of every output.

For a direction v of one input and weights w of one output, w . J v is computed from values of f along v, and from the
backward pass as (J^T w) . v. A wrong element of J shows in it unless v or w is 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.verify.differences import FIRST_STEP, REACH, SAFETY, differentiate
from minires.verify.jacobian import CAREFUL, NUDGE, NUDGES, element_scales, noise_at
from minires.verify.result import Block, Entry, Result
from minires.verify.subject import Subject, Variable
from minires.verify.verdict import DIFFERENT, EQUAL, ORDER, Tolerance, Verdict, judge

REDRAWS = 4


@dataclass(frozen=True)
class Slopes:
    """Along one direction, for each output: both sides of w . J v, and what is known of them."""

    analytical: np.ndarray
    value: np.ndarray
    uncertainty: np.ndarray
    verdicts: np.ndarray


class DirectionCheck:
    """Compares derivatives along random directions; ``redrawn``, ``nudged`` and ``evaluations`` count the effort."""

    def __init__(self, subject: Subject, tolerance: Tolerance, rng: np.random.Generator, step: float | None):
        self.subject, self.tolerance, self.rng, self.step = subject, tolerance, rng, step
        self.scales = element_scales(subject)
        self.redrawn = self.nudged = self.evaluations = 0

    def along(self, x: Variable) -> Slopes:
        """Compare along one direction of an input; one that meets a kink is drawn again, then the inputs are nudged."""
        point = self.subject.point
        slopes = self._compare(point, x)
        for attempt in range(REDRAWS + NUDGES):
            if np.isin(slopes.verdicts, (EQUAL, DIFFERENT)).all() or not np.isfinite(slopes.analytical).all():
                break
            if attempt < REDRAWS:
                self.redrawn += 1
            else:
                beside = self.subject.point + NUDGE * self.scales * self.rng.uniform(-1, 1, point.size)
                if not np.isfinite(self.subject.value(beside)[0]).all():
                    continue
                point, self.nudged = beside, self.nudged + 1
            slopes = self._compare(point, x)
        return slopes

    def _compare(self, point: np.ndarray, x: Variable) -> Slopes:
        subject, outputs = self.subject, self.subject.outputs
        direction = np.zeros(point.size)
        direction[x.part] = self.rng.standard_normal(x.size) * self.scales[x.part]
        direction /= max(float(np.abs(direction).max(initial=0.0)), 1e-300)
        weights = [self.rng.standard_normal(y.size) for y in outputs]
        size = float(self.scales[x.part].max()) if x.size else 1.0
        start = subject.value(point)
        noise = noise_at(subject, point, self.scales, self.rng, start[0])
        noise = np.array([np.linalg.norm(w * noise[y.part]) for w, y in zip(weights, outputs, strict=True)])

        def weighted(pair: tuple[np.ndarray, bytes]) -> tuple[np.ndarray, bytes]:
            return np.array([w @ pair[0][y.part] for w, y in zip(weights, outputs, strict=True)]), pair[1]

        def path(t: float) -> tuple[np.ndarray, bytes]:
            return weighted(subject.value(point + t * direction))

        cotangents = []
        for w, y in zip(weights, outputs, strict=True):
            cotangents.append(np.zeros(start[0].size))
            cotangents[-1][y.part] = w
        gradients = np.stack(subject.pull_back(point, cotangents))[:, x.part]
        terms = gradients * direction[x.part]
        typical = np.sqrt((terms**2).sum(axis=1))
        analytical = terms.sum(axis=1)
        wobble = np.finfo(np.float64).eps * np.abs(point).max(initial=0.0) * typical
        noise = noise + np.where(np.isfinite(wobble), wobble, 0.0)
        sums = weighted(start)
        self.evaluations += 10
        step = FIRST_STEP * size if self.step is None else self.step
        reach = REACH if self.step is None else 0.0
        found = differentiate(path, sums, noise, step, stay_on_branch=True, reach=reach)
        self.evaluations += found.evaluations

        def verdicts(uncertainty: np.ndarray) -> np.ndarray:
            scale = np.maximum(np.where(np.isfinite(typical), typical, 0.0), np.abs(found.value))
            natural = np.array([np.abs(start[0][y.part]).max(initial=0.0) for y in outputs]) / size
            return judge(
                analytical, found.value, uncertainty, found.kink, found.crossed, scale, natural, self.tolerance
            )

        judged, uncertainty = verdicts(found.uncertainty), found.uncertainty
        if (judged == DIFFERENT).any():  # lest it be an accident of these steps
            again = differentiate(path, sums, noise, CAREFUL * step, stay_on_branch=True)
            self.evaluations += again.evaluations
            apart = np.abs(again.value - found.value)
            uncertainty = np.where(apart > SAFETY * (again.uncertainty + uncertainty), apart, uncertainty)
            judged = verdicts(uncertainty)
        return Slopes(analytical, found.value, uncertainty, judged)


def check_directions(
    subject: Subject, tolerance: Tolerance, rng: np.random.Generator, directions: int, step: float | None
) -> Result:
    """Compare every output along ``directions`` random directions of every input.

    Raises
    ------
    ValueError
        If ``directions`` is no whole number of at least one.
    """
    if not isinstance(directions, (int, np.integer)) or directions < 1:
        raise ValueError(f"gradcheck: at least one direction must be tried, and a whole number: got {directions}")
    check = DirectionCheck(subject, tolerance, rng, step)
    blocks = []
    for x in subject.inputs:
        found = [check.along(x) for _ in range(directions)]
        for number, y in enumerate(subject.outputs):
            blocks.append(_block(y, x, [_entry(y, x, k, slopes, number) for k, slopes in enumerate(found)]))
    return Result(tuple(blocks), "directions", check.redrawn, check.nudged, check.evaluations)


def _entry(y: Variable, x: Variable, number: int, slopes: Slopes, output: int) -> Entry:
    return Entry(
        f"{y.name} (weighted at random)",
        f"{x.name} along random direction {number + 1}",
        float(slopes.analytical[output]),
        float(slopes.value[output]),
        float(SAFETY * slopes.uncertainty[output]),
        ORDER[slopes.verdicts[output]],
    )


def _block(y: Variable, x: Variable, entries: list[Entry]) -> Block:
    counts = {verdict: sum(entry.verdict is verdict for entry in entries) for verdict in ORDER}
    bad = [entry for entry in entries if entry.verdict is not Verdict.EQUAL]
    bad.sort(key=lambda entry: -ORDER.index(entry.verdict))
    return Block(
        y.name,
        x.name,
        y.shape,
        x.shape,
        {verdict: count for verdict, count in counts.items() if count},
        tuple(bad),
    )
