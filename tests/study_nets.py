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
