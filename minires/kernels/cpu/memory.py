"""Large arrays lie in memory that is asked of the system once, and goes from one to the next.

A training step makes the same large arrays again and again. Memory from the operating system comes a page at a time,
each cleared at its first touch: for a pass that does little arithmetic that is most of its time. So memory given up is
kept for the arrays to come, of whatever size: neighbours that are both given up are one, and a new array takes a part
of the smallest that is large enough ("best fit"; Knuth, "The Art of Computer Programming", volume 1, 2.5). A training
step of a ResNet so holds at most a tenth more than its arrays take at once.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from minires.device import Array

LINE_BYTES = 64
LEAST_BYTES = 1 << 20  # below, malloc keeps memory itself
SEGMENT_BYTES = 1 << 30  # asked of the system at once; pages that were never touched take no memory


class _Block:
    """Memory that returns to the pool when nobody refers to it any more. Arrays that lie in it refer to it."""

    __slots__ = ("__array_interface__", "__weakref__", "segment")
    lent_by_pool = True  # asked by the backward walk: nobody owns it but the arrays that lie in it

    def __init__(self, address: int, size: int, segment: _Segment) -> None:
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
        }
        self.segment = segment  # which lives while somebody lies in it, even when Python ends


class _Loan(weakref.ref):
    """Sees a block go, and knows where it lay."""

    __slots__ = ("begin", "end", "segment")
    begin: int
    end: int
    segment: _Segment


class _Segment:
    """Memory asked of the system at once; blocks lie below ``top``, and beyond it there is none."""

    def __init__(self, size: int) -> None:
        self.map = _map(size)
        self.start, _ = np.frombuffer(self.map, np.uint8).__array_interface__["data"]
        self.begin = self.top = self.most = self.start + LINE_BYTES  # this line keeps neighbouring segments apart
        self.end = self.start + size

    def give_back(self, begin: int, end: int) -> None:
        """Give whole pages between two addresses back to the system; where they are touched again, they are zero."""
        first = -(-(begin - self.start) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (end - self.start) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, first, last - first)


class Pool:
    """Segments, and which parts of them are idle.

    Of a block that goes, its loan is put into a queue, by code that is not Python's: an interrupt (Ctrl-C) that came
    within a ``__del__`` would be lost, and a lock might be the one just taken. What is done here can be interrupted
    between any two lines: in the worst case memory is lost, but never lent twice.
    """

    def __init__(self, segment_bytes: int | None = None) -> None:
        self.segment_bytes = segment_bytes  # SEGMENT_BYTES unless given
        self.lock = threading.Lock()
        self.segments: list[_Segment] = []
        self.idle: list[tuple[int, int]] = []  # (begin, end) of what lies idle below the tops, in order, never adjacent
        self.loans: dict[int, _Loan] = {}  # a weak reference calls back only while it is there itself
        self.returned: deque[_Loan] = deque()

    @property
    def held_bytes(self) -> int:
        """What the system has given: the most that was in use at once, and gaps."""
        return sum(segment.most - segment.begin for segment in self.segments)

    @property
    def used_bytes(self) -> int:
        """What arrays lie in."""
        with self.lock:
            self._collect()
            below_tops = sum(segment.top - segment.begin for segment in self.segments)
            return below_tops - sum(end - begin for begin, end in self.idle)

    def take(self, size: int) -> _Block:
        """Lend ``size`` bytes that begin at a cache line."""
        with self.lock:
            self._collect()
            lines = max(1, -(-size // LINE_BYTES)) * LINE_BYTES
            begin, segment = self._best_fit(lines) or self._on_top(lines)
            block = _Block(begin, size, segment)
            loan = _Loan(block, self.returned.append)
            loan.begin, loan.end, loan.segment = begin, begin + lines, segment
            self.loans[id(loan)] = loan
            return block

    def give_back(self) -> None:
        """Give the memory of what lies idle back to the system."""
        with self.lock:
            self._collect()
            for begin, end in self.idle:
                self._segment_at(begin).give_back(begin, end)
            for segment in self.segments:
                segment.give_back(segment.top, segment.most)
                segment.most = segment.top

    def has(self, array: Array) -> bool:
        """Tell whether an array begins in memory of this pool."""
        return self._place_of(array) is not None

    def borrowed(self, array: Array) -> Array:
        """Return an array in the place of one that lies in this pool; that one's memory may be lent anew meanwhile."""
        place = self._place_of(array)
        assert place is not None  # checked by the caller
        segment, address = place
        return np.ndarray(array.shape, array.dtype, segment.map, address - segment.start, array.strides)

    def _place_of(self, array: Array) -> tuple[_Segment, int] | None:
        address, _ = array.__array_interface__["data"]
        found = (segment for segment in self.segments if segment.begin <= address < segment.end)
        return next(((segment, address) for segment in found), None)

    def _best_fit(self, size: int) -> tuple[int, _Segment] | None:
        """Take from the smallest idle part that is large enough, if there is one."""
        fitting = [(end - begin, index) for index, (begin, end) in enumerate(self.idle) if end - begin >= size]
        if not fitting:
            return None
        _, index = min(fitting)
        begin, end = self.idle[index]
        self.idle[index : index + 1] = [(begin + size, end)] if begin + size < end else []
        return begin, self._segment_at(begin)

    def _segment_at(self, address: int) -> _Segment:
        return next(segment for segment in self.segments if segment.begin <= address < segment.end)

    def _on_top(self, size: int) -> tuple[int, _Segment]:
        """Take what no block has below it, from a new segment if need be."""
        segment = next((segment for segment in self.segments if segment.end - segment.top >= size), None)
        if segment is None:
            segment = _new_segment(size, SEGMENT_BYTES if self.segment_bytes is None else self.segment_bytes)
            self.segments.append(segment)
        begin = segment.top
        segment.top += size
        segment.most = max(segment.most, segment.top)
        return begin, segment

    def _collect(self) -> None:
        """Make idle what was given up, one with its neighbours; what ends at a top lowers it."""
        while self.returned:
            loan = self.returned.popleft()
            self.loans.pop(id(loan), None)
            begin, end = loan.begin, loan.end
            first = last = bisect(self.idle, (begin, end))
            if first and self.idle[first - 1][1] == begin:
                first -= 1
                begin, _ = self.idle[first]
            if last < len(self.idle) and self.idle[last][0] == end:
                _, end = self.idle[last]
                last += 1
            is_top = end == loan.segment.top
            self.idle[first:last] = [] if is_top else [(begin, end)]
            if is_top:
                loan.segment.top = begin


def _new_segment(size: int, usual_size: int) -> _Segment:
    """Ask for the usual size; for no more than is needed if there is not as much or more is needed."""
    size += LINE_BYTES
    if size < usual_size:
        with suppress(MemoryError):
            return _Segment(usual_size)
    return _Segment(size)


def _map(size: int) -> mmap.mmap:
    """Return pages of the system's, private to this process and what it forks.

    Raises
    ------
    MemoryError
        If there are not as many.
    """
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
            return mmap.mmap(-1, size)
        pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"the system has no {size:,} bytes of memory for an array") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


_pool = Pool()


def _unlock() -> None:
    """In a forked child nobody is left to open a lock that another thread had closed."""
    _pool.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def give_back() -> None:
    """Give memory that no array lies in back to the system."""
    _pool.give_back()


class _Thread(threading.local):
    pool: Pool | None = None


_thread = _Thread()


@contextmanager
def lent_by(pool: Pool) -> Iterator[None]:
    """Have all arrays that this thread makes inside, large and small, lie in a pool of their own."""
    before, _thread.pool = _thread.pool, pool
    try:
        yield
    finally:
        _thread.pool = before


def empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a C-contiguous array of any content, as ``numpy.empty`` does."""
    size = math.prod(shape) * dtype.itemsize
    pool = _thread.pool
    if pool is None:
        if size < LEAST_BYTES:
            return _aligned(size).view(dtype).reshape(shape)
        pool = _pool
    return np.asarray(pool.take(size)).view(dtype).reshape(shape)


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
