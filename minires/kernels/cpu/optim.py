"""Steps of optimizers over many tensors in one launch; see `minires.kernels.optim`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from minires.device import Array
from minires.kernels.cpu.cache import compiler
from minires.kernels.cpu.launch import launch

# Multiplications are not fused with additions: the same bits as the optimizers' array code. Memory is what takes time.
exact_kernel = compiler(error_model="numpy")

CHUNK = 1 << 14  # elements that are worked off together


def step_tensors(name: str, lists: Sequence[Sequence[Array] | None], *options: bool | np.float64) -> None:
    """Run "sgd" or "adam" over tensors whose arrays are the lists' entries at one place; None stands for no array."""
    parameters = lists[0]
    assert parameters is not None  # only the states may be missing
    addresses = [
        [0] * len(parameters) if arrays is None else [array.__array_interface__["data"][0] for array in arrays]
        for arrays in lists
    ]
    sizes = tuple(array.size for array in parameters)
    tensors = np.array([*addresses, sizes], np.int64).T.copy()
    chunks = _chunks(sizes)
    like = np.empty(0, parameters[0].dtype)
    launch(KERNELS[name], len(chunks), len(lists) * sum(sizes), tensors, chunks, like, *options)


@lru_cache(maxsize=8)
def _chunks(sizes: tuple[int, ...]) -> Array:
    """(chunks, 2): the tensor and where in it each chunk begins."""
    rows = [(tensor, begin) for tensor, size in enumerate(sizes) for begin in range(0, size, CHUNK)]
    return np.array(rows, np.int64).reshape(-1, 2)


@intrinsic
def _pointer(typing, address):
    """An address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@exact_kernel
def _part(tensor, place, begin, like):
    """The chunk that begins at ``begin`` of one of a tensor's arrays; an empty one if there is no such array."""
    count = min(CHUNK, tensor[-1] - begin) if tensor[place] else 0
    return carray(_pointer(tensor[place] + begin * like.itemsize), (count,), like.dtype)


@exact_kernel
def _sgd(start, stop, tensors, chunks, like, lr, momentum, dampening, weight_decay, nesterov, maximize, is_first):
    scalar = like.dtype.type
    rate, kept, decay, sign = scalar(lr), scalar(momentum), scalar(weight_decay), scalar(-1 if maximize else 1)
    taken = scalar(1 if is_first else 1 - dampening)
    for chunk in range(start, stop):
        tensor, begin = tensors[chunks[chunk, 0]], chunks[chunk, 1]
        p, g, v = _part(tensor, 0, begin, like), _part(tensor, 1, begin, like), _part(tensor, 2, begin, like)
        if v.size == 0:
            for i in range(p.size):
                p[i] -= rate * (sign * g[i] + decay * p[i])
        else:
            if is_first:
                v[:] = 0
            for i in range(p.size):
                direction = sign * g[i] + decay * p[i]
                v[i] = kept * v[i] + taken * direction
                p[i] -= rate * (direction + kept * v[i] if nesterov else v[i])


@exact_kernel
def _adam(start, stop, tensors, chunks, like, beta1, beta2, eps, weight_decay, stride, root, shrink, maximize):
    scalar = like.dtype.type
    kept1, taken1, kept2, taken2 = scalar(beta1), scalar(1 - beta1), scalar(beta2), scalar(1 - beta2)
    least, decay, length, divisor = scalar(eps), scalar(weight_decay), scalar(stride), scalar(root)
    shrunk, sign = scalar(shrink), scalar(-1 if maximize else 1)
    for chunk in range(start, stop):
        tensor, begin = tensors[chunks[chunk, 0]], chunks[chunk, 1]
        p, g = _part(tensor, 0, begin, like), _part(tensor, 1, begin, like)
        mean, square, largest = (
            _part(tensor, 2, begin, like),
            _part(tensor, 3, begin, like),
            _part(tensor, 4, begin, like),
        )
        top = square if largest.size == 0 else largest
        for i in range(p.size):
            before = p[i] * shrunk
            direction = sign * g[i] + decay * before
            mean[i] = kept1 * mean[i] + taken1 * direction
            square[i] = kept2 * square[i] + taken2 * (direction * direction)
            if not square[i] <= top[i]:
                top[i] = square[i]
            p[i] = before - mean[i] / (sqrt(top[i]) / divisor + least) * length


KERNELS = {"sgd": _sgd, "adam": _adam}
