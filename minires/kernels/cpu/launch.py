"""How a compiled kernel is declared, and how its work is shared among threads.

A kernel is a module-level function `f(start, stop, *arguments)` that does items `start` to `stop` of its work. It is
compiled at its first call, in a second or so, and kept on disk beside its source. It releases the interpreter lock, so
plain Python threads run it in parallel: `launch` cuts the items into one span a thread. Kernels take C-contiguous
arrays only, so that there is one compiled version for each dtype.

Why not Numba's own parallel loops: their threads spin for milliseconds after each loop, waiting for the next, and so do
the threads of BLAS. Convolution goes back and forth between the two, and each pool then burns the cores that the other
needs: on two busy cores one convolution took a hundred times as long. Threads that sleep while they wait are not hurt.
Nor do they end the process when two Python threads compute at once, or after a fork, as some of Numba's layers do.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import numba
from threadpoolctl import ThreadpoolController

# `reassoc` lets sums run in vector lanes and `contract` allows fused multiply-add. The flags that assume away NaN and
# Inf stay off: a diverging network must look the same here as in the reference.
kernel = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")

SERIAL_WORK = 1 << 15  # numbers touched; below that, waking a thread costs more than it saves


def _available_cpus() -> int:
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _available_cpus()
_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def get_num_threads() -> int:
    """Return how many threads a kernel is shared among: ``OMP_NUM_THREADS`` if it is set, else the CPUs allowed."""
    return _threads


def set_num_threads(threads: int) -> None:
    """Share kernels among ``threads`` threads from now on. Results may differ in the last bit between counts.

    Raises
    ------
    ValueError
        If ``threads`` is less than 1.
    """
    global _threads
    if threads < 1:
        raise ValueError(f"the number of threads must be at least 1, got {threads}")
    _threads = threads
    _forget_pool()


def launch(kernel: Callable[..., object], items: int, work: int, *arguments: Any) -> None:
    """Run ``kernel(start, stop, *arguments)`` over spans that cover ``items``; return when all are done.

    ``work`` is about how many numbers are touched: little work stays in this thread. The spans depend only on ``items``
    and the number of threads.
    """
    threads = 1 if work < SERIAL_WORK else max(1, min(items, _threads))
    first, *rest = itertools.pairwise(items * i // threads for i in range(threads + 1))
    # Each thread takes along a copy of the caller's context, where NumPy keeps how it treats overflow and NaN.
    others = [_executor().submit(copy_context().run, kernel, *span, *arguments) for span in rest]
    try:
        kernel(*first, *arguments)
    finally:
        for other in others:
            other.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=_threads, thread_name_prefix="minires-kernel")
        return _pool


def _forget_pool() -> None:
    """Start afresh with the next launch: after a change of number, and in a forked child, which has no threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


_blas = ThreadpoolController().select(user_api="blas")
_blas_users = 0
_blas_limit: Any = None


@contextmanager
def serial_blas() -> Iterator[None]:
    """Keep BLAS to the calling thread: inside, our own threads share out the matrix products.

    The limit holds for the whole process, so the first to enter sets it and the last to leave lifts it.
    """
    global _blas_users, _blas_limit
    with _lock:
        if _blas_users == 0:
            _blas_limit = _blas.limit(limits=1)
        _blas_users += 1
    try:
        yield
    finally:
        with _lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()
