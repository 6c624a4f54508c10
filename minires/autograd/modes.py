"""The switches that change what an operation records: gradients on or off, anomaly detection, observers.

Each thread has its own, so that a loader thread or an evaluation beside a training run does not disturb it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any, Protocol


class Observer(Protocol):
    """What `observe` calls: once after each operation's forward, once after each operation's backward."""

    def forward(self, function: Any, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """``function`` (a Function) has turned ``inputs`` (Tensors, numbers or None) into ``outputs`` (Tensors)."""

    def backward(self, function: Any, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """``function`` has turned the gradients of its outputs into those of its inputs (Tensors or None)."""


class _State(threading.local):
    grad_enabled = True
    anomaly = False
    observers: tuple[Observer, ...] = ()


state = _State()


class _GradMode(ContextDecorator):
    """Switch recording on or off inside a ``with`` block or a decorated function, and back after it."""

    enabled: bool

    def __enter__(self) -> None:
        self._before = state.grad_enabled
        state.grad_enabled = self.enabled

    def __exit__(self, *exception: object) -> None:
        state.grad_enabled = self._before

    def _recreate_cm(self) -> _GradMode:
        # A decorated function may call itself: each call needs its own memory of the mode before.
        again = object.__new__(type(self))
        again.enabled = self.enabled
        return again


class no_grad(_GradMode):
    """Record no graph inside: results do not require gradients. A context manager or a decorator."""

    enabled = False


class enable_grad(_GradMode):
    """Record a graph inside even within `no_grad`. A context manager or a decorator."""

    enabled = True


class set_grad_enabled(_GradMode):
    """Switch recording on or off, at once when called as a function and until the end of a ``with`` block."""

    def __init__(self, mode: bool):
        self.enabled = bool(mode)
        self._before = state.grad_enabled
        state.grad_enabled = self.enabled

    def __enter__(self) -> None:
        state.grad_enabled = self.enabled


def is_grad_enabled() -> bool:
    """Tell whether operations record a graph in this thread."""
    return state.grad_enabled


@contextmanager
def detect_anomaly(enabled: bool = True) -> Iterator[None]:
    """Check every value and gradient inside for NaN and Inf and raise AnomalyError at the first op that makes one.

    The error of a backward pass also tells where the op was called in the forward pass. Slow: for finding a fault.
    """
    before, state.anomaly = state.anomaly, enabled
    try:
        yield
    finally:
        state.anomaly = before


@contextmanager
def observe(observer: Observer) -> Iterator[Any]:
    """Call ``observer`` after each operation's forward and backward inside, in this thread: see `Observer`."""
    before = state.observers
    state.observers = (*before, observer)
    try:
        yield observer
    finally:
        state.observers = before
