"""From a list of items to one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from minires.autograd import Tensor
from minires.device import Array, array_module


def default_collate(items: Sequence[Any]) -> Any:
    """Make a batch of items, as ``torch.utils.data.default_collate`` does.

    Tensors, arrays and numbers gain a first axis of length N and become one Tensor (a Python int int64, a float
    float64); strings become a list; tuples, lists and mappings are gone into, so that a list of (image, label) becomes
    [images, labels]. Images that lie channels-last in memory still do in the batch.

    Raises
    ------
    TypeError
        If an item is of another kind, a PIL image for one.
    ValueError
        If shapes or lengths differ.
    """
    first = items[0]
    if isinstance(first, Tensor):
        return Tensor(_stack([item.array for item in items]))
    if isinstance(first, np.ndarray) and first.dtype.kind in "biuf":
        return Tensor(_stack(items))
    if isinstance(first, bool | int | float | np.number | np.bool_):
        return Tensor(np.asarray(items, dtype=np.int64 if type(first) is int else None))
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


def _stack(arrays: Sequence[Array]) -> Array:
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        found = " and ".join(str(shape) for shape in sorted(shapes)[:2])
        raise ValueError(
            f"cannot make a batch of arrays with different shapes, such as {found}: bring images to one size with "
            "Resize((height, width)), CenterCrop or RandomResizedCrop"
        )
    xp = array_module(arrays[0])
    if arrays[0].ndim == 3 and arrays[0].transpose(1, 2, 0).flags.c_contiguous:
        return xp.stack([array.transpose(1, 2, 0) for array in arrays]).transpose(0, 3, 1, 2)
    return xp.stack(arrays)
