"""How many threads the compiled kernels share their work among."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def _available_cpus() -> int:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        try:
            threads = int(
                os.environ.get(name, "").partition(",")[0]
            )  # OpenMP has a list: one for each level of nesting
        except ValueError:
            continue
        if threads > 0:
            return threads
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cpus, *_cpu_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _cpu_quotas(groups: Path, mounted: Path) -> Iterator[int]:
    """Yield how many CPUs' time each control group of this process allows it: on Linux, containers are limited so."""
    try:
        lines = groups.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)  # no controllers: version 2
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / controllers
        group = root / path.lstrip("/")
        while group.is_relative_to(root):  # in a container its own group is the root, whatever its name is outside
            with suppress(OSError, ValueError):  # there is none, or its quota is "max"
                if controllers:
                    quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
                else:
                    quota, period = map(int, (group / "cpu.max").read_text().split())
                if quota > 0:
                    yield -(-quota // period)
            group = group.parent


_threads = _available_cpus()


def get_num_threads() -> int:
    """Return how many threads a kernel is shared among.

    At first that is the environment's ``OMP_NUM_THREADS`` (of a list, the first number) or ``NUMBA_NUM_THREADS``, or
    else the number of CPUs that this process may use. Where the system gives fewer threads, kernels run on those.
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
