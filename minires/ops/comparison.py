"""Comparison, logic and tests: boolean results, through which no gradient flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.device import array_module
from minires.dtypes import wide_dtype
from minires.ops.cast import cast
from minires.ops.promotion import matched


def _elementwise(function: str, name: str, input: Any, other: Any) -> Tensor:
    """Apply an array function of two operands, promoted as in arithmetic."""
    a, b = (operand.array if isinstance(operand, Tensor) else operand for operand in matched(name, input, other))
    xp = array_module(a if isinstance(input, Tensor) else b)
    with np.errstate(invalid="ignore"):  # of a NaN in bfloat16 NumPy warns
        return Tensor(getattr(xp, function)(a, b))


def _compare(name: str, function: str) -> Callable[[Any, Any], Tensor]:
    def compare(input: Any, other: Any) -> Tensor:
        return _elementwise(function, name, input, other)

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"Compare elementwise, broadcast and promoted: ``{name}`` as in PyTorch. The result is boolean."
    return compare


eq, ne = _compare("eq", "equal"), _compare("ne", "not_equal")
lt, le = _compare("lt", "less"), _compare("le", "less_equal")
gt, ge = _compare("gt", "greater"), _compare("ge", "greater_equal")


def _test(name: str) -> Callable[[Tensor], Tensor]:
    def test(input: Tensor) -> Tensor:
        return Tensor(getattr(array_module(input.array), name)(input.array))

    test.__name__ = test.__qualname__ = name
    test.__doc__ = f"Return elementwise whether each element {name[:2]} {name[2:]}, as a boolean Tensor."
    return test


isnan, isinf, isfinite = (_test(name) for name in ("isnan", "isinf", "isfinite"))


def _logical(name: str) -> Callable[[Any, Any], Tensor]:
    def combine(input: Any, other: Any) -> Tensor:
        return _elementwise(name, name, input, other)

    combine.__name__ = combine.__qualname__ = name
    combine.__doc__ = f"Combine truth values (an element is true if it is not 0), broadcast: ``{name}``."
    return combine


logical_and, logical_or, logical_xor = (_logical(name) for name in ("logical_and", "logical_or", "logical_xor"))


def logical_not(input: Tensor) -> Tensor:
    """Return elementwise whether an element is zero (false)."""
    return Tensor(array_module(input.array).logical_not(input.array))


def _bitwise(name: str) -> Callable[[Any, Any], Tensor]:
    def combine(input: Any, other: Any) -> Tensor:
        for operand in (input, other):
            if isinstance(operand, float) or (isinstance(operand, Tensor) and operand.is_floating_point()):
                raise RuntimeError(f"{name} needs booleans or integers, not floats: compare first, e.g. x > 0")
        return _elementwise(name, name, input, other)

    combine.__name__ = combine.__qualname__ = name
    combine.__doc__ = f"Combine booleans, or the bits of integers, elementwise and broadcast: ``{name}``."
    return combine


bitwise_and, bitwise_or, bitwise_xor = (_bitwise(name) for name in ("bitwise_and", "bitwise_or", "bitwise_xor"))


def bitwise_not(input: Tensor) -> Tensor:
    """Return ``~input``: the opposite of booleans, the complement of integers.

    Raises
    ------
    TypeError
        For floating-point numbers.
    """
    if input.is_floating_point():
        raise TypeError(f"~ needs booleans or integers, got {input.dtype}: compare first, e.g. ~(x > 0)")
    return Tensor(array_module(input.array).invert(input.array))


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Return elementwise whether |input - other| <= atol + rtol * |other|; NaNs are close only under ``equal_nan``.

    Raises
    ------
    RuntimeError
        If the dtypes differ or the shapes do not broadcast.
    """
    if input.dtype != other.dtype:
        raise RuntimeError(f"isclose needs equal dtypes, got {input.dtype} and {other.dtype}: convert one with .to()")
    a, b = (cast(operand, wide_dtype(operand.dtype)) for operand in matched("isclose", input, other))
    xp = array_module(a.array)
    return Tensor(xp.isclose(a.array, b.array, rtol=rtol, atol=atol, equal_nan=equal_nan))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Return whether all elements are close, as `isclose` defines it."""
    return bool(isclose(input, other, rtol, atol, equal_nan)._read().all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Return whether both have the same shape and equal elements."""
    return input.shape == other.shape and bool(eq(input, other)._read().all())
