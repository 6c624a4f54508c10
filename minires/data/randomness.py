"""Where transforms take their random numbers from.

A transform is called as ``transform(image)`` and so cannot be handed a generator. It asks :func:`current_generator`,
and the loader sets that for each batch: a batch then depends on its seed, never on which worker happened to make it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minires.device import generator

# Every thread starts with its own context, so workers cannot see each other's generator.
_current: ContextVar[np.random.Generator | None] = ContextVar("minires_data_generator", default=None)


def current_generator() -> np.random.Generator:
    """Return the generator that random transforms draw from: the loader's for this batch, else the default one."""
    return _current.get() or generator()


@contextmanager
def use_generator(rng: np.random.Generator) -> Iterator[None]:
    """Make ``rng`` the generator of every random transform called inside the ``with`` block, in this thread."""
    token = _current.set(rng)
    try:
        yield
    finally:
        _current.reset(token)
