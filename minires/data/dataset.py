"""Data sets in general: the protocol, sets made from tensors, and parts of sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minires.autograd import Tensor
from minires.device import array_module
from minires.device import generator as default_generator


class Dataset:
    """Anything with ``__len__`` and ``__getitem__(index)``; the base class of the sets here, as in PyTorch.

    A set that can make a whole batch at once also has ``load_batch(indices)``, which returns the batch as the loader is
    to give it out, and says so by ``loads_batches``.
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")

    @property
    def loads_batches(self) -> bool:
        """Whether :meth:`load_batch` is there and gives what item by item would."""
        return False

    def load_batch(self, indices: NDArray[np.int64]) -> Any:
        """Return the items of ``indices`` as one batch."""
        raise NotImplementedError(f"{type(self).__name__} makes no whole batches")


class TensorDataset(Dataset):
    """Tensors of equal length; item ``i`` is the tuple of their i-th rows.

    Parameters
    ----------
    *tensors : Tensor or array (N, ...)
        No gradient flows back into them.

    Raises
    ------
    ValueError
        If there is no tensor, one has no rows, or the lengths differ.
    """

    def __init__(self, *tensors: Tensor | ArrayLike) -> None:
        self.tensors = tuple(each if isinstance(each, Tensor) else Tensor(np.asarray(each)) for each in tensors)
        shapes = [tuple(tensor.shape) for tensor in self.tensors]
        if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(f"TensorDataset needs tensors with one and the same first dimension, got shapes {shapes}")

    @property
    def loads_batches(self) -> bool:
        """Whether :meth:`load_batch` does what item by item would: a subclass may have its own ``__getitem__``."""
        return type(self).__getitem__ is TensorDataset.__getitem__

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(Tensor(tensor.array[index, ...]) for tensor in self.tensors)

    def load_batch(self, indices: NDArray[np.int64]) -> list[Tensor]:
        """Return the rows ``indices`` of every tensor."""
        return [Tensor(tensor.array[array_module(tensor.array).asarray(indices)]) for tensor in self.tensors]


class Subset(Dataset):
    """The items ``indices`` of another set, in that order."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    @property
    def loads_batches(self) -> bool:
        """Whether the set behind makes whole batches."""
        return type(self).__getitem__ is Subset.__getitem__ and getattr(self.dataset, "loads_batches", False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def load_batch(self, indices: NDArray[np.int64]) -> Any:
        """Return the batch that the set behind makes of these items."""
        return self.dataset.load_batch(self._behind(indices))

    @property
    def defers_batches(self) -> bool:
        """Whether the set behind does, see `ImageArrays`."""
        return (
            self.loads_batches
            and type(self).load_batch is Subset.load_batch
            and getattr(self.dataset, "defers_batches", False)
        )

    def defer_batch(self, indices: NDArray[np.int64]) -> Any:
        """Return the batch that the set behind defers of these items."""
        return self.dataset.defer_batch(self._behind(indices))

    def _behind(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray([self.indices[index] for index in indices], dtype=np.int64)


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: np.random.Generator | None = None
) -> list[Subset]:
    """Split a set at random into parts that share no item, as ``torch.utils.data.random_split`` does.

    Parameters
    ----------
    dataset : sized
    lengths : sequence of int, or of float
        Numbers of items that add up to ``len(dataset)``; or fractions that add up to 1, where items left over by
        rounding down go one each to the parts in turn.
    generator : numpy.random.Generator, optional
        Shuffles; the default generator of the CPU unless given.

    Raises
    ------
    ValueError
        If the lengths do not add up, or one is negative.
    """
    total = len(dataset)
    if any(length < 0 for length in lengths):
        raise ValueError(f"random_split: a length is negative in {list(lengths)}")
    counts = [int(length) for length in lengths]
    if math.isclose(sum(lengths), 1):
        counts = [math.floor(total * fraction) for fraction in lengths]
        for turn in range(total - sum(counts)):
            counts[turn % len(counts)] += 1
    elif counts != list(lengths) or sum(counts) != total:
        raise ValueError(
            f"random_split: lengths {list(lengths)} must add up to the {total} items of the set, or as fractions to 1"
        )
    order = (generator or default_generator()).permutation(total)
    ends = np.cumsum(counts)
    return [Subset(dataset, order[end - count : end].tolist()) for count, end in zip(counts, ends, strict=True)]
