"""Broadcasting and its transpose: an axis that was stretched in the forward pass is summed in the backward pass."""

from __future__ import annotations

import math

from minires.autograd import Function, Tensor
from minires.device import Array, array_module
from minires.kernels import kernels_for

Shape = tuple[int, ...]


class Expand(Function):
    """x -> x repeated to ``shape``, as a view."""

    makes_views = True

    def __init__(self, shape: Shape):
        self.shape = shape

    def forward(self, x):
        if x.size == math.prod(self.shape):  # only axes of length 1 are new: the view can be written to
            return x.reshape(self.shape)
        return array_module(x).broadcast_to(x, self.shape)

    def backward(self, dy):
        return sum_to(dy, self.input_shapes[0])


class SumTo(Function):
    """y -> the sum of y over the axes along which ``shape`` was broadcast to y's shape."""

    def __init__(self, shape: Shape):
        self.shape = shape

    def forward(self, y):
        added = y.ndim - len(self.shape)
        stretched = tuple(added + i for i, length in enumerate(self.shape) if length == 1 and y.shape[added + i] != 1)
        return summed(y, (*range(added), *stretched), keepdims=True).reshape(self.shape)

    def backward(self, dx):
        return broadcast_to(dx, self.input_shapes[0])


def summed(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Return the sum over axes; that of 16-bit numbers is taken in float32."""
    total = kernels_for(x).sum_axes(x, axes)
    return total if keepdims else total.squeeze(axes)


def broadcast_to(input: Tensor, shape: Shape = (), *, size: Shape | None = None) -> Tensor:
    """Return ``input`` stretched to ``shape`` by NumPy's rules, as a read-only view; itself if it has that shape.

    ``size`` is PyTorch's name for the shape.

    Raises
    ------
    RuntimeError
        If an axis of ``input`` has neither the length asked for nor length 1.
    """
    shape = tuple(shape if size is None else size)
    if input.shape == shape:
        return input
    check_shapes_broadcast("broadcast_to", input.shape, shape)
    if len(shape) < input.ndim or any(
        have not in (1, want) for have, want in zip(reversed(input.shape), reversed(shape), strict=False)
    ):
        raise RuntimeError(f"broadcast_to: shape {input.shape} cannot be stretched to the smaller shape {shape}")
    return Expand(shape)(input)


def sum_to(input: Tensor, shape: Shape) -> Tensor:
    """Return ``input`` summed down to ``shape``, the transpose of `broadcast_to`."""
    return input if input.array.shape == shape else SumTo(tuple(shape))(input)


def check_broadcast(name: str, *operands: object) -> None:
    """Raise RuntimeError if the shapes of the Tensors among ``operands`` do not broadcast together."""
    check_shapes_broadcast(name, *(operand.shape for operand in operands if isinstance(operand, Tensor)))


def check_shapes_broadcast(name: str, *shapes: Shape) -> None:
    """Raise RuntimeError if ``shapes`` do not broadcast together."""
    if len(set(shapes)) < 2:
        return
    for axis in range(1, max(len(shape) for shape in shapes) + 1):
        lengths = {shape[-axis] for shape in shapes if len(shape) >= axis} - {1}
        if len(lengths) > 1:
            listed = " and ".join(str(shape) for shape in shapes)
            raise RuntimeError(
                f"{name}: shapes {listed} do not broadcast: counted from the right, axis {axis} has lengths "
                f"{sorted(lengths)}, and only equal lengths or 1 go together"
            )
