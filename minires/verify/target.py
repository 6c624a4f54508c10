"""What a user names on the command line to be verified: ``module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.nn import Module
from minires.verify.subject import kind_of

WHAT = "a Module, (function or Module, inputs), or NumPy's (function, vjp, inputs)"


@dataclass(frozen=True)
class Target:
    """A function or Module, its inputs if they are given, and the backward pass of a function of NumPy arrays."""

    subject: Any
    inputs: tuple | None = None
    vjp: Callable[..., Any] | None = None


def load_target(name: str) -> Target:
    """Import ``module:callable``, call it, and return what it returns.

    The module is searched for in the working directory first. The callable takes no arguments.

    Raises
    ------
    ValueError
        If there is no such module or name, it takes arguments, or what it returns is something else.
    """
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise ValueError(f"{name!r} names no module and callable: write module:callable")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise  # something that the module itself imports
        raise ValueError(f"there is no module {module_name!r} in {here} or among the installed ones") from error
    if not hasattr(module, attribute):
        raise ValueError(f"the module {module_name!r} has no {attribute!r}: name a function or a class in it")
    target = getattr(module, attribute)
    made = target if isinstance(target, Module) or not callable(target) else _called(target, name)
    if isinstance(made, Module):
        return Target(made)
    if isinstance(made, tuple) and len(made) in (2, 3) and all(callable(part) for part in made[:-1]):
        inputs = (made[-1],) if isinstance(made[-1], (Tensor, np.ndarray)) else made[-1]
        if isinstance(inputs, (tuple, list)):
            lacks_vjp = len(made) == 2 and inputs and all(isinstance(x, np.ndarray) for x in inputs)
            if lacks_vjp and not isinstance(made[0], Module):
                raise ValueError(
                    f"{name} returns a function of NumPy arrays: return its vjp too, (function, vjp, inputs)"
                )
            return Target(made[0], tuple(inputs), made[1] if len(made) == 3 else None)
    raise ValueError(f"{name} must be or return {WHAT}, got {_kind(made)}")


def _kind(made: Any) -> str:
    return f"({', '.join(map(kind_of, made))})" if isinstance(made, tuple) else kind_of(made)


def _called(target: Callable[[], Any], name: str) -> Any:
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be called without arguments ({error}): name a function that needs none"
        ) from error
    return target()
