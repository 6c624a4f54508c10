"""Which dtype an operation on mixed operands computes in: PyTorch's rules, which differ from NumPy's.

The kinds are ordered bool < int < float, and operands by weight: Tensors with axes, then 0-dimensional Tensors, then
Python numbers. Among the heaviest operands the usual promotion holds; a lighter one counts only if its kind is higher.
So ``float32_tensor * 2.5`` stays float32, and int64 with float32 gives float32 (NumPy would say float64).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.autograd.creation import get_default_dtype
from minires.dtypes import is_floating, is_half
from minires.ops.broadcast import check_broadcast
from minires.ops.cast import cast

_KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # NumPy has bfloat16 among the kind "V"


def _combine(a: np.dtype | None, b: np.dtype | None) -> np.dtype | None:
    """Promote among operands of equal weight."""
    if a is None or b is None:
        return b if a is None else a
    if _KINDS[a.kind] != _KINDS[b.kind]:
        return a if _KINDS[a.kind] > _KINDS[b.kind] else b
    return np.dtype(np.float32) if a != b and is_half(a) and is_half(b) else np.promote_types(a, b)


def _number_dtype(number: Any) -> np.dtype:
    if isinstance(number, (bool, np.bool_)):
        return np.dtype(bool)
    if isinstance(number, (int, np.integer)):
        return np.dtype(np.int64)
    if isinstance(number, (float, np.floating)):
        return get_default_dtype()
    raise TypeError(
        f"an operand must be a Tensor or a number, got {type(number).__name__}: wrap arrays with minires.from_numpy"
    )


def result_type(*operands: Any) -> np.dtype:
    """Return the dtype in which Tensors and Python numbers are computed together, as ``torch.result_type``.

    Raises
    ------
    TypeError
        If an operand is neither a Tensor nor a number.
    """
    by_weight: list[np.dtype | None] = [None, None, None]
    for operand in operands:
        if isinstance(operand, Tensor):
            weight, dtype = (0 if operand.ndim else 1), operand.dtype
        else:
            weight, dtype = 2, _number_dtype(operand)
        by_weight[weight] = _combine(by_weight[weight], dtype)
    result: np.dtype | None = None
    for candidate in by_weight:  # heaviest first
        if result is None or (candidate is not None and _KINDS[candidate.kind] > _KINDS[result.kind]):
            result = candidate
    if result is None:
        raise TypeError("at least one operand is needed")
    return result


def promote(*operands: Any, to_float: bool = False) -> tuple:
    """Cast Tensors to their common dtype; Python numbers pass through, for they take on the array's dtype.

    All but bfloat16, which NumPy does not know: there they are made numbers of it.

    ``to_float`` asks for a floating-point result even of integers, as division does.

    Raises
    ------
    TypeError
        If an operand is neither a Tensor nor a number.
    """
    dtype = result_type(*operands)
    if to_float and not is_floating(dtype):
        dtype = get_default_dtype()
    number = dtype.type if dtype.kind == "V" else lambda operand: operand
    return tuple(
        cast(operand, dtype)
        if isinstance(operand, Tensor)
        else number(operand.item())  # a NumPy scalar would impose its own dtype
        if isinstance(operand, np.generic)
        else number(operand)
        for operand in operands
    )


def matched(name: str, *operands: Any, to_float: bool = False) -> tuple:
    """Return the operands of the elementwise operation ``name`` with their shapes checked and their dtypes promoted.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast.
    TypeError
        If an operand is neither a Tensor nor a number.
    """
    if _match_already(operands):
        return operands
    check_broadcast(name, *operands)
    return promote(*operands, to_float=to_float)


def _match_already(operands: tuple) -> bool:
    """Whether these are floats of one shape and dtype, and plain numbers: the common case, made quick."""
    shape = dtype = None
    for operand in operands:
        if isinstance(operand, Tensor):
            array = operand.array
            if dtype is None:
                shape, dtype = array.shape, array.dtype
            elif array.shape != shape or array.dtype != dtype:
                return False
        elif type(operand) is not float and type(operand) is not int:
            return False
    return dtype is not None and dtype.kind == "f"


def check_floating(name: str, input: Tensor) -> None:
    """Raise RuntimeError if the elements are no floating-point numbers."""
    if not input.is_floating_point():
        raise RuntimeError(f"{name} needs floating-point numbers, got {input.dtype}: convert with .float() first")
