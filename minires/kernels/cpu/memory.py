"""Large arrays whose memory goes to the next one of that size when the last name for them goes.

A training step makes the same large arrays again and again. Memory from the operating system comes a page at a time,
each cleared at its first touch: for a pass that does little arithmetic that is most of its time. So memory given up is
kept for the next array of as many bytes. What lies idle and what is in use never add up to more than was in use at
once before: beyond that, what has lain idle longest is let go.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from minires.device import Array

LINE_BYTES = 64
LEAST_BYTES = 1 << 20  # below, malloc keeps memory itself


class _Pool:
    """Memory by size, and how much of it there is. The lock may be taken again by a block that goes meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.idle: OrderedDict[int, list[Array]] = OrderedDict()  # by size, that which was used last at the end
        self.idle_bytes = 0
        self.used_bytes = 0
        self.most_used_bytes = 0

    def take(self, size: int) -> Array:
        with self.lock:
            found = self.idle.get(size)
            if found:
                self.idle.move_to_end(size)
                self.idle_bytes -= size
            self.used_bytes += size
            self.most_used_bytes = max(self.most_used_bytes, self.used_bytes)
            self._trim()
            return found.pop() if found else _aligned(size)

    def give(self, memory: Array) -> None:
        with self.lock:
            self.used_bytes -= memory.size
            self.idle_bytes += memory.size
            self.idle.setdefault(memory.size, []).append(memory)
            self.idle.move_to_end(memory.size)

    def _trim(self) -> None:
        while self.idle_bytes > self.most_used_bytes - self.used_bytes:
            size = next(size for size, memories in self.idle.items() if memories)
            self.idle[size].pop()
            self.idle_bytes -= size


_pool = _Pool()


def _unlock() -> None:
    """In a forked child nobody is left to open a lock that another thread had closed."""
    _pool.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


class _Block:
    """Memory that returns to the pool when nobody refers to it any more. Arrays that lie in it refer to it."""

    __slots__ = ("__array_interface__", "give", "memory")

    def __init__(self, size: int) -> None:
        self.memory = _pool.take(size)
        self.give = _pool.give
        self.__array_interface__: dict[str, Any] = self.memory.__array_interface__

    def __del__(self) -> None:
        self.give(self.memory)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a C-contiguous array of any content, as ``numpy.empty`` does."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return _aligned(size).view(dtype).reshape(shape)
    return np.asarray(_Block(size)).view(dtype).reshape(shape)


def _aligned(size: int) -> Array:
    """Return bytes that begin where a cache line does: a vector that lies across two takes both."""
    memory = np.empty(size + LINE_BYTES, np.uint8)
    skipped = -memory.ctypes.data % LINE_BYTES
    return memory[skipped : skipped + size]


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a C-contiguous array of zeros, as ``numpy.zeros`` does."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
