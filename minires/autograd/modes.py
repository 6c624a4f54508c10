"""The switches that change what an operation records: gradients on or off, anomaly detection, observers.

Each thread has its own, so that a loader thread or an evaluation beside a training run does not disturb it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np


class Observer(Protocol):
    """What `observe` calls: once after each operation's forward, once after each operation's backward.

    A backward pass is itself written with operations: their forwards are observed too, before the backward they are
    part of, and its seconds include theirs.
    """

    def forward(self, function: Any, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """``function`` (a Function) has turned ``inputs`` (Tensors, numbers or None) into ``outputs`` (Tensors)."""

    def backward(self, function: Any, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """``function`` has turned the gradients of its outputs into those of its inputs (Tensors or None)."""


class _State(threading.local):
    grad_enabled = True
    anomaly = False
    observers: tuple[Observer, ...] = ()
    on_read: Callable[[], None] | None = None  # called when numbers of a Tensor are handed to Python
    outside: Any = None  # what watches the Tensors that enter a checkpointed function: see checkpoint.py
    recomputing = False
    walks = 0  # backward passes under way, each inside a hook or a Function's backward of the one before
    autocast: Mapping[str, np.dtype] = {}  # the 16-bit dtype by type of device: see ops/autocast.py


state = _State()


class _GradMode:
    """What these switches share: as decorators they run a function, or each step of a generator, in their mode."""

    enabled: bool

    def __call__(self, function: Callable) -> Callable:
        """Return ``function`` running in this mode."""
        enabled = self.enabled
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def decorated(*args: Any, **options: Any) -> Any:
                return _stepped_in_mode(function(*args, **options), enabled)
        else:

            @functools.wraps(function)
            def decorated(*args: Any, **options: Any) -> Any:
                with set_grad_enabled(enabled):
                    return function(*args, **options)

        return decorated


def _stepped_in_mode(generator: Generator, enabled: bool) -> Generator:
    """Run each step of ``generator`` in the mode, and whoever asks for the next value in their own."""
    step: Callable = generator.send
    argument: Any = None
    while True:
        try:
            with set_grad_enabled(enabled):
                value = step(argument)
        except StopIteration as end:
            return end.value
        try:
            step, argument = generator.send, (yield value)
        except GeneratorExit:
            with set_grad_enabled(enabled):
                generator.close()
            raise
        except BaseException as error:  # thrown in by the caller: it belongs inside
            step, argument = generator.throw, error


class _FixedMode(_GradMode):
    def __new__(cls, function: Callable | None = None) -> Any:
        # ``@no_grad`` without parentheses hands the function straight to the class.
        return super().__new__(cls) if function is None else cls()(function)

    def __init__(self, function: None = None):
        self._before: list[bool] = []  # a stack: the same object may be entered again inside itself

    def __enter__(self) -> None:
        self._before.append(state.grad_enabled)
        state.grad_enabled = self.enabled

    def __exit__(self, *exception: object) -> None:
        state.grad_enabled = self._before.pop()


class no_grad(_FixedMode):
    """Record no graph inside: results do not require gradients. A context manager or a decorator."""

    enabled = False


class enable_grad(_FixedMode):
    """Record a graph inside even within `no_grad`. A context manager or a decorator."""

    enabled = True


class inference_mode(_FixedMode):
    """Record no graph inside, as `no_grad`; ``inference_mode(False)`` records one, as `enable_grad`.

    PyTorch's results can never enter a graph later; these can.
    """

    def __new__(cls, mode: Any = True) -> Any:
        """Make the mode, or decorate the function that ``@inference_mode`` without parentheses hands over."""
        return super().__new__(cls, None if isinstance(mode, bool) else mode)

    def __init__(self, mode: bool = True):
        super().__init__()
        self.enabled = not mode


class set_grad_enabled(_GradMode):
    """Switch recording on or off, at once when called as a function and until the end of a ``with`` block."""

    def __init__(self, mode: bool):
        self.enabled = bool(mode)
        self._before = state.grad_enabled
        state.grad_enabled = self.enabled

    def __enter__(self) -> None:
        state.grad_enabled = self.enabled

    def __exit__(self, *exception: object) -> None:
        state.grad_enabled = self._before

    def __call__(self, function: Callable) -> Callable:
        """Return ``function`` running in this mode; the mode outside it stays as it was."""
        state.grad_enabled = self._before
        return super().__call__(function)


def is_grad_enabled() -> bool:
    """Tell whether operations record a graph in this thread."""
    return state.grad_enabled


def is_recomputing() -> bool:
    """Tell whether a checkpointed function is being run again in this thread, for the backward pass.

    What a forward pass changes besides its results, such as running statistics, has been changed by the first run.
    """
    return state.recomputing


@contextmanager
def recomputing() -> Iterator[None]:
    """Make `is_recomputing` true inside."""
    before, state.recomputing = state.recomputing, True
    try:
        yield
    finally:
        state.recomputing = before


@contextmanager
def autocasting(dtypes: Mapping[str, np.dtype]) -> Iterator[None]:
    """Compute inside in the mixed precision of ``dtypes``, in none where it is empty: so does a backward pass."""
    before, state.autocast = state.autocast, dtypes
    try:
        yield
    finally:
        state.autocast = before


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


class set_detect_anomaly:
    """Switch `detect_anomaly` on or off, at once when called as a function and until the end of a ``with`` block."""

    def __init__(self, mode: bool):
        self._before, state.anomaly = state.anomaly, bool(mode)

    def __enter__(self) -> None:
        """Keep the mode that the call has set."""

    def __exit__(self, *exception: object) -> None:
        state.anomaly = self._before


@contextmanager
def observe(observer: Observer) -> Iterator[Any]:
    """Call ``observer`` after each operation's forward and backward inside, in this thread: see `Observer`."""
    before = state.observers
    state.observers = (*before, observer)
    try:
        yield observer
    finally:
        state.observers = before


@contextmanager
def watching_reads(on_read: Callable[[], None]) -> Iterator[None]:
    """Call ``on_read`` when numbers of a Tensor are handed to Python inside, in this thread: by `item`, `numpy`, if."""
    before, state.on_read = state.on_read, on_read
    try:
        yield
    finally:
        state.on_read = before
