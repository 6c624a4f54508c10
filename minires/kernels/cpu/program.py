"""A sequence of launches, recorded as they are made and run again by one call of compiled code.

Between two kernels Python finds the next one, checks its arguments and makes room for its result. That takes 50
microseconds, and several times as long where a kernel has just driven Python out of the cache: in a net that sees one
image at a time, as long as many a kernel. A program has all of that behind it. It is what CUDA calls a graph.

What lies in memory while a program is recorded lies there whenever it runs, so it has a pool of its own: arrays that
follow each other in the same place while it is recorded do so again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minires.device import Array
from minires.kernels.cpu.launch import NO_BOARDS, recorded_by, with_team
from minires.kernels.cpu.memory import Pool, empty, give_back, lent_by
from minires.kernels.cpu.team import JOB_BYTES, share_jobs

SEGMENT_BYTES = 1 << 27  # of a program's pool: some programs may be held at once


class _Job(NamedTuple):
    """A launch: (run, job, items, helpers) of `share_jobs`, and what has to be there as long as it can run."""

    numbers: tuple[int, int, int, int]
    owners: list[Array]


class Program:
    """Launches to run again, and calls of Python functions between them.

    What is launched while it is `recording` waits until `take_launches` or `take_call` says what becomes of it. A
    program belongs to one thread at a time.
    """

    def __init__(self) -> None:
        self._pool = Pool(SEGMENT_BYTES)
        self._waiting: list[_Job] = []
        self._owners: list[Array] = []
        self._steps: list[Array | Callable[[], None]] = []

    @property
    def has_launches(self) -> bool:
        """Whether launches wait."""
        return bool(self._waiting)

    def holds(self, array: Array) -> bool:
        """Tell whether an array lies in the program's pool: what it holds may change whenever the program runs."""
        return self._pool.has(array)

    def placed(self, array: Array) -> Array:
        """Return an array in the program's pool: this one, or a copy whose axes lie in memory in the same order."""
        if self.holds(array):
            return array
        dense = np.empty_like(array)
        with lent_by(self._pool):
            memory = empty((dense.nbytes,), np.dtype(np.uint8))
        copy = np.ndarray(dense.shape, dense.dtype, memory, 0, dense.strides)
        copy[...] = array
        return copy

    def borrowed(self, array: Array) -> Array:
        """Return an array for a call to use: in the same place in the pool, where others may lie between calls."""
        return self._pool.borrowed(array) if self.holds(array) else array

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what this thread launches inside; the arrays that kernels make there lie in the program's pool."""
        with lent_by(self._pool), recorded_by(self._record):
            yield
        self.give_back_idle()

    def give_back_idle(self) -> None:
        """Give memory back to the system that lies idle outside, where the same was launched before."""
        give_back()

    def _record(self, run_spans: Any, items: int, helpers: int, arguments: tuple) -> None:
        job = np.empty(JOB_BYTES, np.uint8)
        address, _ = job.__array_interface__["data"]
        run = run_spans(NO_BOARDS, items, address, *arguments)
        # What lies in the pool may be given up: what comes next in its place will come there again.
        others = [x for x in arguments if isinstance(x, np.ndarray) and not self.holds(x)]
        self._waiting.append(_Job((run, address, items, helpers), [job, *others]))

    def take_launches(self) -> None:
        """Have the program make the launches that wait."""
        jobs = np.array([job.numbers for job in self._waiting], np.int64).reshape(-1, 4)
        if self._steps and isinstance(self._steps[-1], np.ndarray):
            jobs = np.concatenate([self._steps.pop(), jobs])
        self._steps.append(jobs)
        self._owners += [owner for job in self._waiting for owner in job.owners]
        self._waiting.clear()

    def take_call(self, function: Callable[[], None]) -> None:
        """Have the program call a function in place of the launches that wait."""
        self._steps.append(function)
        self._waiting.clear()

    def run(self) -> None:
        """Do it all once more, with what the arrays hold now.

        Raises
        ------
        MemoryError
            If there is none for what a kernel sets aside.
        """
        for step in self._steps:
            if not isinstance(step, np.ndarray):
                step()
            elif with_team(int(step[:, 3].max(initial=0)), share_jobs, step):
                raise MemoryError("no memory for the blocks that kernels work in")
