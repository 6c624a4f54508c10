"""TypeErrors for what is no Tensor where the signature of an operation says Tensor.

Arrays look enough like Tensors to fail late: the ``device`` of a NumPy array is "cpu", which equals no `Device`. To
check all arguments would slow down each call. So an operation checks its first, and the others when it has failed;
arrays on which nothing has failed until then are refused by `Function`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from minires.autograd import Tensor
from minires.autograd.function import described

P = ParamSpec("P")
R = TypeVar("R")

MAY_BE_NONE = {"Tensor": False, "Tensor | None": True}  # by annotation


def takes_tensors(function: Callable[P, R]) -> Callable[P, R]:
    """Make an operation raise TypeError, naming the argument, if it is no Tensor and is annotated as one."""
    first_is_tensor = inspect.unwrap(function).__code__.co_varnames[0] in tensor_parameters(function)

    @functools.wraps(function)
    def operation(*args: P.args, **options: P.kwargs) -> R:
        if first_is_tensor and args and not isinstance(args[0], Tensor):
            _check(function, args, options)
        try:
            return function(*args, **options)
        except Exception:
            _check(function, args, options)
            raise

    return operation


def tensor_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that are annotated as Tensors."""
    annotations = function.__annotations__
    return [name for name in annotations if name != "return" and annotations[name] in MAY_BE_NONE]


def _check(function: Callable[..., Any], args: tuple, options: dict[str, Any]) -> None:
    signature = inspect.signature(function)
    try:
        given = signature.bind(*args, **options).arguments
    except TypeError:  # the call itself says better what is missing or too much
        return
    for name in tensor_parameters(function):
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        value = given.get(name)
        may_be_none = name not in given or MAY_BE_NONE[function.__annotations__[name]]
        if not isinstance(value, Tensor) and not (value is None and may_be_none):
            raise TypeError(f"{function.__qualname__}: {name} must be a Tensor, got {described(value)}") from None
