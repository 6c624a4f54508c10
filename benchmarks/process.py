"""Our end of the pipe to a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerError(RuntimeError):
    """A worker could not do what it was asked."""


class Worker:
    """A process that builds cases and runs them when asked; a context manager that ends it.

    Parameters
    ----------
    module : name of a module in ``benchmarks.workers``.
    threads : how many threads its kernels and its BLAS may use.
    """

    def __init__(self, module: str, threads: int) -> None:
        self.module = module
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.workers.{module}", "--threads", str(threads)],
            cwd=ROOT,
            env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has died before it read the last request
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # at work still: whoever leaves early must not wait for a compilation
            self.process.kill()
            self.process.wait()
        finally:
            self.process.stdout.close()
            self.errors.close()

    def ask(self, request: str, **arguments: Any) -> Any:
        """Return the worker's answer to a request, a method of `benchmarks.workers.protocol.Server`.

        Raises
        ------
        WorkerError
            If the request failed or the worker died; the message has its last words.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": request, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.module} ended with status {self.process.wait()}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.module}, {request}: {answer['error']}")
        return answer["value"]

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else "it left no message"
