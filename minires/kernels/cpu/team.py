"""Threads that do their share of a kernel, without the interpreter between two of them.

Waking a sleeping thread takes longer than many a kernel, on a virtual machine up to milliseconds, and a thread sleeps
as soon as it waits for the interpreter lock. So the helpers of a team live in compiled code. Each has a board, a row of
numbers in memory: the caller of a kernel posts a job there, the helper sees it, does it and reports it done. A helper
that has seen nothing new for some milliseconds returns to Python and sleeps.

A job that no helper has begun when the caller is done with its own share, the caller does itself: then nobody waits for
a thread that is still waking up, or whose processor another program has.

    caller    posts job n                claims n?  yes: does it    no: waits until n is done
    helper    watches for a job n        claims n?  yes: does it, reports it done
"""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minires.kernels.cpu.cache import compiler
from minires.kernels.cpu.memory import zeros

compiled = compiler()

# Places on a board. What the caller writes, what both write and what the helper writes lie on cache lines of their own.
RUN, JOB, START, STOP, POSTED, WANTED, CLAIMED, DONE, FAILED = 0, 1, 2, 3, 4, 5, 8, 16, 17
PLACES = 24  # whole cache lines
WATCH = 1 << 22  # looks at the board before a helper that is not wanted sleeps: about 7 ms
# Between so many looks the processor is offered to others: the thread that is waited for may be one of them, put on the
# same processor while another program has the rest.
LOOKS_AT_ONCE = 1 << 11

JOB_BYTES = 1 << 12  # more than the arguments of any kernel take

BYTES, INT64 = ir.IntType(8).as_pointer(), ir.IntType(64)
RUN_TYPE = ir.FunctionType(INT64, [BYTES, INT64, INT64])


@intrinsic
def make_job(typing, kernel, arguments):
    """Return (run, job, size): by the first two, addresses, `do_job` calls ``kernel(start, stop, *arguments)``.

    The job, so many bytes, holds until the compiled function that made it returns; a copy of it as long as the memory
    of the arrays among the arguments.
    """
    spans = types.int64, types.int64
    signature = kernel.get_call_type(typing, (*spans, *arguments.types), {})
    result = kernel.dispatcher.get_compile_result(signature)

    def generate(context, builder, _, values):
        packed = _without_owners(context, builder, arguments, values[1])
        memory = cgutils.alloca_once_value(builder, packed)
        run = ir.Function(builder.module, RUN_TYPE, builder.module.get_unique_name("run"))
        run.linkage = "internal"
        job, *span = run.args
        inside = ir.IRBuilder(run.append_basic_block())
        packed = inside.load(inside.bitcast(job, memory.type))
        context.active_code_library.add_linking_library(result.library)
        status, _ = context.call_internal_no_propagate(
            inside, result.fndesc, signature, (*span, *cgutils.unpack_tuple(inside, packed))
        )
        inside.ret(inside.zext(status.is_error, INT64))
        addresses = [builder.ptrtoint(pointer, INT64) for pointer in (run, memory)]
        size = context.get_abi_sizeof(packed.type)
        if size > JOB_BYTES:
            raise ValueError(f"a kernel's arguments take {size} bytes, and JOB_BYTES allows {JOB_BYTES}")
        return context.make_tuple(builder, types.UniTuple(types.int64, 3), [*addresses, INT64(size)])

    return types.UniTuple(types.int64, 3)(kernel, arguments), generate


def _without_owners(context, builder, tuple_type, values):
    """A tuple of numbers and arrays, the latter without the references to their owners, which a caller of jobs has."""
    elements = []
    for element_type, element in zip(tuple_type, cgutils.unpack_tuple(builder, values), strict=True):
        if not isinstance(element_type, (types.Array, types.Number, types.Boolean)):
            raise TypeError(f"kernels are launched with arrays and numbers, got {element_type}")
        if isinstance(element_type, types.Array):
            array = context.make_array(element_type)(context, builder, element)
            array.meminfo = array.parent = ir.Constant(BYTES, None)
            element = array._getvalue()
        elements.append(element)
    return context.make_tuple(builder, tuple_type, elements)


@intrinsic
def copy_job(typing, job, size, place):
    """Copy a job to another address."""

    def generate(context, builder, signature, arguments):
        job, size, place = arguments
        cgutils.raw_memcpy(builder, *(builder.inttoptr(each, BYTES) for each in (place, job)), size, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def do_job(typing, run, job, start, stop):
    """Do a span of a job of `make_job`; return whether it failed."""

    def generate(context, builder, signature, arguments):
        run, job, start, stop = arguments
        function = builder.inttoptr(run, RUN_TYPE.as_pointer())
        return builder.call(function, [builder.inttoptr(job, BYTES), start, stop])

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


def _place(context, builder, board_type, board, place):
    return builder.gep(context.make_array(board_type)(context, builder, board).data, [place])


@intrinsic
def _load(typing, board, place):
    """board[place], read anew from memory, and nothing after it read before it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_place(context, builder, signature.args[0], *arguments), "acquire", 8)

    return types.int64(board, types.int64), generate


@intrinsic
def _store(typing, board, place, value):
    """board[place] = value, seen by others after everything written before it."""

    def generate(context, builder, signature, arguments):
        *where, value = arguments
        builder.store_atomic(value, _place(context, builder, signature.args[0], *where), "release", 8)
        return context.get_dummy_value()

    return types.void(board, types.int64, types.int64), generate


@intrinsic
def _replace(typing, board, place, old, new):
    """board[place] = new if it was ``old``, in one; return whether it was."""

    def generate(context, builder, signature, arguments):
        *where, old, new = arguments
        place = _place(context, builder, signature.args[0], *where)
        return builder.extract_value(builder.cmpxchg(place, old, new, "acq_rel", "acquire"), 1)

    return types.boolean(board, types.int64, types.int64, types.int64), generate


if hasattr(os, "sched_yield"):
    _give_way = types.ExternalFunction("sched_yield", types.int32())
else:

    @compiled
    def _give_way():
        """There is no way to let another thread have the processor."""


@compiled
def post(board, run, job, start, stop):
    """Post a span of a job."""
    board[RUN], board[JOB], board[START], board[STOP] = run, job, start, stop
    _store(board, POSTED, board[POSTED] + 1)


@compiled
def finish_job(board):
    """Do the job on the board, or wait until its helper has; return whether it failed."""
    number = board[POSTED]
    if _replace(board, CLAIMED, number - 1, number):
        return do_job(board[RUN], board[JOB], board[START], board[STOP])
    look = 0
    while _load(board, DONE) != number:
        look += 1
        if look % LOOKS_AT_ONCE == 0:
            _give_way()
    return board[FAILED]


@compiled
def share_job(boards, run, job, items):
    """Do a span of the items here, and have the helper of each board do another; return whether any failed."""
    threads = len(boards) + 1
    for i in range(1, threads):
        post(boards[i - 1], run, job, items * i // threads, items * (i + 1) // threads)
    failed = do_job(run, job, 0, items // threads)
    for board in boards:
        failed |= finish_job(board)
    return failed


@compiled
def share_jobs(boards, jobs):
    """Do jobs (count, 4) of (run, job, items, helpers) one after the other; return whether one failed, the last."""
    for index in range(len(jobs)):
        run, job, items, helpers = jobs[index]
        if share_job(boards[:helpers], run, job, items):
            return True
    return False


@compiled
def serve(board, looks):
    """Do jobs until none has come for so many ``looks``, and none is to come; return False after one that says end."""
    seen, look = _load(board, CLAIMED), 0
    while look < looks or _load(board, WANTED):
        number = _load(board, POSTED)
        if number != seen:
            seen, look = number, 0
            if _replace(board, CLAIMED, number - 1, number):
                if board[RUN] == 0:
                    return False
                board[FAILED] = do_job(board[RUN], board[JOB], board[START], board[STOP])
                _store(board, DONE, number)
        look += 1
        if look % LOOKS_AT_ONCE == 0:
            _give_way()
    return True


class Helper:
    """A thread that does the jobs posted on its board."""

    def __init__(self, board: np.ndarray) -> None:
        self.board = board
        self.asleep = False
        self.alarm = threading.Event()
        self.thread = threading.Thread(target=self._live, name="minires-kernel", daemon=True)
        self.thread.start()

    def call(self) -> None:
        """Have the thread watch its board until WANTED is 0 again."""
        self.board[WANTED] = 1
        if self.asleep:
            self.alarm.set()

    def end(self) -> None:
        """End the thread."""
        post(self.board, 0, 0, 0, 0)
        self.call()
        self.thread.join()

    def _live(self) -> None:
        while serve(self.board, WATCH):
            # Whoever calls looks at `asleep` after setting WANTED, so one of the two sees what the other did.
            self.alarm.clear()
            self.asleep = True
            if not self.board[WANTED]:
                self.alarm.wait()
            self.asleep = False


class Team:
    """Helpers and their boards (helpers, PLACES): as many as ``size``, or as the system gives threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.helpers: list[Helper] = []
        boards = zeros((size, PLACES), np.dtype(np.int64))
        serve(boards[0], 0)  # compiled before there are helpers: a fork while one compiles would copy a held lock
        for board in boards:
            try:
                self.helpers.append(Helper(board))
            except RuntimeError as error:
                warnings.warn(
                    f"{error}: kernels run on {len(self.helpers) + 1} of the {size + 1} threads asked for; "
                    "`ulimit -u` or the container limits threads, minires.set_num_threads asks for fewer",
                    RuntimeWarning,
                    stacklevel=2,
                )
                break
        self.boards = boards[: len(self.helpers)]

    def end(self) -> None:
        """End all threads."""
        while self.helpers:
            self.helpers.pop().end()
