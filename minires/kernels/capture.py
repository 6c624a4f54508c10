"""What a captured step needs of the kernels: tables that are filled later, and optimizers that can be told to wait.

While a stream is captured nothing runs on the GPU, so nothing may be copied there and nothing read. A kernel's table is
then only given its place, and filled once the capture has ended. The tables of optimizers hold learning rates and the
like too: before each replay the optimizer runs again on the host, and instead of launching anything renews its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from minires.device import Array


class CaptureError(RuntimeError):
    """A step cannot be captured, or has changed since it was; the message says why."""


class Update(NamedTuple):
    """A captured step of an optimizer: what must not change between replays, its table, and how many tensors it has."""

    key: Hashable
    table: Array
    tensors: int


class Capture:
    """The tables of one captured step.

    Parameters
    ----------
    fill : writes a host array into a table on the device.

    Attributes
    ----------
    updates : the steps of the optimizer, in their order.
    is_renewing : whether the optimizer is only to renew its tables.
    """

    def __init__(self, fill: Callable[[Array, np.ndarray], None]):
        self.updates: list[Update] = []
        self.is_renewing = False
        self._fill = fill
        self._pending: list[tuple[Array, np.ndarray]] = []
        self._contents: dict[int, bytes] = {}
        self._renewed = 0

    def later(self, table: Array, content: np.ndarray) -> Array:
        """Keep what a table is to hold until `fill` writes it; return the table."""
        self._pending.append((table, content))
        return table

    def fill(self) -> None:
        """Write all that was kept."""
        for table, content in self._pending:
            self._fill(table, content)
        self._pending.clear()

    def add(self, key: Hashable, table: Array, content: np.ndarray, tensors: int) -> None:
        """Take note of a captured step of the optimizer."""
        self._contents[len(self.updates)] = content.tobytes()
        self.updates.append(Update(key, self.later(table, content), tensors))

    def renew(self, key: Hashable, content: np.ndarray) -> None:
        """Write the table of the optimizer's next step anew, if it holds something else.

        Raises
        ------
        CaptureError
            If the optimizer does other steps than were captured.
        """
        number = self._renewed
        self._renewed += 1
        if number >= len(self.updates) or self.updates[number].key != key:
            raise CaptureError(
                "the optimizer does not do what was captured: parameters, their gradients or its options have changed; "
                "make a new GraphedStep"
            )
        if self._contents[number] != content.tobytes():
            self._contents[number] = content.tobytes()
            self._fill(self.updates[number].table, content)

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Let the optimizer renew its tables inside, and launch nothing.

        Raises
        ------
        CaptureError
            If it has done fewer steps than were captured.
        """
        self.is_renewing, self._renewed = True, 0
        try:
            with capturing(self):
                yield
        finally:
            self.is_renewing = False
        if self._renewed < len(self.updates):
            self.renew(None, np.empty(0))


# Of the thread that captures: another may copy batches meanwhile, and run kernels on them.
_capture: ContextVar[Capture | None] = ContextVar("minires_capture", default=None)
_skip: Array | None = None


def current_capture() -> Capture | None:
    """Return the capture that is under way, or None."""
    return _capture.get()


def is_capturing() -> bool:
    """Tell whether this thread captures a stream: nothing may be read from the GPU then."""
    return _capture.get() is not None


@contextmanager
def capturing(capture: Capture) -> Iterator[None]:
    """Do what is launched inside as part of a capture."""
    token = _capture.set(capture)
    try:
        yield
    finally:
        _capture.reset(token)


def skip_flag() -> Array | None:
    """Return the int32 on the GPU that tells optimizers to leave their step out, or None."""
    return _skip


@contextmanager
def skipping_where(flag: Array) -> Iterator[None]:
    """Make the steps of optimizers inside leave parameters and states alone where ``flag``, an int32 (1,), is not 0."""
    global _skip
    before, _skip = _skip, flag
    try:
        yield
    finally:
        _skip = before
