"""Timing a case: the rival's fastest variant is found by a trial, then both sides take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.cases import OPS, Case, machine_cases
from benchmarks.inputs import disagreement
from benchmarks.process import Worker, WorkerError

OURS = "minires"
WORKERS = {OURS: "minires_side", "pytorch": "torch_side", "openvino": "openvino_side", "machine": "machine"}
RIVALS = ("pytorch", "openvino")
TRIAL_TURNS = 3
_MODELS = ("training", "inference", "optimizer_step")  # kinds whose weights must be the same on both sides


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Parameters
    ----------
    pairs : how many turns each side takes.
    threads : of each side.
    variants : those of the rival to try; empty for all it has.
    pause : seconds before each turn. A library's threads keep spinning for a while after work, and would take the
        cores from the other side.
    tolerance : how far the results of both sides may lie apart, relative to the largest. The loss of the third step of
        a ResNet-50 lies 0.003 to 0.006 from ours, by PyTorch's variant: batch norm over few pixels magnifies rounding.
    """

    pairs: int = 7
    threads: int = 1
    rival: str = "pytorch"
    variants: tuple[str, ...] = ()
    pause: float = 0.05
    tolerance: float = 1e-2


@dataclass
class Workers:
    """The processes of one benchmark run, ended together.

    Cases of whole nets get fresh ones, so that each shows its own peak of memory. Single operations share one process
    for each side: there are many, and a process takes seconds to start.
    """

    threads: int
    shared: dict[str, Worker] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    @contextmanager
    def open(self, side: str, case: Case) -> Iterator[Worker]:
        """Lend the worker of a side for a case."""
        if case.group != OPS:
            with Worker(WORKERS[side], self.threads) as worker:
                yield worker
        else:
            if side not in self.shared:
                self.shared[side] = self.stack.enter_context(Worker(WORKERS[side], self.threads))
            try:
                yield self.shared[side]
            except WorkerError:
                self.shared.pop(side).close()  # it may be gone; the next case gets another
                raise


def measure(case: Case, workers: Workers, settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return what a case's turns gave, as results.py writes it.

    Parameters
    ----------
    tell : is told what is going on.

    Raises
    ------
    WorkerError
        If our side fails, or no variant of the rival's works.
    """
    with TemporaryDirectory() as folder, workers.open(OURS, case) as ours:
        weights = str(Path(folder) / "weights.safetensors") if case.kind in _MODELS else None
        tell(f"{case.name}: {OURS}")
        expected = _warm_up(ours, case, "default", weights)
        our_steps = steps_per_turn(ours, case.turn_seconds)
        trials = {}
        for variant in _variants(case, workers, settings):
            tell(f"{case.name}: trying {settings.rival}, {variant}")
            trials[variant] = _trial(case, variant, weights, expected, workers, settings)
        best = fastest(trials)
        if best is None:
            reasons = "; ".join(f"{variant}: {trial['error']}" for variant, trial in trials.items())
            raise WorkerError(f"no variant of {settings.rival} works: {reasons}")
        with workers.open(settings.rival, case) as rival:
            tell(f"{case.name}: {OURS} and {settings.rival}, {best}, in turns")
            _warm_up(rival, case, best, weights)
            rival_steps = steps_per_turn(rival, case.turn_seconds)
            our_seconds, rival_seconds = [], []
            for _ in range(settings.pairs):
                our_seconds.append(_turn(ours, our_steps, settings.pause))
                rival_seconds.append(_turn(rival, rival_steps, settings.pause))
            result = {
                "name": case.name,
                "group": case.group,
                "options": case.options,
                "amount_per_step": case.amount,
                "unit": case.unit,
                "rival": settings.rival,
                "variant": best,
                "variants_tried": trials,
                "ours": _side(case, our_seconds, our_steps, ours),
                "theirs": _side(case, rival_seconds, rival_steps, rival),
                "ratio": spread(np.divide(rival_seconds, our_seconds).tolist()),
            }
    if result["ours"]["memory"]:
        result["memory_ratio"] = result["ours"]["memory"]["growth"] / max(1, result["theirs"]["memory"]["growth"])
    return result


def reach(settings: Settings) -> dict[str, float]:
    """Return the most that the machine reaches with NumPy: GFLOP/s in a matrix product, GB/s in a copy."""
    reached = {}
    with Worker(WORKERS["machine"], settings.threads) as worker:
        for case in machine_cases():
            worker.ask("prepare", kind=case.kind, options=case.options, variant="numpy", weights=None)
            steps = steps_per_turn(worker, case.turn_seconds)
            seconds = min(_turn(worker, steps, settings.pause) for _ in range(TRIAL_TURNS))
            reached[f"{case.kind}_G{case.unit}_per_s"] = case.amount / seconds / 1e9
    return reached


def check_variants(chosen: list[Case], settings: Settings) -> None:
    """Make sure that each variant asked for is one that the rival has for some of the chosen cases.

    Raises
    ------
    ValueError
        If one is not; the message names those there are.
    """
    if not settings.variants:
        return
    with Worker(WORKERS[settings.rival], settings.threads) as rival:
        kinds = dict.fromkeys(case.kind for case in chosen)
        known = dict.fromkeys(variant for kind in kinds for variant in rival.ask("variants", kind=kind))
    for variant in settings.variants:
        if variant not in known:
            names = ", ".join(f'"{name}"' for name in known)
            raise ValueError(f'{settings.rival} has no variant "{variant}" here: choose from {names}')


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median, the quartiles (interpolated linearly) and the values."""
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper, "values": values}


def fastest(trials: dict[str, dict[str, Any]]) -> str | None:
    """Return the variant with the smallest seconds; None where all have failed."""
    timed = {variant: trial["seconds"] for variant, trial in trials.items() if "seconds" in trial}
    return min(timed, key=timed.__getitem__) if timed else None


def steps_per_turn(worker: Any, turn_seconds: float) -> int:
    """Return how many steps take ``turn_seconds``, by running ever more of them."""
    steps = 1
    while (seconds := worker.ask("run", steps=steps)) < turn_seconds:
        # Not at once: the first steps are slow, and say little of those to come.
        steps = min(10 * steps, math.ceil(1.1 * steps * turn_seconds / max(seconds, 1e-9)))
    return max(1, math.ceil(steps * turn_seconds / seconds))


def _variants(case: Case, workers: Workers, settings: Settings) -> list[str]:
    with workers.open(settings.rival, case) as rival:
        variants = rival.ask("variants", kind=case.kind)
    return [variant for variant in variants if variant in settings.variants] or variants


def _trial(
    case: Case,
    variant: str,
    weights: str | None,
    expected: dict[str, list[float]],
    workers: Workers,
    settings: Settings,
) -> dict[str, Any]:
    """Check a variant of the rival's against our numbers and time it briefly; where it fails, say why."""
    try:
        with workers.open(settings.rival, case) as rival:
            apart = disagreement(expected, _warm_up(rival, case, variant, weights))
            if not apart <= settings.tolerance:
                raise WorkerError(
                    f"its numbers lie {apart:.2g} from ours, relatively; {settings.tolerance} are allowed"
                )
            steps = steps_per_turn(rival, case.turn_seconds)
            seconds = min(_turn(rival, steps, settings.pause) for _ in range(TRIAL_TURNS))
            return {"seconds": seconds, "disagreement": apart, "memory": _memory(rival, case)}
    except WorkerError as error:
        return {"error": str(error)}


def _warm_up(worker: Worker, case: Case, variant: str, weights: str | None) -> dict[str, list[float]]:
    """Make a case ready and run its first steps, whose numbers are returned. What compiles, compiles here."""
    worker.ask("prepare", kind=case.kind, options=case.options, variant=variant, weights=weights)
    numbers = worker.ask("check")
    worker.ask("forget_peak")
    return numbers


def _turn(worker: Worker, steps: int, pause: float) -> float:
    """Return the seconds of one step."""
    time.sleep(pause)
    return worker.ask("run", steps=steps) / steps


def _side(case: Case, seconds: list[float], steps: int, worker: Worker) -> dict[str, Any]:
    per_step = spread(seconds)
    return {
        "seconds_per_step": per_step,
        "per_second": case.amount / per_step["median"],
        "steps_per_turn": steps,
        "memory": _memory(worker, case),
    }


def _memory(worker: Worker, case: Case) -> dict[str, Any] | None:
    """Return the peak of memory and its growth over what the libraries take; None where cases share a process."""
    if case.group == OPS:
        return None
    memory = worker.ask("memory")
    return memory | {"growth": memory["peak"] - memory["before"]}
