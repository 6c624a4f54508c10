"""From a list of items to one batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from minires.autograd import Tensor
from minires.autograd.creation import from_numpy, tensor
from minires.device import Array, array_module
from minires.dtypes import promote_types
from minires.ops.shape import stack


def default_collate(items: Sequence[Any]) -> Any:
    """Make a batch of items, as ``torch.utils.data.default_collate`` does.

    Tensors, arrays and numbers gain a first axis of length N and become one Tensor. Its dtype is that to which those of
    the items are promoted; Python floats are float64 where the first item is one, else of the default dtype, and ints
    int64. Strings become a list; tuples, lists and mappings are gone into, so that a list of (image, label) becomes
    [images, labels]. Images that lie channels-last in memory still do in the batch.

    Raises
    ------
    TypeError
        If an item is of another kind, a PIL image for one.
    ValueError
        If shapes or lengths differ.
    """
    first = items[0]
    if isinstance(first, (Tensor, np.ndarray)):
        tensors = [item if isinstance(item, Tensor) else _from_numpy(item) for item in items]
        if any(item.requires_grad for item in tensors):
            return stack(tensors)
        return Tensor(_stacked([item.array for item in tensors]))
    if isinstance(first, float) and not isinstance(first, np.generic):
        return tensor(items, dtype=np.float64)
    if isinstance(first, bool | int | np.number | np.bool_):
        return tensor(items)
    if isinstance(first, str | bytes):
        return list(items)
    if isinstance(first, Mapping):
        return {key: default_collate([item[key] for item in items]) for key in first}
    if isinstance(first, Sequence):
        lengths = {len(item) for item in items}
        if len(lengths) != 1:
            raise ValueError(f"cannot make a batch of items that hold different numbers of things: {sorted(lengths)}")
        columns = [default_collate(column) for column in zip(*items, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    remedy = "give collate_fn to the loader"
    if isinstance(first, Image.Image):
        remedy = "give the data set transform=transforms.ToTensor(), or a Compose that ends with it"
    raise TypeError(f"cannot make a batch of {type(first).__name__}: {remedy}")


def _from_numpy(item: Any) -> Tensor:
    if not isinstance(item, np.ndarray):
        raise TypeError(f"cannot make a batch of arrays or Tensors and a {type(item).__name__}")
    return from_numpy(item)


def _stacked(arrays: Sequence[Array]) -> Array:
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        found = " and ".join(str(shape) for shape in sorted(shapes)[:2])
        raise ValueError(
            f"cannot make a batch of arrays with different shapes, such as {found}: bring images to one size with "
            "Resize((height, width)), CenterCrop or RandomResizedCrop"
        )
    xp = array_module(arrays[0])
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) != 1:
        common = functools.reduce(promote_types, dtypes)
        arrays = [array.astype(common) for array in arrays]
    if arrays[0].ndim == 3 and arrays[0].transpose(1, 2, 0).flags.c_contiguous:
        return xp.stack([array.transpose(1, 2, 0) for array in arrays]).transpose(0, 3, 1, 2)
    return xp.stack(arrays)
