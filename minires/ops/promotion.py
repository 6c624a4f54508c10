"""Which dtype an operation on mixed operands computes in: PyTorch's rules, which differ from NumPy's.

The kinds are ordered bool < int < float, and operands by weight: Tensors with axes, then 0-dimensional Tensors, then
Python numbers. Among the heaviest operands the usual promotion holds; a lighter one counts only if its kind is higher.
So ``float32_tensor * 2.5`` stays float32, and int64 with float32 gives float32 (NumPy would say float64).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.autograd.creation import get_default_dtype, number_dtype
from minires.dtypes import is_floating, is_half, is_higher_kind, promote_types, stored_number, wrapped_number
from minires.ops.broadcast import check_broadcast
from minires.ops.cast import cast


def _combine(a: np.dtype | None, b: np.dtype | None) -> np.dtype | None:
    """Promote among operands of equal weight."""
    if a is None or b is None:
        return b if a is None else a
    return promote_types(a, b)


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
            weight, dtype = 2, number_dtype(operand)
        by_weight[weight] = _combine(by_weight[weight], dtype)
    result: np.dtype | None = None
    for candidate in by_weight:  # heaviest first
        if result is None or (candidate is not None and is_higher_kind(candidate, result)):
            result = candidate
    if result is None:
        raise TypeError("at least one operand is needed")
    return result


def promote(*operands: Any, to_float: bool = False, stored_by: str | None = None) -> tuple:
    """Cast Tensors to their common dtype, and make numbers such as that dtype can hold.

    They stay Python's, and take on the array's dtype; except in bfloat16, which NumPy does not know. An int that
    integers of the dtype cannot hold wraps around, or is refused where the operation ``stored_by`` stores it.

    ``to_float`` asks for a floating-point result even of integers, as division does.

    Raises
    ------
    TypeError
        If an operand is neither a Tensor nor a number.
    RuntimeError
        If a number to be stored does not fit.
    """
    dtype = result_type(*operands)
    if to_float and not is_floating(dtype):
        dtype = get_default_dtype()
    return tuple(
        cast(operand, dtype) if isinstance(operand, Tensor) else _number(operand, dtype, stored_by)
        for operand in operands
    )


def _number(number: Any, dtype: np.dtype, stored_by: str | None) -> Any:
    if stored_by is not None and not is_half(dtype):  # in 16 bits PyTorch lets -1e9 become -inf
        number = stored_number(stored_by, number, dtype)
    return wrapped_number(number, dtype)


def matched(name: str, *operands: Any, to_float: bool = False, stores: bool = False) -> tuple:
    """Return the operands of the elementwise operation ``name`` with their shapes checked and their dtypes promoted.

    ``stores`` says that numbers among them are stored, and must fit.

    Raises
    ------
    RuntimeError
        If the shapes do not broadcast, or a number to be stored does not fit.
    TypeError
        If an operand is neither a Tensor nor a number.
    """
    if _match_already(operands):
        return operands
    check_broadcast(name, *operands)
    return promote(*operands, to_float=to_float, stored_by=name if stores else None)


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
