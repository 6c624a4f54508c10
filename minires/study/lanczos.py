"""The Lanczos iteration: eigenvalues of a symmetric map that is known only by what it does to a vector.

In ``steps`` applications of the map A it builds a tridiagonal matrix T whose eigenvalues (Ritz values) approach those
of A, the outermost first (Golub and Van Loan, "Matrix Computations", chapter 10). With a random first vector v, the
squared first components of T's eigenvectors are the weights of a Gauss quadrature:

    v^T f(A) v = sum_k weight_k f(theta_k)   in expectation the mean of f over the spectrum

(stochastic Lanczos quadrature: Ubaru, Chen and Saad 2017), which gives the spectrum's density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Ritz values and quadrature weights of one or several runs; the weights sum to 1.

    Every Ritz value lies between the least and the greatest eigenvalue, which are thus bounded from one side only, and
    the weights depend on the first vector: no quantile of the spectrum can be read off them.

    ``dimension`` is that of the space; ``complete`` tells whether each run ended in a space that the map does not
    leave, so that the values are all eigenvalues, but for how often each occurs.
    """

    values: Vector
    weights: Vector
    dimension: int
    complete: bool

    def density(self, grid: Vector, width: float) -> Vector:
        """Return the spectral density at ``grid``, each value spread to a Gaussian of standard deviation ``width``."""
        distances = (grid[:, None] - self.values[None]) / width
        return np.exp(-0.5 * distances**2) @ self.weights / (width * math.sqrt(2 * math.pi))


def lanczos(apply: Callable[[Vector], Vector], dimension: int, steps: int, runs: int = 1, seed: int = 0) -> Spectrum:
    """Return the spectrum of a symmetric map, as far as ``steps`` applications in each of ``runs`` runs show it.

    Vectors are orthogonalised against all before them, twice, because rounding would bring found eigenvalues back as
    ghosts. A run ends early where its vectors span a space that the map does not leave; in ``dimension`` steps every
    eigenvalue is found, equal ones once a run.

    Parameters
    ----------
    apply : vector (dimension,) -> vector (dimension,), symmetric
    """
    rng = np.random.default_rng(seed)
    values, weights, complete = [], [], True
    for _ in range(runs):
        theta, weight, ended = _run(apply, rng.standard_normal(dimension), min(steps, dimension))
        values.append(theta)
        weights.append(weight / runs)
        complete = complete and ended
    order = np.argsort(np.concatenate(values))
    return Spectrum(np.concatenate(values)[order], np.concatenate(weights)[order], dimension, complete)


def _run(apply: Callable[[Vector], Vector], start: Vector, steps: int) -> tuple[Vector, Vector, bool]:
    basis = np.empty((steps, len(start)))
    basis[0] = start / np.linalg.norm(start)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    ended = steps == len(start)
    for step in range(steps):
        image = np.asarray(apply(basis[step]), np.float64)
        diagonal.append(float(basis[step] @ image))
        if step + 1 == steps:
            break
        size = np.linalg.norm(image)
        known = basis[: step + 1]
        for _ in range(2):
            image = image - (known @ image) @ known
        norm = float(np.linalg.norm(image))
        if norm <= 1e-10 * size:
            ended = True
            break
        off_diagonal.append(norm)
        basis[step + 1] = image / norm
    matrix = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    theta, vectors = np.linalg.eigh(matrix)
    return theta, vectors[0] ** 2, ended
