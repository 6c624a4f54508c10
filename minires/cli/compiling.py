"""Telling why nothing seems to happen while kernels are compiled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def announce_compilation(say: Callable[[str], None], after: float = 1.0) -> Iterator[None]:
    """Call ``say`` once if Numba compiles for longer than ``after`` seconds in all inside the ``with`` block.

    Kernels that come from the disk cache are loaded, not compiled, and cause no message.
    """
    try:
        from numba.core import event
    except ImportError:  # the reference kernels run: nothing is compiled
        yield
        return

    def announce() -> None:
        from minires.kernels.cpu.cache import folder

        say(f"compiling kernels ({'once; they are kept on disk' if folder() else 'they cannot be kept on disk'}) ...")

    class Listener(event.Listener):
        """Lets a timer run while something is compiled, with what is left of ``after``."""

        def __init__(self) -> None:
            self.left, self.depth, self.begin = after, 0, 0.0
            self.timer: threading.Timer | None = None

        def on_start(self, event: object) -> None:
            self.depth += 1
            if self.depth == 1 and self.left > 0:
                self.begin = time.monotonic()
                self.timer = threading.Timer(self.left, announce)
                self.timer.daemon = True
                with suppress(RuntimeError):  # the system gives no thread
                    self.timer.start()

        def on_end(self, event: object) -> None:
            self.depth -= 1
            if self.depth == 0 and self.timer is not None:
                self.timer.cancel()
                self.left, self.timer = self.left - (time.monotonic() - self.begin), None

    listener = Listener()
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)
        if listener.timer is not None:
            listener.timer.cancel()
