"""Steps of optimizers over many tensors in one launch; see `minires.kernels.optim`.

What changes from step to step, addresses and learning rates, goes to the kernels in a table on the device: so a
captured launch can be replayed with other values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from minires.device import Array
from minires.kernels.capture import current_capture, skip_flag
from minires.kernels.cuda.launch import THREADS, Backend, backend, launch, named, upload, zeros
from minires.kernels.cuda.source import VECTOR_BYTES

CHUNK = 1 << 14  # elements that a block takes, as in optim.cu


def step_tensors(kernel: str, lists: Sequence[Sequence[Array] | None], *options: bool | np.float64) -> None:
    """Run "sgd" or "adam" over tensors whose arrays are the lists' entries at one place; None stands for no array."""
    parameters = lists[0]
    assert parameters is not None  # only the states may be missing
    numbers = np.array([option for option in options if isinstance(option, np.float64)])
    flags = tuple(bool(option) for option in options if not isinstance(option, np.float64))
    name, sizes, rows = _rows(kernel, lists)
    content = np.concatenate([numbers.view(np.int64), rows])
    key, capture = (name, sizes, flags), current_capture()
    if capture is not None and capture.is_renewing:
        capture.renew(key, content)
        return
    if capture is None:
        table = backend().from_host(content)
    else:
        table = backend().empty(content.shape, np.int64)
        capture.add(key, table, content, len(parameters))
    chunks = _chunks(backend(), sizes)
    launch("optim", name, (len(chunks),), (THREADS,), table, chunks, skip_flag(), *flags)


def unscale(gradients: Sequence[Array], factor: float | Array) -> Array:
    """Multiply gradients of one dtype by ``factor``, in place; return whether any is Inf or NaN, as int32 (1,).

    The factor may be a float64 (1,) on the device, which a captured launch reads anew in every replay.
    """
    name, sizes, rows = _rows("unscale", [gradients])
    chunks = _chunks(backend(), sizes)
    found = zeros((1,), np.int32)
    factors = (np.float64(factor), None) if isinstance(factor, float) else (np.float64(1), factor)
    launch("optim", name, (len(chunks),), (THREADS,), upload(rows), chunks, *factors, found)
    return found


def _rows(kernel: str, lists: Sequence[Sequence[Array] | None]) -> tuple[str, tuple[int, ...], np.ndarray]:
    """Return the kernel's name, the sizes of the tensors, and for each its arrays' addresses and its size."""
    first = lists[0]
    assert first is not None
    address = backend().pointer
    columns = [[0] * len(first) if arrays is None else [address(array) for array in arrays] for arrays in lists]
    aligned = all(pointer % VECTOR_BYTES == 0 for column in columns for pointer in column)
    sizes = tuple(array.size for array in first)
    name = named(kernel, first[0], VECTOR_BYTES // first[0].itemsize if aligned else 1)
    return name, sizes, np.array([*columns, sizes], np.int64).T.ravel()


@cache  # by backend too: each device has tables of its own
def _chunks(place: Backend, sizes: tuple[int, ...]) -> Array:
    """(blocks, 2): the tensor and the chunk of it that each block takes, an int32 array on the device."""
    counts = [-(-size // CHUNK) for size in sizes]
    rows = [(tensor, chunk) for tensor, count in enumerate(counts) for chunk in range(count)]
    return upload(np.array(rows, np.int32).reshape(-1, 2))
