"""Hooks: functions that users hang on Tensors, Functions and Modules, and the handles that take them away."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

_numbers = itertools.count()


class Hooks(dict[int, Callable]):
    """The hooks at one place, in the order they were added."""

    def add(self, hook: Callable) -> RemovableHandle:
        """Add ``hook`` and return the handle that removes it."""
        number = next(_numbers)
        self[number] = hook
        return RemovableHandle(self, number)

    def calls(self) -> tuple[Callable, ...]:
        """Return the hooks to call now: one may remove itself while they run."""
        return tuple(self.values())


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook away; in a ``with`` block it goes at the end."""

    def __init__(self, hooks: Hooks, number: int):
        self._hooks = weakref.ref(hooks)  # a forgotten handle must not keep a graph alive
        self._number = number

    def remove(self) -> None:
        """Take the hook away; doing so twice does no harm."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.pop(self._number, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()
