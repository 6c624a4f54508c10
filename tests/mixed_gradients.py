"""Right gradients of NumPy functions of mixed scales, and of rough ones: none may be called different.

Numbers of one array lie up to 20 decades apart. A rough function computes in float32 or float16 inside, or cancels
large numbers, while its gradient is computed in float64. Each case is drawn from its own seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Case:
    name: str
    fn: Callable[..., np.ndarray]
    vjp: Callable[[Arrays, np.ndarray], list[np.ndarray]]
    inputs: Arrays
    is_rough: bool


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Smooth functions of numbers of about 1, and their slopes; the last are for positive numbers.
CURVES = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "exp": (np.exp, np.exp),
    "sin": (np.sin, np.cos),
    "square": (lambda x: x * x, lambda x: 2 * x),
    "cube": (lambda x: x**3, lambda x: 3 * x * x),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "gaussian": (lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x)),
    "reciprocal": (lambda x: 1 / x, lambda x: -1 / (x * x)),
    "log": (np.log, lambda x: 1 / x),
    "sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "power": (lambda x: x**1.7, lambda x: 1.7 * x**0.7),
}
POSITIVE = "reciprocal", "log", "sqrt", "power"


def magnitudes(rng, *shape, low=-8.0, high=12.0):
    return 10.0 ** rng.uniform(low, high, shape)


def curve(rng, *shape):
    name = str(rng.choice(list(CURVES)))
    x = rng.standard_normal(shape)
    return name, *CURVES[name], np.abs(x) + 0.2 if name in POSITIVE else x


def scaled_curve(rng):
    """b f(a x), element by element."""
    name, f, slope, z = curve(rng, int(rng.integers(2, 6)))
    a, b = (magnitudes(rng, *z.shape) for _ in range(2))
    return name, lambda x: b * f(a * x), lambda inputs, dy: [dy * b * a * slope(a * inputs[0])], (z / a,)


def bare_curve(rng):
    """f(x) of powers of ten: what has no scale of its own."""
    name = str(rng.choice(["square", "cube", "reciprocal", "log", "sqrt", "power"]))
    f, slope = CURVES[name]
    return name, f, lambda inputs, dy: [dy * slope(inputs[0])], (magnitudes(rng, int(rng.integers(2, 6))),)


def scaled_matrix(rng):
    """Rows and columns of many scales; the terms of a row are of one."""
    m, n = rng.integers(2, 5, 2)
    matrix = rng.standard_normal((m, n))
    rows, columns = magnitudes(rng, m), magnitudes(rng, n)
    name, f, slope, _ = curve(rng, 1)
    if name in POSITIVE:
        name, (f, slope) = "tanh", CURVES["tanh"]

    def vjp(inputs, dy):
        return [columns * (matrix.T @ (dy * rows * slope(matrix @ (columns * inputs[0]))))]

    x = rng.standard_normal(n) / columns
    return f"matrix and {name}", lambda x: rows * f(matrix @ (columns * x)), vjp, (x,)


def product(rng):
    shape = tuple(rng.integers(1, 4, 2))
    a, b = (rng.standard_normal(shape) * magnitudes(rng, *shape) for _ in range(2))
    return "product", lambda a, b: a * b, lambda inputs, dy: [dy * inputs[1], dy * inputs[0]], (a, b)


def matrix_product(rng):
    m, k, n = rng.integers(1, 4, 3)
    a, b = rng.standard_normal((m, k)) * magnitudes(rng, m, 1), rng.standard_normal((k, n)) * magnitudes(rng, 1, n)
    return "matrix product", np.matmul, lambda inputs, dy: [dy @ inputs[1].T, inputs[0].T @ dy], (a, b)


def two_terms(rng):
    large, small = magnitudes(rng, 1, low=0, high=6), magnitudes(rng, 1, low=-2, high=0)
    shape = int(rng.integers(1, 4))

    def vjp(inputs, dy):
        return [large * dy, small * dy * np.cos(inputs[1])]

    return "two terms", lambda a, b: large * a + small * np.sin(b), vjp, tuple(rng.standard_normal((2, shape)))


def standardised(rng):
    x = rng.standard_normal((int(rng.integers(3, 6)), 2)) * magnitudes(rng, 2)

    def fn(x):
        return (x - x.mean(0)) / x.std(0)

    def vjp(inputs, dy):
        y = fn(inputs[0])
        return [(dy - dy.mean(0) - y * (dy * y).mean(0)) / inputs[0].std(0)]

    return "standardised columns", fn, vjp, (x,)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def softmax_vjp(inputs, dy):
    y = softmax(inputs[0])
    return [y * (dy - (dy * y).sum())]


def uneven_softmax(rng):
    return "uneven softmax", softmax, softmax_vjp, (rng.uniform(-12, 12, int(rng.integers(2, 5))),)


MIXED = scaled_curve, bare_curve, scaled_matrix, product, matrix_product, two_terms, standardised, uneven_softmax


def smooth(rng):
    """A function of numbers of about 1 that works in any dtype."""
    kind = int(rng.integers(5))
    if kind == 0:
        x = rng.standard_normal(int(rng.integers(2, 6)))
        return "softmax", softmax, softmax_vjp, x
    if kind == 1:
        matrix = rng.standard_normal((3, 4))
        return "matrix", lambda x: matrix.astype(x.dtype) @ x, lambda i, dy: [matrix.T @ dy], rng.standard_normal(4)
    if kind == 2:
        x = rng.standard_normal(int(rng.integers(2, 20)))
        return "sum of squares", lambda x: np.sum(x * x), lambda i, dy: [2 * dy * i[0]], x
    name, f, slope, x = curve(rng, *rng.integers(1, 4, int(rng.integers(1, 3))))
    return name, f, lambda inputs, dy: [dy * slope(inputs[0])], x


def in_a_narrow_dtype(dtype):
    def draw(rng):
        name, f, vjp, x = smooth(rng)
        return f"{name} in {dtype.__name__}", lambda x: np.asarray(f(x.astype(dtype)), np.float64), vjp, (x,)

    return draw


def partly_in_float32(rng):
    name, f, slope, x = curve(rng, int(rng.integers(2, 6)))

    def vjp(inputs, dy):
        return [dy * (1 + slope(inputs[0]))]

    return f"x + {name} in float32", lambda x: x + f(x.astype(np.float32)).astype(np.float64), vjp, (x,)


def cancelling(rng):
    name, f, vjp, x = smooth(rng)
    large = 10.0 ** rng.uniform(9, 12)
    return f"{name} + {large:.1e} - {large:.1e}", lambda x: (f(x) + large) - large, vjp, (x,)


ROUGH = in_a_narrow_dtype(np.float32), in_a_narrow_dtype(np.float16), partly_in_float32, cancelling


def draw(seed: int) -> Case:
    """Even seeds are of mixed scales, odd ones rough."""
    rng = np.random.default_rng(seed)
    kinds = ROUGH if seed % 2 else MIXED
    name, fn, vjp, inputs = kinds[seed // 2 % len(kinds)](rng)
    return Case(name, fn, vjp, inputs, bool(seed % 2))
