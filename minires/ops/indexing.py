"""Indexing and slicing: x[index] and its transpose, which adds each gradient to the place it was taken from."""

from __future__ import annotations

from typing import Any

from minires.autograd import Function, Tensor
from minires.device import array_module


class GetItem(Function):
    """x -> x[index]."""

    def __init__(self, index: Any):
        self.index = index

    def forward(self, x):
        return x[self.index]

    def backward(self, dy):
        return PutItem(self.index, self.input_shapes[0])(dy)


class PutItem(Function):
    """dy -> zeros of ``shape`` with dy added at ``index``; an element indexed twice receives both."""

    def __init__(self, index: Any, shape: tuple[int, ...]):
        self.index = index
        self.shape = shape

    def forward(self, dy):
        xp = array_module(dy)
        dx = xp.zeros(self.shape, dy.dtype)
        if _is_basic(self.index):  # slices name each element at most once
            dx[self.index] = dy
        else:
            xp.add.at(dx, self.index, dy)
        return dx

    def backward(self, ddx):
        return GetItem(self.index)(ddx)


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts)


def array_index(index: Any) -> Any:
    """Return an index made of Tensors, lists, numbers and slices as one that arrays understand."""
    if isinstance(index, tuple):
        return tuple(array_index(part) for part in index)
    return index.array if isinstance(index, Tensor) else index


def getitem(input: Tensor, index: Any) -> Tensor:
    """Return ``input[index]`` for ints, slices, None, Ellipsis, and boolean or integer Tensors.

    Raises
    ------
    IndexError
        If the index does not fit the shape, or is a floating-point Tensor.
    """
    return GetItem(array_index(index))(input)
