"""Batches on the GPU ahead of time: copied from page-locked memory while the GPU computes on the batch before.

The GPU copies by itself only from memory that the system cannot move. A thread writes each batch there and starts its
copy on a stream of its own, while the caller launches what is to be done with the last one. Images go over as bytes
where a kernel can make floats of them, on the same stream.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.data.loader import DataLoader
from minires.data.transforms.deferred import DeferredImages
from minires.device import Device, as_device, cupy
from minires.kernels.layout import in_memory_order

SLOTS = 2  # batches in page-locked memory: one is written while the other is copied


def batches_for(loader: Iterable[Any], device: Device | str | None) -> Any:
    """Return an iterator over a loader, for `on_device`: one of ours leaves to a GPU what a kernel does there."""
    if not isinstance(loader, DataLoader) or as_device(device).type == "cpu":
        return iter(loader)
    return loader.deferring() if type(loader).__iter__ is DataLoader.__iter__ else iter(loader)


def on_device(batches: Iterable[Any], device: Device | str | None) -> Generator[Any, None, None]:
    """Yield batches, Tensors or tuples and lists of them, on ``device``, those for a GPU copied ahead of time.

    The order and the layout in memory stay. On the CPU batches are passed through; what is no Tensor always is, but for
    `DeferredImages`, which become Tensors of floats.

    Raises
    ------
    RuntimeError
        If the device is a GPU that is not there.
    """
    target = as_device(device)
    if target.type == "cpu":
        yield from (batch if device is None else _moved(batch, lambda tensor: tensor.to(target)) for batch in batches)
        return
    with _Copier(target) as copier:
        pending: deque[Future[Any]] = deque()
        for batch in batches:
            pending.append(copier.start(batch))
            if len(pending) == SLOTS:
                yield copier.arrived(pending.popleft())
        while pending:
            yield copier.arrived(pending.popleft())


class _Copier:
    """A thread with a stream, and page-locked memory for some batches."""

    def __init__(self, device: Device):
        self._device = device
        self._xp = cupy()
        with self._xp.cuda.Device(device.index):
            self._stream = self._xp.cuda.Stream(non_blocking=True)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="minires-copier")
        self._started = 0
        self._memory: dict[tuple[int, int], np.ndarray] = {}  # by slot and number within the batch
        self._copied: list[Any] = [None] * SLOTS  # an event after the last copy from each slot

    def __enter__(self) -> _Copier:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
        self._stream.synchronize()  # the page-locked memory goes now

    def start(self, batch: Any) -> Future[Any]:
        """Begin to copy a batch; memory that is given back by what was launched so far may be taken for it."""
        with self._xp.cuda.Device(self._device.index):
            launched = self._xp.cuda.get_current_stream().record()
        slot, self._started = self._started % SLOTS, self._started + 1
        return self._pool.submit(self._copy, batch, slot, launched)

    def arrived(self, future: Future[Any]) -> Any:
        """Return a batch that was started; what the current stream does from now on comes after its copy."""
        batch, copied = future.result()
        with self._xp.cuda.Device(self._device.index):
            self._xp.cuda.get_current_stream().wait_event(copied)
        return batch

    def _copy(self, batch: Any, slot: int, launched: Any) -> tuple[Any, Any]:
        with self._xp.cuda.Device(self._device.index), self._stream:
            if self._copied[slot] is not None:
                self._copied[slot].synchronize()
            self._stream.wait_event(launched)
            count = 0

            def copy(tensor: Tensor) -> Tensor:
                nonlocal count
                count += 1
                return self._copy_tensor(tensor, (slot, count))

            moved = _moved(batch, copy)
            self._copied[slot] = self._stream.record()
            return moved, self._copied[slot]

    def _copy_tensor(self, tensor: Tensor, place: tuple[int, int]) -> Tensor:
        if tensor.is_cuda:
            return tensor.to(self._device)
        dense, back = in_memory_order(tensor.array)
        memory = self._memory.get(place)
        if memory is None or memory.nbytes < dense.nbytes:
            memory = importlib.import_module("cupyx").empty_pinned((dense.nbytes,), np.uint8)
            self._memory[place] = memory
        staged = memory[: dense.nbytes].view(dense.dtype).reshape(dense.shape)
        np.copyto(staged, dense)
        there = self._xp.empty(dense.shape, dense.dtype)
        there.set(staged, self._stream)
        return Tensor(there.transpose(back))


def _moved(batch: Any, move: Any) -> Any:
    """Return ``batch`` with its Tensors moved."""
    if isinstance(batch, Tensor):
        return move(batch)
    if isinstance(batch, DeferredImages):
        return batch.moved(move).floats()
    if isinstance(batch, tuple | list):
        parts = [_moved(part, move) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
