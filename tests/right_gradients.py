"""Right gradients at and near kinks: random ops, shapes and inputs for which no check may fail.

Inputs lie on a coarse lattice, so that zeros, ties and the edges of clamps are everywhere; some are then moved off it
by as little as 1e-12. Each case is drawn from its own seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import minires
from minires.autograd import Tensor
from minires.nn import functional as F

OFFSETS = (0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3)


def lattice(rng: np.random.Generator, *shape: int) -> Tensor:
    """Multiples of 1/2 (so that 0, 1 and 6 occur), partly moved a little."""
    values = rng.integers(-3, 4, shape) / 2.0
    values = np.where(rng.random(shape) < 0.05, 6.0, values)
    offset = rng.choice(OFFSETS) * rng.choice([-1.0, 1.0], shape)
    values = np.where(rng.random(shape) < 0.5, values, values + offset)
    return Tensor(values, requires_grad=True)


def smooth(rng: np.random.Generator, *shape: int) -> Tensor:
    return Tensor(rng.standard_normal(shape), requires_grad=True)


def vector(rng):
    return lattice(rng, *rng.integers(1, 4, rng.integers(1, 4)))


def images(rng):
    n, c, side = rng.integers(1, 3), rng.integers(1, 3), rng.integers(3, 6)
    return lattice(rng, int(n), int(c), int(side), int(side))


def max_pool(rng):
    kernel, stride, padding = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(0, 2))
    padding = min(padding, kernel // 2)
    return lambda x: F.max_pool2d(x, kernel, stride, padding), [images(rng)]


def along_an_axis(op: Callable):
    def draw(rng):
        x = vector(rng)
        axis = int(rng.integers(x.ndim))
        return lambda x: op(x, axis), [x]

    return draw


def pair(op: Callable):
    def draw(rng):
        shape = tuple(rng.integers(1, 4, 2))
        other = shape if rng.random() < 0.5 else (1, shape[1])
        return op, [lattice(rng, *shape), lattice(rng, *other)]

    return draw


def alone(op: Callable):
    return lambda rng: (op, [vector(rng)])


def clamp(rng):
    low, high = sorted(rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], 2))
    return lambda x: x.clamp(float(low), float(high)), [vector(rng)]


def loss(op: Callable, **options):
    def draw(rng):
        shape = tuple(rng.integers(1, 4, 2))
        reduction = str(rng.choice(["none", "mean", "sum"]))
        return lambda x, t: op(x, t, reduction=reduction, **options), [lattice(rng, *shape), lattice(rng, *shape)]

    return draw


def convolution(rng):
    x, c = images(rng), int(rng.integers(1, 3))
    w = smooth(rng, c, x.shape[1], 2, 2)
    stride, padding = int(rng.integers(1, 3)), int(rng.integers(0, 2))
    return lambda x, w: F.relu(F.conv2d(x, w, None, stride, padding)), [x, w]


def residual(rng):
    shape = (int(rng.integers(2, 4)), int(rng.integers(1, 3)), 2, 2)
    x, shortcut = smooth(rng, *shape), lattice(rng, *shape)
    weight, bias = smooth(rng, shape[1]), lattice(rng, shape[1])
    return (
        lambda x, w, b, s: F.batch_norm(x, None, None, w, b, True, residual=s, activation="relu"),
        [x, weight, bias, shortcut],
    )


def residual_add(rng):
    shape = tuple(rng.integers(1, 4, 2))
    return lambda a, b: F.relu(a + b), [lattice(rng, *shape), lattice(rng, *shape)]


def adaptive_max_pool(rng):
    return lambda x: F.adaptive_max_pool2d(x, 2), [images(rng)]


def relu_then_pool(rng):
    return lambda x: F.max_pool2d(F.relu(x), 2), [images(rng)]


def small_net(rng):
    x, w = lattice(rng, 3, 2), smooth(rng, 3, 2)
    return lambda x, w: F.relu(F.linear(F.relu(x), w)).sum(1), [x, w]


DRAWS: dict[str, Callable] = {
    "relu": alone(F.relu),
    "relu6": alone(F.relu6),
    "leaky_relu": alone(F.leaky_relu),
    "abs": alone(minires.abs),
    "sign": alone(lambda x: x.sign() + x),
    "clamp": clamp,
    "maximum": pair(minires.maximum),
    "minimum": pair(minires.minimum),
    "amax": along_an_axis(lambda x, axis: x.amax(axis)),
    "amin": along_an_axis(lambda x, axis: x.amin(axis)),
    "max over an axis": along_an_axis(lambda x, axis: x.max(axis).values),
    "sort": along_an_axis(lambda x, axis: x.sort(axis)[0]),
    "where": alone(lambda x: minires.where(x > 0, x, 2 * x)),
    "l1_loss": loss(F.l1_loss),
    "smooth_l1_loss": loss(F.smooth_l1_loss, beta=0.5),
    "max_pool2d": max_pool,
    "adaptive_max_pool2d": adaptive_max_pool,
    "relu and max_pool2d": relu_then_pool,
    "conv2d and relu": convolution,
    "residual add and relu": residual_add,
    "batch norm, residual add and relu": residual,
    "two layers": small_net,
}


def draw(seed: int) -> tuple[str, Callable, list[Tensor]]:
    """Return the name of a case, its function and its inputs."""
    rng = np.random.default_rng(seed)
    name = list(DRAWS)[seed % len(DRAWS)]
    return (name, *DRAWS[name](rng))
