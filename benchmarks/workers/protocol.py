"""A worker's end of the pipe: requests come as lines of JSON on stdin, answers go out on stdout, one line each.

Whatever else a library prints on stdout is sent to stderr, where it cannot be taken for an answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.workers import memory


@dataclass
class Problem:
    """A case made ready on one side: ``step`` is what is timed, ``check`` returns named numbers to compare."""

    step: Callable[[], Any]
    check: Callable[[], dict[str, list[float]]]


class Side(Protocol):
    """What a worker module provides."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that do the work."""

    def variants(self, kind: str) -> list[str]:
        """Return the ways in which this side can do a kind of case; the fastest is to be found out."""

    def load(self, variant: str) -> None:
        """Import what a variant needs, so that libraries do not count as a case's memory."""

    def build(self, kind: str, options: dict[str, Any], variant: str, weights: str | None) -> Problem:
        """Make a case ready. minires writes a model's weights to the path ``weights``, its rivals read them there."""


class Server:
    """Answers requests by calling the method of that name."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.problem: Problem | None = None
        self.resident_before = 0

    def hello(self) -> dict[str, str]:
        """Say that the worker has started, and with which versions."""
        return self.side.versions()

    def variants(self, kind: str) -> list[str]:
        """Return the side's ways of doing a kind of case."""
        return self.side.variants(kind)

    def prepare(self, kind: str, options: dict[str, Any], variant: str, weights: str | None) -> None:
        """Make a case ready, in place of the one before."""
        self.problem = None
        self.side.load(variant)
        self.resident_before = memory.resident()
        self.problem = self.side.build(kind, options, variant, weights)

    def check(self) -> dict[str, list[float]]:
        """Return numbers that the other side must get too; this compiles whatever is still to be compiled."""
        assert self.problem is not None, "prepare comes first"
        return self.problem.check()

    def forget_peak(self) -> bool:
        """Let the peak of memory begin here."""
        return memory.forget_peak()

    def run(self, steps: int) -> float:
        """Return the seconds that ``steps`` steps take."""
        assert self.problem is not None, "prepare comes first"
        step = self.problem.step
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - begin

    def memory(self) -> dict[str, Any]:
        """Return the bytes held before the case was made ready, with all libraries loaded, and the peak since."""
        return {"before": self.resident_before, "peak": memory.peak(), "how": memory.HOW}


def serve(make_side: Callable[[int], Side]) -> None:
    """Answer requests until stdin ends; ``make_side`` gets the number of threads.

    An exception is answered with its last line; the traceback goes to stderr.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(make_side(threads))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(server, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            last_line = traceback.format_exception_only(error)[-1].strip()
            answer = {"error": last_line[:500]}
        print(json.dumps(answer), file=answers, flush=True)
