"""What a user names on the command line to be verified: ``module:callable``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minires.autograd import Tensor
from minires.nn import Module

WHAT = "a Module, or a pair (function or Module, inputs)"


def load_target(name: str) -> tuple[Any, tuple | None]:
    """Import ``module:callable``, call it, and return the function or Module to verify and its inputs, if given.

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
        return made, None
    if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):
        inputs = (made[1],) if isinstance(made[1], Tensor) else made[1]
        if isinstance(inputs, (tuple, list)):
            return made[0], tuple(inputs)
    raise ValueError(f"{name} must be or return {WHAT}, got {type(made).__name__}")


def _called(target: Callable[[], Any], name: str) -> Any:
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be called without arguments ({error}): name a function that needs none"
        ) from error
    return target()
