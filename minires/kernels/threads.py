"""How many threads the compiled kernels share their work among."""

from __future__ import annotations

import os


def _available_cpus() -> int:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _available_cpus()


def get_num_threads() -> int:
    """Return how many threads a kernel is shared among.

    At first that is the environment's ``OMP_NUM_THREADS`` or ``NUMBA_NUM_THREADS``, or else the number of CPUs that
    this process may use.
    """
    return _threads


def set_num_threads(threads: int) -> None:
    """Share kernels among ``threads`` threads from now on.

    The same number of threads gives the same bits, run after run; another number may give other last digits.

    Raises
    ------
    TypeError
        If ``threads`` is no integer.
    ValueError
        If it is less than 1.
    """
    global _threads
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise TypeError(f"the number of threads must be an int, got a {type(threads).__name__}")
    if threads < 1:
        raise ValueError(f"the number of threads must be at least 1, got {threads}")
    _threads = threads
