"""Operations that only rearrange: reshape, view, permute, transpose and the like. Each backward rearranges back."""

from __future__ import annotations

from typing import Any

from minires.autograd import Function, Tensor


class Reshape(Function):
    """x -> the same elements, in order, in another shape."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x):
        return x.reshape(self.shape)

    def backward(self, dy):
        return Reshape(self.input_shapes[0])(dy)


class Permute(Function):
    """x -> a view with its axes in another order."""

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, dy):
        return Permute(tuple(self.axes.index(axis) for axis in range(len(self.axes))))(dy)


def _sizes(arguments: tuple) -> tuple[int, ...]:
    """``reshape(2, 3)`` and ``reshape((2, 3))`` mean the same."""
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        arguments = tuple(arguments[0])
    return tuple(int(size) for size in arguments)


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape; one length may be -1 and is then worked out.

    Raises
    ------
    RuntimeError
        If the number of elements does not fit.
    """
    sizes = _sizes(shape)
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    unknown = sizes.count(-1)
    fits = input.numel() == known if not unknown else known != 0 and input.numel() % known == 0
    if unknown > 1 or not fits or min(sizes, default=0) < -1:
        raise RuntimeError(f"reshape: {input.numel()} elements of shape {input.shape} do not fit shape {sizes}")
    sizes = tuple(input.numel() // known if size == -1 else size for size in sizes)
    return input if sizes == input.shape else Reshape(sizes)(input)


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Return a view with the axes in the order ``dims``.

    Raises
    ------
    RuntimeError
        If ``dims`` does not name every axis once.
    """
    axes = tuple(axis % input.ndim if -input.ndim <= axis < input.ndim else axis for axis in _sizes(dims))
    if sorted(axes) != list(range(input.ndim)):
        raise RuntimeError(f"permute: {_sizes(dims)} does not name each of the {input.ndim} axes once")
    return Permute(axes)(input)
