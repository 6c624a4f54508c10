"""Indexing and slicing: x[index] and its transpose, which adds each gradient to the place it was taken from.

An index is applied in two steps, as PyTorch does: first ints, slices and None, which give a view; then index arrays and
masks. (NumPy lets an int take part in the second step, so its x[0, :, [1, 2]] has other axes.)
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import Array, array_module, is_cuda_array, to_device
from minires.ops.aliases import takes_axis
from minires.ops.autocast import rounds_once
from minires.ops.axes import normalized_axis


class GetItem(Function):
    """x -> x[index]; ``once`` says that no element of x is taken twice."""

    makes_views = True

    def __init__(self, index: Any, once: bool):
        self.index = index
        self.once = once

    def forward(self, x):
        return x[self.index]

    def backward(self, dy):
        return PutItem(self.index, self.once, self.input_shapes[0])(dy)


class PutItem(Function):
    """dy -> zeros of ``shape`` with dy added at ``index``; an element indexed twice receives both."""

    def __init__(self, index: Any, once: bool, shape: tuple[int, ...]):
        self.index = index
        self.once = once
        self.shape = shape

    def forward(self, dy):
        xp = array_module(dy)
        if self.once:
            dx = xp.zeros_like(dy, shape=self.shape)
            dx[self.index] = dy
            return dx
        dx = xp.zeros(self.shape, np.float64)  # one element may get many gradients, one after another
        xp.add.at(dx, self.index, dy.astype(np.float64))
        return dx.astype(dy.dtype)

    def backward(self, ddx):
        return GetItem(self.index, self.once)(ddx)


class Places(NamedTuple):
    """An index in its two steps: ``basic`` gives a view, ``arrays`` (or None) picks elements of that view.

    ``tensors`` are those that ``arrays`` may share memory with.
    """

    basic: tuple
    arrays: tuple | None
    once: bool
    tensors: tuple[Tensor, ...]


def places(input: Tensor, index: Any) -> Places:
    """Take an index apart and check it against the shape of ``input``.

    Raises
    ------
    IndexError
        If there are more indices than axes, a mask does not fit, or a part cannot be an index.
    ValueError
        For a slice with a step that is not positive.
    """
    given = index if isinstance(index, tuple) else (index,)
    parts = [_part(part, input) for part in given]
    named = [_axes_of(part) for part in parts]
    if sum(named) > input.ndim:
        raise IndexError(f"too many indices: {sum(named)} for a Tensor of shape {input.shape}")
    ellipses = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can hold only one Ellipsis (...)")
    if ellipses:
        parts[ellipses[0] : ellipses[0] + 1] = [slice(None)] * (input.ndim - sum(named))
    basic: list[Any] = []
    arrays: list[Any] = []
    axis = 0
    for part in parts:
        if part is None:
            basic.append(None)
            arrays.append(slice(None))
        elif isinstance(part, int):
            basic.append(part)
        elif isinstance(part, slice):
            basic.append(part)
            arrays.append(slice(None))
        elif part.dtype.kind == "b":
            if part.shape != input.shape[axis : axis + part.ndim]:
                raise IndexError(f"a mask of shape {part.shape} does not fit axes {axis}... of shape {input.shape}")
            # A 0-dimensional mask adds an axis of length 1 or 0.
            basic += [slice(None)] * part.ndim or [None]
            arrays += part.nonzero() if part.ndim else part.reshape(1).nonzero()
        else:
            basic.append(slice(None))
            arrays.append(part)
        axis += _axes_of(part)
    chosen = [part for part in parts if not isinstance(part, (int, slice)) and part is not None]
    once = len(chosen) == 1 and chosen[0].dtype.kind == "b"
    tensors = tuple([part for part in given if isinstance(part, Tensor)])
    return Places((*basic, Ellipsis), tuple(arrays) if chosen else None, once, tensors)


def _part(part: Any, input: Tensor) -> Any:
    """Return one part of an index as None, Ellipsis, an int, a slice of ints, or an array beside that of ``input``."""
    if part is None or part is Ellipsis:
        return part
    if isinstance(part, slice):
        bounds = [None if v is None else operator.index(v) for v in (part.start, part.stop, part.step)]
        if bounds[2] is not None and bounds[2] <= 0:
            raise ValueError(f"a slice needs a positive step, got {bounds[2]}: reverse with an index Tensor")
        return slice(*bounds)
    if isinstance(part, Tensor):
        part = part.array if part.ndim else part._read()
        if not part.ndim and part.dtype.kind in "iu":
            part = part.astype(np.int64) if part.dtype != np.uint8 else part
    elif isinstance(part, (list, tuple, range, np.ndarray)):
        part = _index_list(part) if not isinstance(part, np.ndarray) else part
        if part.dtype.kind in "iu" and part.dtype.isnative and part.dtype != np.uint8:
            part = part.astype(np.int64)
    if isinstance(part, (bool, np.bool_)):
        part = np.asarray(part)
    if not isinstance(part, np.ndarray) and not is_cuda_array(part):
        if not hasattr(part, "__index__"):
            raise IndexError(f"an index is made of ints, slices, None, ..., masks and int64 Tensors, got {part!r}")
        return operator.index(part)
    if part.dtype not in (np.int64, np.int32, np.bool_):
        raise IndexError(f"an index Tensor holds int64, int32 or booleans, not {part.dtype}: use .long() or .bool()")
    if part.dtype.kind == "i" and part.ndim == 0:
        return int(part)
    return to_device(part, input.device)


def _index_list(items: Any) -> np.ndarray:
    items = [item.tolist() if isinstance(item, Tensor) and not item.ndim else item for item in items]
    if any(isinstance(item, (list, tuple, slice, Tensor, np.ndarray)) or item in (None, Ellipsis) for item in items):
        raise IndexError("a nested list as an index is ambiguous: use a tuple of indices, or minires.tensor(list)")
    return np.array(items, None if items else np.int64)


def _axes_of(part: Any) -> int:
    """How many axes of the indexed Tensor a part of the index stands for."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if hasattr(part, "ndim") and part.dtype.kind == "b" else 1


def getitem(input: Tensor, index: Any) -> Tensor:
    """Return ``input[index]`` for ints, slices, None, Ellipsis, masks, and lists, Tensors or arrays of ints.

    Ints, slices, None and Ellipsis give a view. On a GPU, index arrays out of range wrap around: to check them would
    stall the device.

    Raises
    ------
    IndexError
        If the index does not fit the shape, or holds something else.
    ValueError
        For a slice with a step that is not positive.
    """
    basic, arrays, once, tensors = places(input, index)
    if arrays is None:
        return GetItem(basic, True)(input)
    if any(part is not Ellipsis and part != slice(None) for part in basic):
        input = GetItem(basic, True)(input)
    return GetItem(arrays, once).watching(*tensors)(input)


def _grid(xp: Any, indices: Array, axis: int) -> tuple:
    """The index arrays that pick, at every place of ``indices``, the element which it names along ``axis``."""
    lengths = indices.shape
    others = [xp.arange(n).reshape([-1 if i == a else 1 for i in range(len(lengths))]) for a, n in enumerate(lengths)]
    return (*others[:axis], indices, *others[axis + 1 :])


def take_along(input: Tensor, indices: Tensor, axis: int, once: bool = False) -> Tensor:
    """Return the elements that the int Tensor ``indices``, of as many axes, names along ``axis``. It is not checked.

    ``once`` promises that no element is named twice: its gradient is then set rather than added.
    """
    if not input.ndim:
        return input.reshape(1)[indices.reshape(1)].reshape(())
    where = _grid(array_module(indices.array), indices.array, axis)
    return GetItem(where, once or indices.shape[axis] == 1).watching(indices)(input)


@takes_axis
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """Return y of the shape of ``index`` with y[i, j, k] = input[i, index[i, j, k], k], here for ``dim`` = 1 of 3.

    ``sparse_grad`` is accepted for PyTorch's sake: gradients are dense.

    Raises
    ------
    RuntimeError
        If index is neither int64 nor int32, its shape does not fit, or (on the CPU) an index is out of range.
    IndexError
        If ``dim`` is out of range.
    """
    axis = normalized_axis("gather", dim, input.ndim or 1)
    _check_index("gather", input, axis, index)
    return take_along(input, index, axis)


@takes_axis
@rounds_once
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Return ``input`` with src[i, j, k] added at [i, index[i, j, k], k], here for ``dim`` = 1 of 3 axes.

    Raises
    ------
    RuntimeError
        If index is neither int64 nor int32, shapes or dtypes do not fit, or (on the CPU) an index is out of range.
    IndexError
        If ``dim`` is out of range.
    """
    axis = normalized_axis("scatter_add", dim, input.ndim or 1)
    _check_index("scatter_add", input, axis, index)
    if src.dtype != input.dtype:
        raise RuntimeError(f"scatter_add: src must have the dtype of input, {input.dtype}, got {src.dtype}")
    if src.ndim != index.ndim or any(i > s for i, s in zip(index.shape, src.shape, strict=True)):
        raise RuntimeError(f"scatter_add: index of shape {index.shape} does not fit into src of shape {src.shape}")
    if not input.ndim:
        return input + src
    used = src[tuple(slice(length) for length in index.shape)]
    where = _grid(array_module(index.array), index.array, axis)
    return input + PutItem(where, index.shape[axis] == 1, input.shape).watching(index)(used)


def _check_index(name: str, input: Tensor, axis: int, index: Tensor) -> None:
    if index.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"{name} needs an index of int64 or int32, got {index.dtype}: convert with .long()")
    fits = index.ndim == input.ndim and all(
        i <= n or a == axis for a, (i, n) in enumerate(zip(index.shape, input.shape, strict=True))
    )
    if not fits and index.numel():
        raise RuntimeError(
            f"{name}: index of shape {index.shape} does not fit input of shape {input.shape}: both need as many axes, "
            f"and index must not be longer except along dim {axis}"
        )
    length = input.shape[axis] if input.ndim else 1
    if not index.is_cuda and index.numel() and not 0 <= index.array.min() <= index.array.max() < length:
        outside = index.array[(index.array < 0) | (index.array >= length)][0]
        raise RuntimeError(f"{name}: index {outside} is out of range for dim {axis} of length {length}")


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return int64 of shape (..., num_classes): 1 at each class of ``tensor`` (int64), else 0.

    ``num_classes`` defaults to the largest class plus 1.

    Raises
    ------
    RuntimeError
        If the classes are not int64, negative or not below ``num_classes``, or there are none to count.
    """
    if tensor.dtype != np.int64:
        raise RuntimeError(f"one_hot needs int64 classes, got {tensor.dtype}: convert with .long()")
    if num_classes < 1 and (num_classes != -1 or not tensor.numel()):
        raise RuntimeError(f"one_hot: num_classes must be positive, or -1 to count those given, got {num_classes}")
    classes = tensor._read()
    low, high = (int(classes.min()), int(classes.max())) if classes.size else (0, 0)
    if low < 0 or (num_classes != -1 and high >= num_classes):
        raise RuntimeError(f"one_hot: classes from {low} to {high} were given, expected 0 to {num_classes - 1}")
    count = num_classes if num_classes != -1 else high + 1
    return Tensor((classes[..., None] == array_module(classes).arange(count)).astype(np.int64))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Return the indices of the elements that are not 0, int64 (count, ndim), or one Tensor for each axis."""
    found = [array.astype(np.int64) for array in input._read().reshape(input.shape or 1).nonzero()]
    if as_tuple:
        return tuple(Tensor(array) for array in found)
    xp = array_module(input.array)
    return Tensor(xp.stack(found[: input.ndim], axis=1) if input.ndim else xp.zeros((len(found[0]), 0), np.int64))
