"""Whether operations that can be joined into one pass over memory are joined."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Fusion(threading.local):
    enabled = True


_fusion = _Fusion()


def is_fused() -> bool:
    """Return whether fused operations run as one in this thread."""
    return _fusion.enabled


@contextmanager
def unfused() -> Iterator[None]:
    """Run fused operations inside as the separate ones they stand for, with the same numbers, to look between them."""
    before, _fusion.enabled = _fusion.enabled, False
    try:
        yield
    finally:
        _fusion.enabled = before
