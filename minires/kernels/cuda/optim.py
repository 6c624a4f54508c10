"""Steps of optimizers over many tensors in one launch; see `minires.kernels.optim`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from minires.device import Array
from minires.kernels.cuda.launch import THREADS, Backend, backend, launch, named
from minires.kernels.cuda.source import VECTOR_BYTES

CHUNK = 1 << 14  # elements that a block takes, as in optim.cu


def step_tensors(kernel: str, lists: Sequence[Sequence[Array] | None], *options: bool | np.float64) -> None:
    """Run "sgd" or "adam" over tensors whose arrays are the lists' entries at one place; None stands for no array."""
    parameters = lists[0]
    assert parameters is not None  # only the states may be missing
    address = backend().pointer
    columns = [[0] * len(parameters) if arrays is None else [address(array) for array in arrays] for arrays in lists]
    aligned = all(pointer % VECTOR_BYTES == 0 for column in columns for pointer in column)
    sizes = tuple(array.size for array in parameters)
    tensors = backend().from_host(np.array([*columns, sizes], np.int64).T.copy())
    chunks = _chunks(backend(), sizes)
    name = named(kernel, parameters[0], VECTOR_BYTES // parameters[0].itemsize if aligned else 1)
    launch("optim", name, (len(chunks),), (THREADS,), tensors, chunks, *options)


@cache
def _chunks(place: Backend, sizes: tuple[int, ...]) -> Array:
    """(blocks, 2): the tensor and the chunk of it that each block takes, an int32 array on the device."""
    counts = [-(-size // CHUNK) for size in sizes]
    rows = [(tensor, chunk) for tensor, count in enumerate(counts) for chunk in range(count)]
    return place.from_host(np.array(rows, np.int32).reshape(-1, 2))
