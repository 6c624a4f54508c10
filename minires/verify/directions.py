"""The quick check: random directions of every input, random weights of every output.

For a direction v of one input and weights w of one output, w . J v is computed from values of f along v, and from the
backward pass as (J^T w) . v. A wrong element of J shows in it unless v or w is 0 there, or other elements drown it. So
weights are divided by how far each output moves, and directions by the gradient that the backward pass claims, within
the limits of rounding: derivatives of 1e-8 and of 1e12 then count about alike. The second and third direction of each
three leave out what claims most, if there is anything that claims much less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.verify.differences import FIRST_STEP, REACH, SAFETY, differentiate, steepness
from minires.verify.jacobian import (
    CAREFUL,
    NUDGE,
    NUDGES,
    RESTLESS,
    backward_noise,
    element_scales,
    noise_at,
    own_sizes,
    rough_values,
    roughness_at,
    sizes,
)
from minires.verify.result import Block, Diagnosis, Entry, Result
from minires.verify.roughness import Roughness
from minires.verify.subject import Subject, Variable
from minires.verify.verdict import DIFFERENT, EQUAL, ILL_CONDITIONED, ORDER, Tolerance, Verdict, judge

REDRAWS = 4
PROBE = 2.0**-34  # how far, as a part of the inputs, to see how far each output moves
RESTING = 1e-3  # an output that moves by a smaller part of its value counts as if it moved so much
FAINT = 0.25  # the part of the elements whose claimed gradients may lie below the level that the others are brought to
LEAST_LEVEL = 1e-4  # this level, as a part of the largest
PARTS = (
    1.0,
    1e-3,
    1e-6,
)  # of the largest claim: one direction after another moves only what claims less, if anything does
LEAST_MOVE = 1e-12  # as a part of an element


@dataclass(frozen=True)
class Slopes:
    """Along one direction, for each output: both sides of w . J v, and what is known of them."""

    analytical: np.ndarray
    value: np.ndarray
    uncertainty: np.ndarray
    verdicts: np.ndarray


class DirectionCheck:
    """Compares derivatives along random directions.

    ``redrawn``, ``nudged`` and ``evaluations`` count the effort.
    """

    def __init__(self, subject: Subject, tolerance: Tolerance, rng: np.random.Generator, step: float | None):
        self.subject, self.tolerance, self.rng, self.step = subject, tolerance, rng, step
        self.scales = element_scales(subject)
        self.redrawn = self.nudged = self.evaluations = 0
        self.part = PARTS[0]
        self.roughness: dict[str, Roughness | None] = {x.name: None for x in subject.inputs}
        self._noise_at = (np.full(subject.point.size, np.nan), np.zeros(0))

    def along(self, x: Variable, number: int) -> Slopes:
        """Compare along one direction of an input; one that meets a kink is drawn again, then the inputs are nudged."""
        point, self.part = self.subject.point, PARTS[number % len(PARTS)]
        slopes = self._compare(point, x)
        if slopes.verdicts.any() and self.roughness[x.name] is None:
            noise = self._noise(point, self.subject.value(point)[0])
            found = roughness_at(self.subject, point, self.scales, self.rng, x, noise)
            self.roughness[x.name] = found
            self.evaluations += found.evaluations
            if found.noise.any():
                slopes = self._compare(point, x)
        value = self.subject.value(point)[0]
        stepped = self._rough(x) > RESTLESS * sizes(
            self.subject, point, value, np.zeros(value.size), self.scales, self.rng
        )
        is_rough = np.array([stepped[y.part].any() for y in self.subject.outputs])
        for attempt in range(REDRAWS + NUDGES):
            # No other direction makes the steps of a rough function smaller.
            settled = np.isin(slopes.verdicts, (EQUAL, DIFFERENT)) | (is_rough & (slopes.verdicts == ILL_CONDITIONED))
            if settled.all() or not np.isfinite(slopes.analytical).all():
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

    def _rough(self, x: Variable) -> np.ndarray:
        found = self.roughness[x.name]
        return np.zeros(sum(y.size for y in self.subject.outputs)) if found is None else found.noise

    def _noise(self, point: np.ndarray, value: np.ndarray) -> np.ndarray:
        at, noise = self._noise_at
        if not np.array_equal(at, point):
            noise = noise_at(self.subject, point, self.scales, self.rng, value)
            self.evaluations += 19
            self._noise_at = point, noise
        return noise

    def _draw(
        self, point: np.ndarray, x: Variable, value: np.ndarray, magnitudes: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Return a direction (n,), weights of each output, and the gradients (outputs, n) that these claim."""
        subject = self.subject
        own = own_sizes(point, self.scales)
        plain = np.zeros(point.size)
        plain[x.part] = self.rng.standard_normal(x.size) * own[x.part]
        moves = np.abs(subject.value(point + PROBE * plain)[0] - subject.value(point - PROBE * plain)[0]) / (2 * PROBE)
        moves = np.maximum(np.where(np.isfinite(moves), moves, 0.0), RESTING * magnitudes)
        self.evaluations += 2
        weights = []
        for y in subject.outputs:
            moved = moves[y.part]
            moved = np.where(moved > 0, moved, np.median(moved[moved > 0]) if moved.any() else 1.0)
            weights.append(self.rng.standard_normal(y.size) * (moved.min(initial=np.inf) / moved))
        gradients = np.stack(subject.pull_back(point, self._cotangents(weights)))
        direction = np.zeros(point.size)
        direction[x.part] = self.rng.standard_normal(x.size) * self._reach(np.abs(gradients[:, x.part]), own[x.part], x)
        return direction, weights, gradients

    def _reach(self, slopes: np.ndarray, own: np.ndarray, x: Variable) -> np.ndarray:
        """Return how far to move each element, so that ``slopes`` (outputs, n) claim about the same of all."""
        most = np.maximum(own, self.scales[x.part])
        # Of an element without a claim nothing tells which of its two sizes is the right one.
        either = np.where(self.rng.random(x.size) < 0.5, own, most)
        norms = np.linalg.norm(slopes, axis=1, keepdims=True)
        if not norms.any() or not np.isfinite(norms).all():
            return either
        slope = (slopes / np.where(norms > 0, norms, 1.0)).max(axis=0)
        claims = slope * own
        faint = claims <= self.part * claims.max()
        faint = faint if faint.any() else np.ones(x.size, bool)
        claimed = claims[faint & (claims > 0)]
        level = max(float(np.quantile(claimed, FAINT)), LEAST_LEVEL * float(claimed.max())) if claimed.size else 0.0
        moves = np.where(slope > 0, np.clip(level / np.maximum(slope, 1e-300), LEAST_MOVE * own, most), either)
        return np.where(faint, moves, 0.0)

    def _compare(self, point: np.ndarray, x: Variable) -> Slopes:
        subject, outputs = self.subject, self.subject.outputs
        start = subject.value(point)
        rough = self._rough(x)
        noise = np.maximum(self._noise(point, start[0]), rough)
        magnitudes = sizes(subject, point, start[0], noise, self.scales, self.rng)
        direction, weights, gradients = self._draw(point, x, start[0], magnitudes)
        size = float(np.abs(direction).max(initial=0.0)) or 1.0
        direction /= size

        def weighted(values: np.ndarray) -> np.ndarray:
            return np.array([w @ values[y.part] for w, y in zip(weights, outputs, strict=True)])

        def total(values: np.ndarray) -> np.ndarray:
            return np.array([np.linalg.norm(w * values[y.part]) for w, y in zip(weights, outputs, strict=True)])

        claimed = np.where(np.isfinite(gradients), gradients, 0.0)

        def path(t: float) -> tuple[np.ndarray, bytes]:
            moved = point + t * direction
            value, branches = subject.value(moved)
            # Inputs are rounded to the nearest number; what that changes is a first-order term, far below any step.
            return weighted(value) + claimed @ (t * direction - (moved - point)), branches

        terms = (gradients * direction)[:, x.part]
        typical = np.sqrt((terms**2).sum(axis=1))
        analytical = terms.sum(axis=1)
        sums = weighted(start[0]), start[1]
        noise, natural = total(noise), total(magnitudes) / size
        options = {
            "stay_on_branch": True,
            "natural": natural,
            "resolution": total(subject.resolution * np.abs(start[0])) / np.maximum(np.abs(sums[0]), 1e-300),
            "rough": total(np.where(rough > RESTLESS * np.abs(start[0]), rough, 0.0)),
        }
        step = FIRST_STEP * size if self.step is None else self.step
        found = differentiate(path, sums, noise, step, reach=REACH if self.step is None else 0.0, **options)
        self.evaluations += found.evaluations

        steep = np.zeros(len(outputs))
        if np.isinf(analytical).any():
            steep = steepness(path, sums[0], noise, size)

        def verdicts(uncertainty: np.ndarray) -> np.ndarray:
            summed = np.where(np.isfinite(typical), typical, 0.0)
            sides = analytical, found.value, uncertainty, found.kink, found.crossed
            return judge(*sides, summed, natural, self.tolerance, steep)

        judged, uncertainty = verdicts(found.uncertainty), found.uncertainty
        if (judged == DIFFERENT).any():  # lest it be an accident of these steps
            again = differentiate(path, sums, noise, CAREFUL * step, **options)
            self.evaluations += again.evaluations
            apart = np.abs(again.value - found.value)
            uncertainty = np.where(apart > SAFETY * (again.uncertainty + uncertainty), apart, uncertainty)
            judged = verdicts(uncertainty)
        if (judged == DIFFERENT).any():  # or rounding of the backward pass
            rounding = backward_noise(subject, point, self._cotangents(weights), self.scales, self.rng)
            uncertainty = uncertainty + np.linalg.norm(rounding[:, x.part] * direction[x.part], axis=1)
            judged = verdicts(uncertainty)
        return Slopes(analytical, found.value, uncertainty, judged)

    def _cotangents(self, weights: list[np.ndarray]) -> np.ndarray:
        """Return weights of each output as rows (outputs, m) that are 0 for the others."""
        rows = np.zeros((len(weights), sum(w.size for w in weights)))
        for row, w, y in zip(rows, weights, self.subject.outputs, strict=True):
            row[y.part] = w
        return rows


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
        found = [check.along(x, number) for number in range(directions)]
        for number, y in enumerate(subject.outputs):
            entries = [_entry(y, x, k, slopes, number) for k, slopes in enumerate(found)]
            diagnoses: tuple[Diagnosis, ...] = ()
            if max((entry.verdict for entry in entries), key=ORDER.index) is Verdict.ILL_CONDITIONED:
                diagnoses = rough_values(subject, y, np.ones(y.size, bool), check.roughness[x.name])
            blocks.append(_block(y, x, entries, diagnoses))
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


def _block(y: Variable, x: Variable, entries: list[Entry], diagnoses: tuple[Diagnosis, ...]) -> Block:
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
        diagnoses,
    )
