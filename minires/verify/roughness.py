"""Whether values move in steps: those of a function that computes in float32 inside, or cancels large numbers.

Over distances much smaller than a step such a function rests or jumps, over larger ones every value is off by up to
half a step. So differences of high order (see `differences.estimate_noise`) have the same size over a wide range of
distances; those of a smooth function fall with the distance, below where it oscillates, and those of a kink too. A jump
lies on one side of the point, so both sides are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np

from minires.verify.differences import Path

DISTANCES = 2.0 ** np.arange(-30, -3, 2)
FAR = 2.0 ** np.arange(-2, 15, 2)  # for what has not moved at all
RESTING = 2.0**-16  # what does not move over smaller distances rests
POINTS = 10
ORDERS = 4, 6
STEADY = 2.5  # noise at two distances, one four times the other, that differs by less: that of a kink is four times it
WHITE = 0.2  # the higher order shows as much noise as the lower, but of a smooth function less than this part
LEAST = 32.0  # times the rounding of float64
FORMATS = (("float32", 2.0**-26, 2.0**-19), ("float16", 2.0**-13, 2.0**-9), ("bfloat16", 2.0**-9, 2.0**-6))


@dataclass(frozen=True)
class Roughness:
    """Arrays (m,): by how much each output may be off, and the steps in which it moves; 0 where none were seen."""

    noise: np.ndarray
    step: np.ndarray
    part: float  # the steps as a part of the values, on the median
    evaluations: int


def find_roughness(f: Path, start: np.ndarray, rounding: np.ndarray) -> Roughness:
    """Look at f(t) around 0, where its value is ``start``, at distances from 2^-30 on.

    ``rounding`` (m,) is what float64 can be off by.
    """
    m = start.size
    noise, step, smooth, moved = np.zeros(m), np.full(m, np.inf), np.zeros(m, bool), np.zeros(m, bool)
    stairs, paused = np.zeros((2, m), bool), np.zeros(m, bool)
    finest = LEAST * rounding
    before: list[tuple[np.ndarray, np.ndarray]] | None = None
    moved_near = moved
    evaluations = 0
    for distance in (*DISTANCES, *FAR):
        if distance in FAR and moved.all():
            break
        sides, is_smooth = [], np.ones(m, bool)
        for side, sign in enumerate((1, -1)):
            pairs = [f(sign * distance * k) for k in range(1, POINTS + 1)]
            evaluations += POINTS
            values = np.stack([value for value, _ in pairs])
            on_branch = len({branches for _, branches in pairs}) == 1
            low, high = (_noise(values, order) for order in ORDERS)
            heard = low > np.maximum(finest, LEAST * np.finfo(np.float64).eps * np.abs(values).max(axis=0))
            usable = np.isfinite(low) & heard & on_branch
            sides.append((low, usable & (high >= WHITE * low)))
            is_smooth &= usable & (high < WHITE * low)
            jumps = np.abs(np.diff(values, axis=0))
            moved |= (jumps > 0).any(axis=0)
            paused |= (jumps == 0).any(axis=0)
            step = np.minimum(step, np.where(jumps > finest, jumps, np.inf).min(axis=0))
            stairs[side] |= on_branch & _are_stairs(jumps, finest)
        smooth |= is_smooth
        if before is not None:
            steady = np.ones(m, bool)
            for (low, is_noise), (low_before, was_noise) in zip(sides, before, strict=True):
                alike = np.maximum(low, low_before) <= STEADY * np.minimum(low, low_before)
                steady &= is_noise & was_noise & alike
            largest = np.maximum.reduce([low for low, _ in (*sides, *before)])
            noise = np.where(steady & ~smooth, np.maximum(noise, largest), noise)
        before = sides
        if distance <= RESTING:
            moved_near = moved.copy()
    # A step of uniform rounding is sqrt(12) times the noise; the smallest jump is more exact if all else rests.
    clear = np.isfinite(step) & (step >= noise / 2) & ((step <= 8 * noise) | (noise == 0))
    noise = np.where(stairs.all(axis=0) & clear, np.maximum(noise, step / np.sqrt(12)), noise)
    smallest = step
    step = np.where(noise > 0, np.where(clear, step, np.sqrt(12) * noise), 0.0)
    # Where others move in steps, what rests has not come to the end of its own, nor what jumps by as much at once.
    part = 0.0
    if noise.any():
        seen = (noise > 0) & (start != 0)
        part = float(np.median(step[seen] / np.abs(start[seen]))) if seen.any() else 0.0
        resting = (noise == 0) & (~moved_near | (paused & (smallest >= part * np.abs(start) / 4)))
        step = np.where(resting, np.maximum(part * np.abs(start), step[noise > 0].min()), step)
        noise = np.where(resting, step / np.sqrt(12), noise)
    return Roughness(noise, step, part, evaluations)


def describe(step: float, value: float) -> str:
    """Say what steps of this size suggest in values of this size."""
    part = step / abs(value) if value else np.inf
    guesses = [f"does it compute in {name}" for name, least, most in FORMATS if least <= part <= most]
    guesses.append(f"{'or does it' if guesses else 'does it'} cancel numbers of about {step * 2.0**52:.0e}")
    text = f"the values move in steps of about {step:.2g}"
    return text + (f", {part:.1g} of their size: " if value else ": ") + ", ".join(guesses) + "?"


def _are_stairs(jumps: np.ndarray, finest: np.ndarray) -> np.ndarray:
    """Whether values whose differences are ``jumps`` (k, m) move, rest and move again."""
    moves = jumps > finest
    before, after = np.logical_or.accumulate(moves, axis=0), np.logical_or.accumulate(moves[::-1], axis=0)[::-1]
    return (before[:-2] & (jumps[1:-1] == 0) & after[2:]).any(axis=0)


def _noise(values: np.ndarray, order: int) -> np.ndarray:
    factor = factorial(order) ** 2 / factorial(2 * order)
    return np.sqrt(factor * np.mean(np.diff(values, order, axis=0) ** 2, axis=0))
