"""What a catalogue entry is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Gradients = list[np.ndarray]


@dataclass(frozen=True)
class Bug:
    """A wrong backward pass: ``wrong(inputs, dy, right)`` returns its gradients."""

    name: str
    wrong: Callable[[tuple, np.ndarray, Gradients], Gradients]


@dataclass(frozen=True)
class Op:
    """A function of arrays, its right backward pass ``vjp(*inputs, dy)``, where to check it, and bugs."""

    name: str
    fn: Callable[..., np.ndarray]
    vjp: Callable[..., Gradients]
    inputs: tuple[np.ndarray, ...]
    bugs: list[Bug] = field(default_factory=list)

    def right(self, inputs, dy):
        return list(self.vjp(*inputs, dy))

    def wrong(self, bug: Bug):
        """The bug as ``gradcheck_numpy`` calls a backward pass."""
        return lambda inputs, dy: [np.array(g) for g in bug.wrong(inputs, dy, self.right(inputs, dy))]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def first(change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """A bug in the gradient of the first input alone."""
    return at(0, change)


def at(index: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """A bug in the gradient of one input alone."""

    def wrong(inputs, dy, right):
        return [change(g.copy()) if i == index else g for i, g in enumerate(right)]

    return wrong


def put(array: np.ndarray, index, value) -> np.ndarray:
    array[index] = value
    return array


def scaled(array: np.ndarray, index, factor: float) -> np.ndarray:
    array[index] *= factor
    return array
