"""Sorting along an axis: sort, argsort and topk. NaN counts as larger than any number, as in PyTorch."""

from __future__ import annotations

import numpy as np

from minires.autograd import Tensor
from minires.device import Array, array_module
from minires.dtypes import wide_dtype
from minires.ops.aliases import takes_axis
from minires.ops.axes import normalized_axis
from minires.ops.indexing import take_along
from minires.ops.reduction import ValuesAndIndices


@takes_axis
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesAndIndices:
    """Return the elements in order along ``dim``, and where each was found: a pair (values, indices).

    Equal elements keep their order, whether ``stable`` asks for it or not. The gradient goes back where the values
    came from.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    axis = normalized_axis("sort", dim, input.ndim or 1)
    order = Tensor(_order(input.array, axis, descending))
    return ValuesAndIndices(take_along(input, order, axis, once=True), order)


@takes_axis
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """Return the int64 indices that put the elements in order along ``dim``, as `sort` does.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    return Tensor(_order(input.array, normalized_axis("argsort", dim, input.ndim or 1), descending))


@takes_axis
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesAndIndices:
    """Return the ``k`` largest (or smallest) elements along ``dim``, and where they lie: a pair (values, indices).

    They come in order, best first, whether ``sorted`` asks for it or not; of equal elements, the first are taken.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    RuntimeError
        If there are not so many elements.
    """
    axis = normalized_axis("topk", dim, input.ndim or 1)
    length = input.shape[axis] if input.ndim else 1
    if not 0 <= k <= length:
        raise RuntimeError(f"topk: k must be between 0 and the {length} elements along dim {dim}, got {k}")
    order = _order(input.array, axis, descending=largest)
    if input.ndim:
        order = order[(slice(None),) * axis + (slice(k),)].copy()
    indices = Tensor(order)
    return ValuesAndIndices(take_along(input, indices, axis, once=True), indices)


def _order(array: Array, axis: int, descending: bool) -> Array:
    """The stable order. Descending, it is the reverse of the order of the reversed elements: ties stay as they were."""
    xp = array_module(array)
    array = array.astype(wide_dtype(array.dtype), copy=False)  # NumPy does not put a NaN of bfloat16 last
    if not array.ndim:
        return xp.zeros((), np.int64)
    if not descending:
        return xp.argsort(array, axis=axis, kind="stable").astype(np.int64, copy=False)
    order = xp.argsort(xp.flip(array, axis), axis=axis, kind="stable")
    return (array.shape[axis] - 1 - xp.flip(order, axis)).astype(np.int64, copy=False)
