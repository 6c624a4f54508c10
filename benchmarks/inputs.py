"""The numbers that both sides work on, drawn alike in every process, and the digests their results are compared by."""

from __future__ import annotations

import numpy as np

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1e-4
CHECKED_STEPS = 3  # the losses of the later ones depend on the gradients and the optimizer


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return standard normal float32 numbers, C-contiguous."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def image_batch(size: int, pixels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (size, 3, pixels, pixels) float32 and labels (size,) int64."""
    return normal((size, 3, pixels, pixels), seed=1), labels(size, classes)


def labels(size: int, classes: int) -> np.ndarray:
    """Return int64 classes (size,)."""
    return np.random.default_rng(2).integers(classes, size=size)


def classes_of(model: str) -> int:
    """Return how many classes a model tells apart: CIFAR's 6n + 2 nets 10, the others 1000."""
    return 10 if model in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110") else 1000


def digest(array: np.ndarray) -> list[float]:
    """Return an array's norm and its projection on random signs, in logical order and double precision.

    A gradient that is permuted, shifted or scaled has another projection, and two numbers are quickly sent.
    """
    flat = np.asarray(array, dtype=np.float64).ravel()
    signs = np.random.default_rng(3).integers(2, size=flat.size) * 2.0 - 1.0
    return [float(np.linalg.norm(flat)), float(flat @ signs)]


def disagreement(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> float:
    """Return the largest difference between two sides' numbers, relative to the largest number under its name.

    Not a number anywhere counts as infinitely far.

    Raises
    ------
    ValueError
        If the two do not name the same numbers.
    """
    if {name: len(values) for name, values in ours.items()} != {name: len(values) for name, values in theirs.items()}:
        raise ValueError(f"the sides report different things: {sorted(ours)} and {sorted(theirs)}")
    worst = 0.0
    for name, values in ours.items():
        a, b = np.array(values), np.array(theirs[name])
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(float).tiny)))
    return worst
