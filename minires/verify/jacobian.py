"""The full check: every element of every output by every element of every input."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from minires.verify.diagnosis import diagnose
from minires.verify.differences import (
    FIRST_STEP,
    PRECISION,
    REACH,
    SAFETY,
    Derivative,
    Path,
    differentiate,
    estimate_noise,
    steepness,
)
from minires.verify.result import Block, Diagnosis, Entry
from minires.verify.roughness import Roughness, describe, find_roughness
from minires.verify.subject import Subject, Variable
from minires.verify.verdict import (
    DIFFERENT,
    EQUAL,
    ILL_CONDITIONED,
    NOT_DIFFERENTIABLE,
    ORDER,
    Tolerance,
    Verdict,
    judge,
)

NUDGES = 5
NUDGE = 0.004  # how far, as a part of the scale of an input: well beyond the smallest step
MOST_DERIVATIVES = 2**25  # their arrays take about 1 GB
WORST = 5
NOISE_STEP = 2.0**-30
NEAR_NOISE_STEP = 2.0**-40  # beside a pole the other one is no tiny distance
LEAST_SCALE = 1e-4  # an input of 1e-12 is taken for a 0: to exp(x) steps of its size would be nothing
TOGETHER = ", all elements moved together"
CAREFUL = 0.043  # the second look's steps, as a part of the first's
TINY = 1e-3  # an element that is a smaller part of its scale is moved by steps of its own size as well
RESTLESS = 1e-9  # steps that are a smaller part of a value do not hide that it rests
LEAST_OWN = 1e-100  # and one smaller than this is 0
ROUNDED = 1e-6  # differences up to this part of the largest derivative of a block may be rounding of the backward pass


@dataclass
class Entries:
    """Arrays (m, n): both sides of every derivative, and what is known of it."""

    analytical: np.ndarray
    value: np.ndarray
    uncertainty: np.ndarray
    kink: np.ndarray
    crossed: np.ndarray
    natural: np.ndarray
    steepness: np.ndarray

    def replace(self, where: Any, other: Entries) -> None:
        """Take the entries at ``where``, an index into (m, n), from another."""
        for each in fields(self):
            getattr(self, each.name)[where] = getattr(other, each.name)[where]


class FullCheck:
    """Compares the Jacobians of a subject; afterwards ``blocks``, ``nudged`` and ``evaluations`` tell the outcome."""

    def __init__(self, subject: Subject, tolerance: Tolerance, rng: np.random.Generator, step: float | None = None):
        self.subject, self.tolerance, self.rng = subject, tolerance, rng
        self.m = sum(v.size for v in subject.outputs)
        self.n = sum(v.size for v in subject.inputs)
        if self.m * self.n > MOST_DERIVATIVES:
            raise ValueError(
                f"gradcheck: {self.m} outputs by {self.n} inputs make a Jacobian too large to compare in full: "
                'use mode="directions"'
            )
        self.scales = element_scales(subject)
        self.steps = FIRST_STEP * self.scales if step is None else np.full(self.n, step)
        self.reach = REACH if step is None else 0.0
        self.nudged = 0
        self.evaluations = 0
        self.noise = np.zeros(self.m)  # at the point looked at last
        self.roughness: dict[str, Roughness | None] = {x.name: None for x in subject.inputs}

    def run(self) -> tuple[Block, ...]:
        """Compare at the point; where that has kinks, compare those columns beside it."""
        point = self.subject.point
        self.entries, self.verdicts = self._examine(point, np.arange(self.n))
        for x in self.subject.inputs:
            if self.verdicts[:, x.part].any() and self._is_rough(point, x):
                columns = np.arange(x.part.start, x.part.stop)
                entries, verdicts = self._examine(point, columns)
                self.entries.replace(np.s_[:, x.part], entries)
                self.verdicts[:, x.part] = verdicts[:, x.part]
        self.analytical_at_point = self.entries.analytical.copy()
        together = [
            entry
            for x in self.subject.inputs
            if (self.verdicts[:, x.part] == NOT_DIFFERENTIABLE).any()
            for entry in self._moved_together(point, x)
        ]
        for _ in range(NUDGES):
            # A gradient that is not finite stays as it is: no point nearby excuses it.
            open_ = np.isin(self.verdicts, (ILL_CONDITIONED, NOT_DIFFERENTIABLE)) & np.isfinite(self.entries.analytical)
            for x in self.subject.inputs:  # nor do the steps of a rough function become smaller there
                is_rough = (self._rough(x) > 0)[:, None]
                open_[:, x.part] &= ~(is_rough & (self.verdicts[:, x.part] == ILL_CONDITIONED))
            columns = np.flatnonzero(open_.any(axis=0))
            if not columns.size:
                break
            beside = self._nudge(point)
            if beside is None:
                continue
            self.nudged += 1
            entries, verdicts = self._examine(beside, columns, careful=True)
            settled = open_ & np.isin(verdicts, (EQUAL, DIFFERENT))
            settled[:, np.setdiff1d(np.arange(self.n), columns)] = False
            self.entries.replace(settled, entries)
            self.verdicts[settled] = verdicts[settled]
        blocks = [self._block(y, x) for y in self.subject.outputs for x in self.subject.inputs]
        return tuple(
            with_entries(
                block,
                [e for e in together if e.output.startswith(block.output) and e.input == f"{block.input}{TOGETHER}"],
            )
            for block in blocks
        )

    def _is_rough(self, point: np.ndarray, x: Variable) -> bool:
        """Look whether outputs move in steps if this input does, and remember it."""
        found = roughness_at(self.subject, point, self.scales, self.rng, x, self.noise)
        self.roughness[x.name] = found
        self.evaluations += found.evaluations
        return bool(found.noise.any())

    def _rough(self, x: Variable) -> np.ndarray:
        found = self.roughness[x.name]
        return np.zeros(self.m) if found is None else found.noise

    def nonlinearity(self) -> str | None:
        """Tell whether the backward pass treats a dense gradient otherwise than the sum of its elements.

        One that ignores the gradient that arrives may get every row of the Jacobian right.
        """
        point, rows = self.subject.point, self.analytical_at_point
        weights = self.rng.standard_normal(self.m)
        dense = self.subject.pull_back(point, [weights])[0]
        apart = np.abs(dense - weights @ rows)
        allowed = self.tolerance.relative + self.subject.resolution  # the gradient that arrives is rounded too
        allowed = (np.abs(weights) * allowed) @ np.abs(rows) + 1e-300
        for x in self.subject.inputs:  # a rough function may compute its gradient as roughly
            found = self.roughness[x.name]
            if found is not None:
                allowed[x.part] += (np.abs(weights) * found.part) @ np.abs(rows[:, x.part])
        if not (apart > allowed).any():
            return None
        # What cancels in the backward pass leaves its rounding: that of the product, and those of the rows.
        noise = backward_noise(self.subject, point, np.stack([weights, *np.eye(self.m)]), self.scales, self.rng)
        noise = noise[0] + np.abs(weights) @ noise[1:]
        for x in self.subject.inputs:
            noise[x.part] = noise[x.part].max(initial=0.0)
        wrong = apart > allowed + SAFETY * noise
        if not wrong.any():
            return None
        x = next(x for x in self.subject.inputs if wrong[x.part].any())
        return (
            f"different: the backward pass is not linear in the gradient that arrives: for {x.name}, that of a sum of "
            f"outputs differs by {float(apart[x.part].max()):.2g} from the sum of theirs"
        )

    def _moved_together(self, point: np.ndarray, x: Variable) -> list[Entry]:
        """Compare along (1, ..., 1) at a point with kinks, and return what is different.

        At a tie each element alone has a kink, but all of them together move the maximum smoothly: their shares of its
        gradient must add up to all of it.
        """
        direction = np.zeros(self.n)
        direction[x.part] = 1

        def along(t: float) -> tuple[np.ndarray, bytes]:
            return self.subject.value(point + t * direction)

        start = self.subject.value(point)
        noise = noise_at(self.subject, point, self.scales, self.rng, start[0])
        size = float(self.scales[x.part].max())
        rough = self._rough(x)
        noise = np.maximum(noise, rough)
        # Steps that the largest element takes exactly, all others do.
        origin = float(np.abs(point[x.part]).max())
        found = differentiate(along, start, noise, FIRST_STEP * size, stay_on_branch=True, origin=origin, rough=rough)
        self.evaluations += 19 + found.evaluations
        columns = self.entries.analytical[:, x.part]
        sides = columns.sum(axis=1), found.value, found.uncertainty, found.kink, found.crossed
        natural = sizes(self.subject, point, start[0], noise, self.scales, self.rng) / size
        verdicts = judge(*sides, np.abs(columns).sum(axis=1), natural, self.tolerance)
        verdicts[~np.isfinite(columns).all(axis=1)] = NOT_DIFFERENTIABLE  # NaN is judged where it stands
        entries = []
        for y in self.subject.outputs:
            for row in np.flatnonzero(verdicts[y.part] == DIFFERENT)[:WORST]:
                at = y.part.start + int(row)
                entries.append(
                    Entry(
                        y.name + bracketed(y.at(int(row))),
                        x.name + TOGETHER,
                        float(sides[0][at]),
                        float(found.value[at]),
                        float(SAFETY * found.uncertainty[at]),
                        Verdict.DIFFERENT,
                    )
                )
        return entries

    def _examine(self, point: np.ndarray, columns: np.ndarray, careful: bool = False) -> tuple[Entries, np.ndarray]:
        """Compare ``columns`` at ``point``, and what seems different once more with other steps.

        The second look (the first, if ``careful``) tells a bug from an accident of the first steps, and from a kink:
        its steps shrink until they stay on the branch that the point is on, if they can.
        """
        start = self.subject.value(point)
        analytical = np.stack([np.zeros(self.n), *self.subject.pull_back(point, np.eye(self.m))])[1:]
        noise = noise_at(self.subject, point, self.scales, self.rng, start[0])
        self.noise = noise
        self.evaluations += 19
        entries = self._differences(point, columns, start, noise, analytical, careful)
        if not careful:
            entries.crossed[:] = False
        verdicts = self._judge(entries)
        suspects = np.flatnonzero((verdicts == DIFFERENT).any(axis=0))
        if suspects.size:
            again = self._differences(point, suspects, start, noise, analytical, not careful)
            suspected = verdicts == DIFFERENT
            apart = np.abs(again.value - entries.value)
            unlike = suspected & (apart > SAFETY * (again.uncertainty + entries.uncertainty))
            entries.uncertainty[unlike] = apart[unlike]
            entries.kink |= suspected & again.kink
            entries.crossed |= suspected & again.crossed & (not careful)
            verdicts = self._judge(entries)
        doubtful = (verdicts == DIFFERENT) & self._may_be_rounding(entries)
        rows = np.flatnonzero(doubtful.any(axis=1))
        if rows.size:
            rounding = backward_noise(self.subject, point, np.eye(self.m)[rows], self.scales, self.rng)
            entries.uncertainty[rows] += np.where(doubtful[rows], rounding, 0.0)
            verdicts = self._judge(entries)
        return entries, verdicts

    def _may_be_rounding(self, entries: Entries) -> np.ndarray:
        """Where both sides are so close, beside the largest of their block, that rounding is worth measuring."""
        near = np.zeros((self.m, self.n), bool)
        for y in self.subject.outputs:
            for x in self.subject.inputs:
                a, n = entries.analytical[y.part, x.part], entries.value[y.part, x.part]
                near[y.part, x.part] = np.abs(a - n) <= ROUNDED * np.abs(a[np.isfinite(a)]).max(initial=0.0)
        return near

    def _differences(
        self,
        point: np.ndarray,
        columns: np.ndarray,
        start: tuple[np.ndarray, bytes],
        noise: np.ndarray,
        analytical: np.ndarray,
        careful: bool = False,
    ) -> Entries:
        shape = (self.m, self.n)
        entries = Entries(
            analytical,
            np.zeros(shape),
            np.full(shape, np.inf),
            np.zeros(shape, bool),
            np.zeros(shape, bool),
            np.zeros(shape),
            np.zeros(shape, np.int8),
        )
        for x in self.subject.inputs:
            rough = self._rough(x)
            size = sizes(self.subject, point, start[0], np.maximum(noise, rough), self.scales, self.rng)
            entries.natural[:, x.part] = size[:, None] / self.scales[x.part]
            for column in columns[(columns >= x.part.start) & (columns < x.part.stop)]:
                found = self._differentiate(point, column, start, noise, entries.natural[:, column], rough, careful)
                entries.value[:, column], entries.uncertainty[:, column] = found.value, found.uncertainty
                entries.kink[:, column], entries.crossed[:, column] = found.kink, found.crossed
                if np.isinf(analytical[:, column]).any():
                    along = self._along(point, column)
                    entries.steepness[:, column] = steepness(along, start[0], noise, self.scales[column])
                self.evaluations += found.evaluations
        return entries

    def _along(self, point: np.ndarray, column: int) -> Path:
        def along(t: float) -> tuple[np.ndarray, bytes]:
            moved = point.copy()
            moved[column] += t
            return self.subject.value(moved)

        return along

    def _differentiate(
        self,
        point: np.ndarray,
        column: int,
        start: tuple[np.ndarray, bytes],
        noise: np.ndarray,
        natural: np.ndarray,
        rough: np.ndarray,
        careful: bool,
    ) -> Derivative:
        """By steps of the scale of an element, and if that is tiny beside its neighbours, by steps of its own size.

        log(x) at 1e-12 asks for the latter, exp(x) for the former: of each output, the more certain is taken.
        """

        def by(step: float, reach: float) -> Derivative:
            step *= CAREFUL if careful else 1.0
            return differentiate(
                self._along(point, column),
                start,
                np.maximum(noise, rough),
                step,
                stay_on_branch=careful,
                reach=reach,
                natural=natural,
                resolution=self.subject.resolution,
                origin=float(point[column]),
                rough=np.where(rough > RESTLESS * np.abs(start[0]), rough, 0.0),
            )

        own = abs(float(point[column]))
        if self.reach == 0 or not LEAST_OWN < own < TINY * self.scales[column]:
            return by(self.steps[column], self.reach)
        near = by(FIRST_STEP * own, 0.0)
        sharp = ~near.kink & (near.uncertainty <= PRECISION * np.abs(near.value))
        if sharp.all():
            return near
        far = by(self.steps[column], self.reach)
        return far.replace(sharp | (~near.kink & (far.kink | (near.uncertainty < far.uncertainty))), near)

    def _judge(self, entries: Entries) -> np.ndarray:
        return judge(
            entries.analytical,
            entries.value,
            entries.uncertainty,
            entries.kink,
            entries.crossed,
            0.0,
            entries.natural,
            self.tolerance,
            entries.steepness,
        )

    def _nudge(self, point: np.ndarray) -> np.ndarray | None:
        """Return a point beside ``point``, every element moved by its own amount; None where f is not finite."""
        amount = self.rng.uniform(0.5, 1.0, self.n) * self.rng.choice([-1.0, 1.0], self.n)
        beside = point + NUDGE * self.scales * amount
        return beside if np.isfinite(self.subject.value(beside)[0]).all() else None

    def _block(self, y: Variable, x: Variable) -> Block:
        part = (y.part, x.part)
        verdicts, entries = self.verdicts[part], self.entries
        counts = {verdict: int((verdicts == code).sum()) for code, verdict in enumerate(ORDER)}
        badness = np.abs(entries.analytical - entries.value)[part]
        badness = np.where(np.isfinite(badness), badness, np.inf)
        bad = np.flatnonzero(verdicts)
        order = sorted(bad, key=lambda i: (-verdicts.flat[i], -badness.flat[i]))[:WORST]
        wrong = verdicts == DIFFERENT
        if wrong.any():
            diagnoses = diagnose(entries.analytical[part], entries.value[part], wrong, y.shape, x.shape)
        else:
            rows = (verdicts == ILL_CONDITIONED).any(axis=1)
            diagnoses = rough_values(self.subject, y, rows, self.roughness[x.name])
        return Block(
            y.name,
            x.name,
            y.shape,
            x.shape,
            {verdict: count for verdict, count in counts.items() if count},
            tuple(self._entry(y, x, *divmod(int(i), x.size), verdicts.flat[i]) for i in order),
            diagnoses,
        )

    def _entry(self, y: Variable, x: Variable, row: int, column: int, code: int) -> Entry:
        at = (y.part.start + row, x.part.start + column)
        return Entry(
            y.name + bracketed(y.at(row)),
            x.name + bracketed(x.at(column)),
            float(self.entries.analytical[at]),
            float(self.entries.value[at]),
            float(SAFETY * self.entries.uncertainty[at]),
            ORDER[code],
        )


def with_entries(block: Block, entries: list[Entry]) -> Block:
    """Return the block with more entries that are different."""
    if not entries:
        return block
    counts = {**block.counts, Verdict.DIFFERENT: block.counts.get(Verdict.DIFFERENT, 0) + len(entries)}
    note = Diagnosis("ties", "at a tie, the shares of the equal elements do not add up to the whole gradient")
    return replace(block, counts=counts, worst=(*entries, *block.worst)[:WORST], diagnoses=(note, *block.diagnoses))


def element_scales(subject: Subject) -> np.ndarray:
    """Return (n,) the size of steps that mean something to each element: its own size, or that of its neighbours."""
    overall = _root_mean_square(subject.point)
    scales = np.ones(subject.point.size)
    for x in subject.inputs:
        values = np.abs(subject.point[x.part])
        typical = _root_mean_square(values) or overall or 1.0
        scales[x.part] = np.maximum(values, max(typical / 4, overall / 100, LEAST_SCALE))
    return scales


def own_sizes(point: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return (n,) the sizes of the elements themselves, and the scales of those that are 0."""
    return np.where(point == 0, scales, np.abs(point))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def noise_at(
    subject: Subject, point: np.ndarray, scales: np.ndarray, rng: np.random.Generator, value: np.ndarray
) -> np.ndarray:
    """Return (m,) by how much each output may be off around ``point``."""
    direction = rng.standard_normal(point.size) * own_sizes(point, scales)

    def noise(step: float) -> np.ndarray:
        moves = (point + step * direction) - point  # multiples of which are added without rounding
        return estimate_noise(lambda k: subject.value(point + k * moves), value, 1.0, subject.resolution)

    return np.minimum(noise(NOISE_STEP), noise(NEAR_NOISE_STEP))


def roughness_at(
    subject: Subject, point: np.ndarray, scales: np.ndarray, rng: np.random.Generator, x: Variable, noise: np.ndarray
) -> Roughness:
    """Look for steps in the outputs, beyond their ``noise``, while ``x`` moves in a random direction."""
    direction = np.zeros(point.size)
    signs = rng.choice([-1.0, 1.0], x.size)  # none is moved by much less than the others, or its steps are not seen
    direction[x.part] = signs * rng.uniform(0.5, 1.0, x.size) * own_sizes(point, scales)[x.part]
    start = subject.value(point)[0]
    rounding = subject.resolution * sizes(subject, point, start, noise, scales, rng)
    return find_roughness(lambda t: subject.value(point + t * direction), start, rounding)


def rough_values(subject: Subject, y: Variable, rows: np.ndarray, found: Roughness | None) -> tuple[Diagnosis, ...]:
    """Say what makes the derivatives of these ``rows`` of an output ill-conditioned, if it is known."""
    values = subject.value(subject.point)[0][y.part]
    if found is not None and (found.step[y.part][rows] > 0).any():
        row = int(np.argmax(np.where(rows, found.step[y.part], 0.0)))
        return (Diagnosis("values in steps", describe(float(found.step[y.part][row]), float(values[row]))),)
    if rows.any():
        row = int(np.argmax(np.where(rows, np.abs(values), 0.0)))
        step = float(2 * subject.resolution[y.part][row] * abs(values[row]))
        return (Diagnosis("rounded values", f"a value of {values[row]:.2g} is rounded in steps of about {step:.1g}"),)
    return ()


def sizes(
    subject: Subject,
    point: np.ndarray,
    value: np.ndarray,
    noise: np.ndarray,
    scales: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return (m,) how large the numbers are that each output is made of: itself, or what cancelled to leave it.

    The latter is known from its rounding and from its values a step away, and believed up to 1 or the largest element
    of the output.
    """
    found, direction = np.abs(value), rng.standard_normal(point.size)

    def beside(moves: np.ndarray) -> np.ndarray:
        values = np.abs(subject.value(point + FIRST_STEP * moves * direction)[0])
        return np.where(np.isfinite(values), values, 0.0)

    others = np.maximum(noise / subject.resolution, beside(own_sizes(point, scales)))
    if not found.all():  # an output that is exactly 0 may be so over the size of an input that is tiny itself
        others = np.where(found == 0, np.maximum(others, beside(scales)), others)
    for y in subject.outputs:
        most = max(1.0, float(found[y.part].max(initial=0.0)))
        found[y.part] = np.maximum(found[y.part], np.minimum(others[y.part], most))
    return found


def backward_noise(
    subject: Subject, point: np.ndarray, cotangents: np.ndarray, scales: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return (len(cotangents), n) by how much the products of the backward pass may be off by rounding."""
    direction = rng.standard_normal(point.size) * own_sizes(point, scales)

    def products(t: float) -> tuple[np.ndarray, bytes]:
        return np.concatenate(subject.pull_back(point + t * direction, cotangents)), b""

    value = products(0.0)[0]
    return estimate_noise(products, value, NOISE_STEP, np.full(value.size, np.finfo(np.float64).eps)).reshape(
        len(cotangents), -1
    )


def bracketed(index: tuple[int, ...]) -> str:
    """Return "[1, 2]", or nothing for a 0-dimensional variable."""
    return f"[{', '.join(map(str, index))}]" if index else ""
