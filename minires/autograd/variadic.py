"""Lengths and axes as PyTorch takes them: one by one, as one sequence, or by name."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def takes_sequence(name: str, after: int = 0) -> Callable[[AnyFunction], AnyFunction]:
    """Let what a function takes as its last positional arguments, from number ``after`` on, be given as ``name=`` too.

    ``zeros(2, 3)``, ``zeros((2, 3))`` and ``zeros(size=(2, 3))`` mean the same.

    Raises
    ------
    TypeError
        At a call that gives it twice.
    """

    def decorate(function: AnyFunction) -> AnyFunction:
        leading = list(inspect.signature(function).parameters)[:after]

        @functools.wraps(function)
        def named(*args: Any, **options: Any) -> Any:
            if name in options:
                if len(args) > after:
                    raise TypeError(f"{function.__name__}: {name} is given by position and by name: give it once")
                args = (*args, *(options.pop(other) for other in leading[len(args) :]), options.pop(name))
            return function(*args, **options)

        named.aliases = (name,)  # type: ignore[attr-defined]  # for those who ask by which names it takes arguments
        return cast(AnyFunction, named)

    return decorate


def as_sequence(arguments: tuple) -> tuple[int, ...]:
    """Return the integers that were given one by one or as one sequence.

    Raises
    ------
    TypeError
        If one is no integer.
    """
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        arguments = tuple(arguments[0])
    if set(map(type, arguments)) <= {int}:
        return arguments
    for argument in arguments:
        if isinstance(argument, bool) or not hasattr(argument, "__index__"):
            raise TypeError(f"lengths and axes are integers, got {argument!r}")
    return tuple(operator.index(argument) for argument in arguments)
