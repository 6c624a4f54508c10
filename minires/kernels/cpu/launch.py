"""How a compiled kernel is declared, and how its work is shared among threads.

A kernel is a module-level function `f(start, stop, *arguments)` that does items `start` to `stop` of its work. It is
compiled at its first call, in a second or so, and kept on disk (`cache`). It releases the interpreter lock: `launch`
cuts the items into one span a thread, and the threads of a `team` do theirs beside the caller. Kernels take
C-contiguous arrays only, so that there is one compiled version for each dtype; what is read-only or misaligned becomes
such an array in `launch`.

Unlike Numba's own parallel loops, this works after a fork, and when several Python threads launch at once: the first
has the team, the others do all their items themselves.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import numpy as np

from minires.device import Array
from minires.kernels.cpu.cache import compiler
from minires.kernels.cpu.memory import empty
from minires.kernels.cpu.team import WANTED, Team, copy_job, make_job, share_job
from minires.kernels.threads import get_num_threads

# `reassoc` lets sums run in vector lanes and `contract` allows fused multiply-add. The flags that assume away NaN and
# Inf stay off: a diverging network must look the same here as in the reference.
kernel = compiler(fastmath={"reassoc", "contract"}, error_model="numpy")

RUN_NOW = 0  # no address: a job is not to be put anywhere
SERIAL_WORK = 1 << 15  # numbers touched; below that, handing over costs more than it saves


def launch(kernel: Any, items: int, work: int, *arguments: Any) -> None:
    """Run ``kernel(start, stop, *arguments)`` over spans that cover ``items``; return when all are done.

    ``work`` is about how many numbers are touched: little work stays in this thread, in one span, and so does all work
    while another thread has the team. What an item computes must not depend on the span it is in.

    Raises
    ------
    MemoryError
        If there is none for what a kernel sets aside; it has no other reason to fail.
    """
    for argument in arguments:
        if isinstance(argument, np.ndarray) and not argument.flags.behaved:
            arguments = tuple(map(_behaved, arguments))
            break
    helpers = 0 if work < SERIAL_WORK else max(0, min(items, get_num_threads()) - 1)
    run_spans = _launcher(kernel)
    if with_team(helpers, run_spans, items, RUN_NOW, *arguments):
        raise MemoryError(f"{kernel.__name__.strip('_')}: no memory for the blocks it works in")
    if _thread.recorder is not None:
        _thread.recorder(run_spans, items, helpers, arguments)


class _Writable:
    """The memory of a read-only array, as if it could be written to."""

    def __init__(self, array: Array) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self.owner = array


def _behaved(argument: Any) -> Any:
    """Return an array as kernels are compiled for: aligned, and of memory that can be written to.

    To Numba a read-only array is one of another type, and no kernel writes to its inputs.
    """
    if not isinstance(argument, np.ndarray) or argument.flags.behaved:
        return argument
    return np.asarray(_Writable(argument)) if argument.flags.aligned else argument.copy()


def with_team(helpers: int, run: Any, *arguments: Any) -> Any:
    """Return ``run(boards, *arguments)``, with boards of so many helpers, or none while another thread has the team."""
    lock: Any = _team_lock  # in a child forked meanwhile it is another
    if not helpers or lock._is_owned():  # the latter in what interrupts a launch of this thread
        return run(NO_BOARDS, *arguments)
    try:
        if not lock.acquire(blocking=False):
            return run(NO_BOARDS, *arguments)
        team = _team_of(helpers)
        try:
            for helper in team.helpers[:helpers]:
                helper.call()
            return run(team.boards[:helpers], *arguments)
        finally:
            team.boards[:, WANTED] = 0  # in one statement, so that an interrupt leaves none of them watching
    finally:
        try:  # noqa: SIM105 - nothing else may be called here, where an interrupt could come in
            lock.release()
        except RuntimeError:
            pass  # another thread has it


class _Thread(threading.local):
    recorder: Callable[[Any, int, int, tuple], None] | None = None  # called after each launch of this thread


_thread = _Thread()


@contextmanager
def recorded_by(recorder: Callable[[Any, int, int, tuple], None]) -> Iterator[None]:
    """Call ``recorder(run_spans, items, helpers, arguments)`` after each launch that this thread makes inside."""
    before, _thread.recorder = _thread.recorder, recorder
    try:
        yield
    finally:
        _thread.recorder = before


def launch_sum(
    kernel: Any, items: int, shares: int, work: int, shape: tuple[int, ...], dtype: np.dtype, *arguments: Any
) -> np.ndarray:
    """Return the sum over shares of what ``kernel(start, stop, *arguments, totals)`` writes to totals (shares, *shape).

    Each item belongs to one share; with a share for each thread, none waits for another. They are summed in order,
    whichever thread was first.
    """
    totals = empty((shares, *shape), dtype)
    launch(kernel, items, work, *arguments, totals)
    if shares == 1:
        return totals[0]
    total = np.add(totals[0], totals[1], out=empty(shape, dtype))
    for share in totals[2:]:
        total += share
    return total


NO_BOARDS = np.zeros((0, 0), np.int64)
launched_kernel: Any = None  # in each copy of the function below that `_launcher` makes, the kernel it is for


def _run_spans(boards, items, place, *arguments):
    """Run a kernel, one span of its items here and one by the helper of each board; return whether any failed.

    Or, where ``place`` is an address, put the job there and return how to run it.
    """
    run, job, size = make_job(launched_kernel, arguments)
    if place != RUN_NOW:
        copy_job(job, size, place)
        return run
    return share_job(boards, run, job, items)


launchers: dict[Any, Any] = {}


def _launcher(kernel: Any) -> Any:
    """Return `_run_spans` for a kernel, compiled and kept on disk under its name."""
    if kernel in launchers:
        return launchers[kernel]
    function = kernel.py_func
    launcher = FunctionType(_run_spans.__code__, {**globals(), "launched_kernel": kernel}, f"{function.__name__}_spans")
    launcher.__qualname__ = f"{function.__qualname__}_spans"
    launcher.__module__ = function.__module__
    launchers[kernel] = compiler()(launcher)
    return launchers[kernel]


_team: Team | None = None
_team_lock = threading.RLock()


def _team_of(size: int) -> Team:
    """Return a team of ``size`` helpers or more, fewer if the system gives fewer; the caller has the lock."""
    global _team
    if _team is None or _team.size < size:
        if _team is not None:
            _team.end()
        _team = Team(size)
    return _team


def _dismiss_team() -> None:
    """End the helpers while Python still runs: one that came back to find it gone would be cut off in compiled code.

    The lock is kept: what other threads launch from now on they do alone.
    """
    if _team_lock.acquire(timeout=1) and _team is not None:
        _team.end()


def _forget_team() -> None:
    """Start afresh in a forked child, which has none of its parent's threads."""
    global _team, _team_lock
    _team, _team_lock = None, threading.RLock()


atexit.register(_dismiss_team)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)
