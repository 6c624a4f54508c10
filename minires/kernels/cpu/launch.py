"""How a compiled kernel is declared, and how its work is shared among threads.

A kernel is a module-level function `f(start, stop, *arguments)` that does items `start` to `stop` of its work. It is
compiled at its first call, in a second or so, and kept on disk beside its source. It releases the interpreter lock, so
plain Python threads run it in parallel: `launch` cuts the items into one span a thread. Kernels take C-contiguous
arrays only, so that there is one compiled version for each dtype.

Waking a sleeping thread takes longer than many a kernel, on a virtual machine hundreds of microseconds. So the helpers
of `launch` watch for the next job in a compiled loop, without the interpreter lock, for about a millisecond before they
sleep: in training they hardly ever do. Unlike Numba's own parallel loops, this works after a fork, and when several
Python threads launch at once: the first has the helpers, the others do all their spans themselves.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from minires.kernels.cpu.memory import zeros
from minires.kernels.threads import get_num_threads

# `reassoc` lets sums run in vector lanes and `contract` allows fused multiply-add. The flags that assume away NaN and
# Inf stay off: a diverging network must look the same here as in the reference.
kernel = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")

SERIAL_WORK = 1 << 15  # numbers touched; below that, waking a thread costs more than it saves


def launch(kernel: Callable[..., object], items: int, work: int, *arguments: Any) -> None:
    """Run ``kernel(start, stop, *arguments)`` over spans that cover ``items``; return when all are done.

    ``work`` is about how many numbers are touched: little work stays in this thread. The spans depend only on ``items``
    and the number of threads.
    """
    threads = 1 if work < SERIAL_WORK else max(1, min(items, get_num_threads()))
    first, *rest = itertools.pairwise(items * i // threads for i in range(threads + 1))
    if not rest or not _team_lock.acquire(blocking=False):
        for span in (first, *rest):
            kernel(*span, *arguments)
        return
    try:
        helpers = _team(len(rest))
        for helper, span in zip(helpers, rest, strict=True):
            helper.start_job(kernel, span, arguments)
        try:
            kernel(*first, *arguments)
        finally:
            for helper in helpers:
                helper.wait_until_done()
        for helper in helpers:
            helper.raise_error()
    finally:
        _team_lock.release()


def launch_sum(
    kernel: Callable[..., object], items: int, work: int, shape: tuple[int, ...], dtype: np.dtype, *arguments: Any
) -> np.ndarray:
    """Return the sum that ``kernel(start, stop, *arguments, total)`` adds to ``total``, zero at first, over all items.

    Each thread adds to an array of its own. These are summed in order of the items, whichever thread was first.
    """
    shares: dict[int, np.ndarray] = {}

    def add_share(start: int, stop: int) -> None:
        shares[start] = zeros(shape, dtype)
        kernel(start, stop, *arguments, shares[start])

    launch(add_share, items, work)
    first, *rest = (shares[start] for start in sorted(shares))
    for share in rest:
        first += share
    return first


DONE, POSTED = 0, 8  # places on a helper's board, a cache line apart
WATCH = 1 << 20  # looks at the board, about a nanosecond each
# Between so many looks the processor is offered to others: the thread that is waited for may be one of them, put on the
# same processor while another program has the rest.
LOOKS_AT_ONCE = 1 << 11


class _Helper:
    """A thread that does one span at a time. Jobs are numbered; the board has the last one posted and the last done."""

    def __init__(self) -> None:
        self.board = np.zeros(16, np.int64)
        self.number = 0
        self.job: tuple[Any, ...] = ()
        self.error: BaseException | None = None
        self.asleep = False
        self.alarm = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="minires-kernel", daemon=True)
        self.thread.start()

    def start_job(self, kernel: Callable[..., object], span: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        # The helper works in a copy of the caller's context, where NumPy keeps how it treats overflow and NaN.
        self.job = copy_context().run, kernel, *span, *arguments
        self._post()

    def wait_until_done(self) -> None:
        while not _watch(self.board, DONE, self.number, WATCH):
            time.sleep(0)  # more threads than processors: let the helper have this one

    def raise_error(self) -> None:
        error, self.error, self.job = self.error, None, ()
        if error is not None:
            raise error

    def stop(self) -> None:
        self.job = ()
        self._post()
        self.thread.join()

    def _post(self) -> None:
        self.number += 1
        self.board[POSTED] = self.number
        if self.asleep:
            self.alarm.set()

    def _serve(self) -> None:
        number = 0
        while True:
            if not _report_and_watch(self.board, DONE, number, POSTED, WATCH):
                # Whoever posts looks at `asleep` after posting, so one of the two sees what the other did.
                self.alarm.clear()
                self.asleep = True
                if self.board[POSTED] == number:
                    self.alarm.wait()
                self.asleep = False
            number += 1
            if not self.job:
                return
            self._do_job()

    def _do_job(self) -> None:
        """A method of its own, so that no name here keeps the job's arrays while the helper waits for the next."""
        run, *call = self.job
        try:
            run(*call)
        except BaseException as error:
            self.error = error


_helpers: list[_Helper] = []
_team_lock = threading.Lock()


def _team(size: int) -> list[_Helper]:
    """Return ``size`` helpers."""
    while len(_helpers) < size:
        _helpers.append(_Helper())
    return _helpers[:size]


def _dismiss_team() -> None:
    """End the helpers while Python still runs: one that came back to find it gone would be cut off in compiled code."""
    while _helpers:
        _helpers.pop().stop()


def _forget_team() -> None:
    """Start afresh in a forked child, which has none of its parent's threads."""
    global _helpers, _team_lock
    _helpers, _team_lock = [], threading.Lock()


atexit.register(_dismiss_team)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)


@intrinsic
def _load(typing, board, place):
    """board[place], read anew from memory, and nothing after it read before it."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(board, types.int64), generate


@intrinsic
def _store(typing, board, place, value):
    """board[place] = value, seen by others after everything written before it."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[2], builder.gep(data, [arguments[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(board, types.int64, types.int64), generate


if hasattr(os, "sched_yield"):
    _give_way = types.ExternalFunction("sched_yield", types.int32())
else:

    @kernel
    def _give_way():
        """There is no way to let another thread have the processor."""


@kernel
def _watch(board, place, number, looks):
    """Look until board[place] is ``number``; return whether it came to be."""
    for look in range(looks):
        if _load(board, place) == number:
            return True
        if look % LOOKS_AT_ONCE == LOOKS_AT_ONCE - 1:
            _give_way()
    return False


@kernel
def _report_and_watch(board, done, number, posted, looks):
    """Report job ``number`` done, then look until another is posted; return whether one was.

    To report after giving up the interpreter lock spares the waiting thread a fight for it.
    """
    _store(board, done, number)
    for look in range(looks):
        if _load(board, posted) != number:
            return True
        if look % LOOKS_AT_ONCE == LOOKS_AT_ONCE - 1:
            _give_way()
    return False
