"""What the machine reaches: a matrix product and a copy of memory, with NumPy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.inputs import normal
from benchmarks.workers.protocol import Problem, serve


class Machine:
    """NumPy on ``threads`` threads: the BLAS has its own, set by the environment; a copy is cut into pieces."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def versions(self) -> dict[str, str]:
        """Return NumPy's version."""
        return {"numpy": np.__version__}

    def variants(self, kind: str) -> list[str]:
        """Return the one way there is."""
        return ["numpy"]

    def load(self, variant: str) -> None:
        """Nothing is left to load."""

    def build(self, kind: str, options: dict[str, Any], variant: str, weights: str | None) -> Problem:
        """Make ``kind``, "matrix_product" or "copy", ready."""
        builders = {"matrix_product": self.matrix_product, "copy": self.copy}
        return Problem(builders[kind](**options), dict)

    def matrix_product(self, n: int) -> Any:
        """(n, n) @ (n, n) in float32."""
        a, b = normal((2, n, n), seed=0)
        out = np.empty_like(a)
        return lambda: np.matmul(a, b, out=out)

    def copy(self, size: int) -> Any:
        """Copy ``size`` bytes."""
        source, target = np.ones((2, size // 8))
        bounds = [source.size * i // self.threads for i in range(self.threads + 1)]
        pieces = [slice(*pair) for pair in pairwise(bounds)]
        return lambda: list(self.pool.map(lambda piece: np.copyto(target[piece], source[piece]), pieces))


if __name__ == "__main__":
    serve(Machine)
