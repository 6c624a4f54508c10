"""Small nets whose gradients are known on paper, for the tests of `minires.study`."""

from __future__ import annotations

import numpy as np

import minires
from minires import nn
from minires.nn import functional as F


class Scaling(nn.Module):
    """y = x + w x with a scalar w: shortcut and branch bring g and w g for a gradient g."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(minires.tensor([w], dtype=minires.float64))

    def forward(self, x):
        return x + x * self.w


class Combination(Scaling):
    """y = combine(x, w x), linear: of a gradient g, what combine(1, 0) and combine(0, w) give times g comes back."""

    def __init__(self, w, combine):
        super().__init__(w)
        self.combine = combine

    def forward(self, x):
        return self.combine(x, x * self.w)


# name: combine(x, f), what it gives for (1, 0) and (0, 1), whether the shortcut is an identity
COMBINATIONS = {
    "x - F": (lambda x, f: x - f, 1, -1, True),
    "F - x": (lambda x, f: f - x, -1, 1, False),
    "-F + x": (lambda x, f: -f + x, 1, -1, True),
    "x + F / 2": (lambda x, f: x + f / 2, 1, 0.5, True),
    "x - F / 2": (lambda x, f: x - f / 2, 1, -0.5, True),
    "2 x + F": (lambda x, f: 2 * x + f, 2, 1, False),
    "2 x - 3 F": (lambda x, f: 2 * x - 3 * f, 2, -3, False),
    "3 F - 2 x": (lambda x, f: 3 * f - 2 * x, -2, 3, False),
    "(x - F) / 2": (lambda x, f: (x - f) / 2, 1, -1, True),  # the sum is what is halved
    "sub with alpha": (lambda x, f: minires.sub(x, f, alpha=0.5), 1, -0.5, True),
    "add with alpha": (lambda x, f: minires.add(f, x, alpha=-0.5), -0.5, 1, False),
}


class LinearBlock(nn.Module):
    """y = x + W x."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(minires.tensor(weight, dtype=minires.float64))

    def forward(self, x):
        return x + F.linear(x, self.weight)


class Bare(nn.Module):
    """Sums in the model itself, in no module of their own: x + layer(x), twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def matrix_layer(weight):
    weight = np.asarray(weight, np.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=minires.float64)
    layer.weight.data.copy_(minires.tensor(weight))
    return layer


def total(output, labels):
    """A loss whose gradient by the output is 1 everywhere."""
    return output.sum()


def rows(*values):
    return minires.tensor(np.array(values, np.float64))


def labels(*values):
    return minires.tensor(list(values))
