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
import weakref
from collections import OrderedDict, deque
from typing import Any

import numpy as np

from minires.device import Array

LINE_BYTES = 64
LEAST_BYTES = 1 << 20  # below, malloc keeps memory itself


class _Block:
    """Memory that returns to the pool when nobody refers to it any more. Arrays that lie in it refer to it."""

    __slots__ = ("__array_interface__", "__weakref__")
    lent_by_pool = True  # asked by the backward walk: nobody owns it but the arrays that lie in it

    def __init__(self, memory: Array) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__


class _Loan(weakref.ref):
    """Sees a block go, and has its memory."""

    __slots__ = ("memory",)
    memory: Array


class _Pool:
    """Memory by size, and how much of it there is.

    Of a block that goes, its loan is put into a queue, by code that is not Python's: an interrupt (Ctrl-C) that came
    within a ``__del__`` would be lost, and a lock might be the one just taken. An interrupt of what is done here may
    leave the counts off by an array, no more.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loans: dict[int, _Loan] = {}  # a weak reference calls back only while it is there itself
        self.returned: deque[_Loan] = deque()
        self.idle: OrderedDict[int, list[Array]] = OrderedDict()  # by size, that which was used last at the end
        self._idle_bytes = 0
        self._used_bytes = 0
        self.most_used_bytes = 0

    @property
    def idle_bytes(self) -> int:
        """What waits for the next array."""
        with self.lock:
            self._collect()
            return self._idle_bytes

    @property
    def used_bytes(self) -> int:
        """What arrays lie in."""
        with self.lock:
            self._collect()
            return self._used_bytes

    def take(self, size: int) -> _Block:
        with self.lock:
            self._collect()
            found = self.idle.get(size)
            if found:
                self.idle.move_to_end(size)
                self._idle_bytes -= size
            self._used_bytes += size
            self.most_used_bytes = max(self.most_used_bytes, self._used_bytes)
            self._trim()
            memory = found.pop() if found else _aligned(size)
            block = _Block(memory)
            loan = _Loan(block, self.returned.append)
            loan.memory = memory
            self.loans[id(loan)] = loan
            return block

    def _collect(self) -> None:
        while self.returned:
            loan = self.returned.popleft()
            self.loans.pop(id(loan), None)
            size = loan.memory.size
            self._used_bytes -= size
            self._idle_bytes += size
            self.idle.setdefault(size, []).append(loan.memory)
            self.idle.move_to_end(size)

    def _trim(self) -> None:
        while self._idle_bytes > self.most_used_bytes - self._used_bytes:
            size = next((size for size, memories in self.idle.items() if memories), None)
            if size is None:
                self._idle_bytes = 0
                return
            self.idle[size].pop()
            self._idle_bytes -= size


_pool = _Pool()


def _unlock() -> None:
    """In a forked child nobody is left to open a lock that another thread had closed."""
    _pool.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a C-contiguous array of any content, as ``numpy.empty`` does."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return _aligned(size).view(dtype).reshape(shape)
    return np.asarray(_pool.take(size)).view(dtype).reshape(shape)


def _aligned(size: int) -> Array:
    """Return bytes that begin where a cache line does: a vector that lies across two takes both."""
    memory = np.empty(size + LINE_BYTES, np.uint8)
    address, _ = memory.__array_interface__["data"]
    skipped = -address % LINE_BYTES
    return memory[skipped : skipped + size]


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a C-contiguous array of zeros, as ``numpy.zeros`` does."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
