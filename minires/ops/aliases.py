"""Other names of arguments: NumPy's, and those that PyTorch gives one function in one place and not in another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def takes_names(**aliases: str) -> Callable[[AnyFunction], AnyFunction]:
    """Let each keyword stand for the argument that it is set to, when the function is called.

    Raises
    ------
    TypeError
        At a call that gives an argument by both of its names.
    """

    def decorate(function: AnyFunction) -> AnyFunction:
        name = function.__name__

        @functools.wraps(function)
        def renaming(*args: Any, **options: Any) -> Any:
            for alias in aliases.keys() & options.keys():
                if aliases[alias] in options:
                    raise TypeError(f"{name}: {alias} and {aliases[alias]} say the same: give one of them")
                options[aliases[alias]] = options.pop(alias)
            return function(*args, **options)

        renaming.aliases = aliases  # type: ignore[attr-defined]  # for those who ask which there are
        return cast(AnyFunction, renaming)

    return decorate


takes_axis = takes_names(axis="dim", keepdims="keepdim")
