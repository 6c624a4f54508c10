"""How much memory of a GPU is in use, and an error that says so when there is not enough.

CuPy's memory pool knows what it holds now, but not the most that it has held; `Watched` stands before it and does.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any


class OutOfMemoryError(RuntimeError):
    """A GPU has not enough memory for an array. The message says how much was asked for, used and held."""


class Watched:
    """An allocator for ``cupy.cuda.set_allocator`` that hands out CuPy's memory and remembers the peak.

    Parameters
    ----------
    xp : CuPy.

    Attributes
    ----------
    peaks : the most bytes in use at once, by number of device.
    """

    def __init__(self, xp: Any):
        self.xp = xp
        self.pool = xp.get_default_memory_pool()
        self.peaks: dict[int, int] = {}
        self._private: weakref.WeakSet[Any] = weakref.WeakSet()

    def malloc(self, size: int) -> Any:
        """Return ``size`` bytes of the current device, from the pool that all share.

        Raises
        ------
        OutOfMemoryError
            If there are no more.
        """
        return self._from(self.pool, size)

    def private_pool(self) -> Callable[[int], Any]:
        """Return another allocator like `malloc`, whose memory nobody else is given while it is kept."""
        pool = self.xp.cuda.MemoryPool()
        self._private.add(pool)
        return functools.partial(self._from, pool)

    def used(self) -> int:
        """Return how many bytes of the current device are in use by arrays."""
        return sum(pool.used_bytes() for pool in (self.pool, *self._private))

    def held(self) -> int:
        """Return how many bytes of the current device the pools hold."""
        return sum(pool.total_bytes() for pool in (self.pool, *self._private))

    def _from(self, pool: Any, size: int) -> Any:
        try:
            memory = pool.malloc(size)
        except self.xp.cuda.memory.OutOfMemoryError as error:
            raise OutOfMemoryError(self._refusal(size)) from error
        device = self.xp.cuda.runtime.getDevice()
        self.peaks[device] = max(self.peaks.get(device, 0), self.used())
        return memory

    def _refusal(self, size: int) -> str:
        free, total = self.xp.cuda.runtime.memGetInfo()
        used, held = self.used(), self.held()
        return (
            f"GPU {self.xp.cuda.runtime.getDevice()} is out of memory: {in_units(size)} were asked for, and of its "
            f"{in_units(total)} only {in_units(free)} are free. This process uses {in_units(used)} and holds "
            f"{in_units(held - used)} more in its pool. Take a smaller batch, keep fewer activations "
            "(minires train --recompute, autograd.checkpoint), or let go of what is held with "
            "minires.cuda.empty_cache()"
        )


def in_units(size: int) -> str:
    """Return a number of bytes as people read it, such as "1.5 GiB"."""
    if size < 1024:
        return f"{size} bytes"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"
