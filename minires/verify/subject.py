"""What is checked: a function of numbers, and the backward pass that claims to be its derivative.

Inputs and outputs are laid end to end, as float64 vectors x (n,) and y (m,): the checks know no shapes, and neither
Tensors nor the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Variable:
    """An input or output: where it lies in the vector, and what it is called in reports."""

    name: str
    shape: tuple[int, ...]
    part: slice

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.part.stop - self.part.start

    def at(self, position: int) -> tuple[int, ...]:
        """Return the index, in its shape, of the element at ``position`` of its part."""
        return tuple(int(i) for i in np.unravel_index(position, self.shape)) if self.shape else ()


def variables(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Variable, ...]:
    """Return variables that lie end to end."""
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    parts = [slice(int(begin), int(end)) for begin, end in itertools.pairwise(ends)]
    return tuple(Variable(*each) for each in zip(names, map(tuple, shapes), parts, strict=True))


class Subject(Protocol):
    """A function and its backward pass."""

    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    point: np.ndarray  # (n,), where to check
    resolution: np.ndarray  # (m,), the relative spacing of the numbers that come out
    used: tuple[bool, ...]  # for each input, whether the backward pass claims to know it

    def value(self, x: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Return y (m,) at x, and a digest of the branches that were taken on the way."""

    def pull_back(self, x: np.ndarray, cotangents: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Return for each cotangent (m,) the vector-Jacobian product (n,) that the backward pass computes at x."""


class SideEffectError(ValueError):
    """The function under test changes its inputs, or its backward pass the gradient that it is given."""


def kind_of(value: Any) -> str:
    """Return the name of a type for messages; that of another library's Tensor says whose it is."""
    kind = type(value)
    foreign = kind.__name__ == "Tensor" and kind.__module__.split(".")[0] != "minires"
    return f"{kind.__module__}.{kind.__name__}" if foreign else kind.__name__


def check_shapes(found: Sequence[tuple[int, ...]], outputs: Sequence[Variable], caller: str) -> None:
    """Raise ValueError unless the outputs have the shapes that they had at the point itself."""
    expected = [y.shape for y in outputs]
    if list(found) != expected:
        raise ValueError(
            f"{caller}: at a point nearby the function returns shapes {list(found)} instead of {expected}: shapes must "
            "not depend on values"
        )


def split(vector: np.ndarray, parts: Sequence[Variable]) -> list[np.ndarray]:
    """Return the variables' arrays, views of the vector."""
    return [vector[v.part].reshape(v.shape) for v in parts]


def join(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return the arrays as one float64 vector, each in C order."""
    return np.concatenate([np.zeros(0), *(np.asarray(a, np.float64).reshape(-1) for a in arrays)])
