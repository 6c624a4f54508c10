"""Watching which way a forward pass went: the side of every ReLU, the winner of every maximum, every condition.

Two points of different branches have a kink or a jump between them. Operations that are not listed, such as a user's
own Function, leave no trace unless they return integers; the numbers themselves must then tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minires.autograd import Function, Tensor, observe
from minires.device import to_device
from minires.ops.activation import LeakyReLU, ReLU, ReLU6
from minires.ops.arithmetic import Remainder, RoundedDiv
from minires.ops.axes import kept_shape
from minires.ops.batch_norm import BatchNorm
from minires.ops.clamp import Clamp, Maximum
from minires.ops.conv2d_add_relu import Conv2dAddRelu
from minires.ops.indexing import GetItem
from minires.ops.pointwise import Abs, Step
from minires.ops.reduction import Amax, Norm, Std
from minires.ops.regression_losses import SmoothL1
from minires.ops.where import Where


class Branches:
    """An observer that digests every branch of the operations it sees."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> bytes:
        """Equal for two runs that took the same branches."""
        return self._digest.digest()

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """Note the branches of one operation."""
        for output in outputs:
            if not output.is_floating_point():  # the winners of a max pooling
                self._note(_numpy(output))
        taken = next((_BRANCHES[kind] for kind in type(function).__mro__ if kind in _BRANCHES), None)
        if taken is not None:
            with np.errstate(all="ignore"):
                for branches in taken(function, *map(_numpy, (outputs[0], *inputs))):
                    self._note(branches)

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """Branches are taken forward; the operations that make up a backward pass have forwards of their own."""

    def _note(self, branches: np.ndarray) -> None:
        if branches.dtype == bool:
            branches = np.packbits(branches)
        self._digest.update(np.ascontiguousarray(branches).tobytes())


def _numpy(value: Any) -> Any:
    return to_device(value.array, None) if isinstance(value, Tensor) else value


@contextmanager
def watching() -> Iterator[Branches]:
    """Yield the digest of what is computed inside."""
    watcher = Branches()
    with observe(watcher):
        yield watcher


def _side(x: Any, limit: Any = 0) -> np.ndarray:
    """-1, 0 or 1: below, at or above the limit."""
    return np.sign(np.subtract(x, limit)).astype(np.int8)


def _rectified(function: Any, y: np.ndarray) -> Iterable[np.ndarray]:
    return [y > 0] if function.activation == "relu" else []


def _index_arrays(index: Any) -> Iterable[np.ndarray]:
    return [part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, np.ndarray)]


# From an operation, its first output and its inputs to arrays that are equal on one branch.
_BRANCHES: dict[type[Function], Callable[..., Iterable[np.ndarray]]] = {
    Abs: lambda function, y, x: [_side(x)],
    Amax: lambda function, y, x: [x == y.reshape(kept_shape(x.shape, function.axes))],
    BatchNorm: lambda function, y, *inputs: _rectified(function, y),
    Clamp: lambda function, y, x, *limits: [_side(x, limit) for limit in limits if limit is not None],
    Conv2dAddRelu: lambda function, y, *inputs: _rectified(function, y),
    GetItem: lambda function, y, x: _index_arrays(function.index),
    LeakyReLU: lambda function, y, x: [_side(x)],
    Maximum: lambda function, y, a, b: [_side(a, b)],
    Norm: lambda function, y, x: [y == 0],
    ReLU: lambda function, y, x: [y > 0],
    ReLU6: lambda function, y, x: [_side(x), _side(x, 6)],
    Remainder: lambda function, y, a, b: [np.floor_divide(a, b)],
    RoundedDiv: lambda function, y, a, b: [y],
    SmoothL1: lambda function, y, a, b: [_side(np.abs(np.subtract(a, b)), function.beta), _side(a, b)],
    Std: lambda function, y, x: [y == 0],
    Step: lambda function, y, x: [y],
    Where: lambda function, y, *operands: [function.condition],
}
