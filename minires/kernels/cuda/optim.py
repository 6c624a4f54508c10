"""Steps of SGD and Adam over many tensors in one launch, in place.

A step of a small net is little work in many small arrays. Launched one by one, for each parameter and operation, it
takes longer than the net itself.

The arrays of one tensor must lie alike in memory without gaps, see `are_alike`. Float32 and float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from minires.device import Array
from minires.kernels.cuda.launch import THREADS, Backend, backend, launch, named
from minires.kernels.cuda.source import VECTOR_BYTES

CHUNK = 1 << 14  # elements that a block takes, as in optim.cu


def are_alike(*arrays: Array | None) -> bool:
    """Tell whether arrays have one dtype, float32 or float64, one shape and one order in memory, without gaps."""
    first, *others = [array for array in arrays if array is not None]
    if first.dtype not in (np.float32, np.float64):
        return False
    steps = [(size, stride) for size, stride in zip(first.shape, first.strides, strict=True) if size > 1]
    expected = first.itemsize
    for size, stride in sorted(steps, key=lambda step: step[1]):
        if stride != expected:
            return False
        expected *= size
    return all((a.dtype, a.shape, a.strides) == (first.dtype, first.shape, first.strides) for a in others)


def sgd_step(
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    velocities: Sequence[Array] | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    is_first: bool,
) -> None:
    """Move parameters as `minires.optim.SGD` does. Without momentum ``velocities`` is None.

    In the first step, ``is_first``, velocities are written without being read.
    """
    options = [np.float64(option) for option in (lr, momentum, dampening, weight_decay)]
    _launch("sgd", [parameters, gradients, velocities], *options, nesterov, maximize, is_first)


def adam_step(
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    means: Sequence[Array],
    squares: Sequence[Array],
    largest: Sequence[Array] | None,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Move parameters as `minires.optim.Adam` does in its ``step``-th step, or with ``decoupled`` decay as AdamW.

    ``largest`` are the greatest squares so far, None without amsgrad.
    """
    beta1, beta2 = betas
    stride, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    decay, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    options = [np.float64(option) for option in (beta1, beta2, eps, decay, stride, root, shrink)]
    _launch("adam", [parameters, gradients, means, squares, largest], *options, maximize)


def _launch(kernel: str, lists: list[Sequence[Array] | None], *options: bool | np.float64) -> None:
    """Run a kernel over tensors whose arrays are the lists' entries at one place; a None stands for no such array."""
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
