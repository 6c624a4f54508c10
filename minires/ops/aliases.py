"""NumPy's name for an option that PyTorch calls otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def takes_axis(function: AnyFunction) -> AnyFunction:
    """Let ``axis=`` stand for ``dim=`` when the function is called, as PyTorch does.

    Raises
    ------
    TypeError
        At a call that gives both.
    """
    name = function.__name__

    @functools.wraps(function)
    def renaming(*args: Any, **options: Any) -> Any:
        if "axis" in options:
            if "dim" in options:
                raise TypeError(f"{name}: axis and dim say the same: give one of them")
            options["dim"] = options.pop("axis")
        return function(*args, **options)

    return cast(AnyFunction, renaming)
