"""Comparison, logic and tests: boolean results, through which no gradient flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires.autograd import Tensor
from minires.device import array_module
from minires.ops.broadcast import check_broadcast


def _compare(name: str) -> Callable[[Any, Any], Tensor]:
    def compare(input: Any, other: Any) -> Tensor:
        check_broadcast(name, input, other)
        a, b = (operand.array if isinstance(operand, Tensor) else operand for operand in (input, other))
        xp = array_module(a if isinstance(input, Tensor) else b)
        return Tensor(xp.asarray(getattr(xp, _UFUNCS[name])(a, b)))

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"Compare elementwise, broadcast: ``{name}`` as in PyTorch. The result is boolean."
    return compare


_UFUNCS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
eq, ne, lt, le, gt, ge = (_compare(name) for name in _UFUNCS)


def _test(name: str) -> Callable[[Tensor], Tensor]:
    def test(input: Tensor) -> Tensor:
        return Tensor(getattr(array_module(input.array), name)(input.array))

    test.__name__ = test.__qualname__ = name
    test.__doc__ = f"Return elementwise whether each element {name[2:]}, as a boolean Tensor."
    return test


isnan, isinf, isfinite = (_test(name) for name in ("isnan", "isinf", "isfinite"))


def _logic(name: str, ufunc: str) -> Callable[[Any, Any], Tensor]:
    def combine(input: Any, other: Any) -> Tensor:
        check_broadcast(name, input, other)
        a, b = (operand.array if isinstance(operand, Tensor) else operand for operand in (input, other))
        for operand in (input, other):
            if isinstance(operand, Tensor) and operand.is_floating_point():
                raise RuntimeError(f"{name} needs booleans or integers, got {operand.dtype}: compare first, e.g. x > 0")
        xp = array_module(a if isinstance(input, Tensor) else b)
        return Tensor(getattr(xp, ufunc)(a, b))

    combine.__name__ = combine.__qualname__ = name
    combine.__doc__ = f"Combine booleans (or the bits of integers) elementwise, broadcast: ``{name}``."
    return combine


logical_and, logical_or, logical_xor = (
    _logic("logical_and", "bitwise_and"),
    _logic("logical_or", "bitwise_or"),
    _logic("logical_xor", "bitwise_xor"),
)


def logical_not(input: Tensor) -> Tensor:
    """Return elementwise whether an element is zero (false)."""
    return Tensor(array_module(input.array).logical_not(input.array))
