"""The dtypes a Tensor may have, under PyTorch's names. They are NumPy's own: ``minires.float32 == np.float32``.

NumPy itself has no bfloat16: ``minires.bfloat16`` is that of ml_dtypes, imported on first use.

Below them: which dtypes are taken, how two are promoted, and what a number becomes in a dtype. There PyTorch has two
rules. An operand of arithmetic wraps around (`wrapped_number`): 200 * -1 is 56 in uint8. A number that is to be stored
(`stored_number`) must fit.
"""

import builtins
import math
from typing import Any

import numpy as np

float16 = half = np.dtype(np.float16)
float32 = float = np.dtype(np.float32)
float64 = double = np.dtype(np.float64)
uint8 = np.dtype(np.uint8)
int8 = np.dtype(np.int8)
int16 = short = np.dtype(np.int16)
int32 = int = np.dtype(np.int32)
int64 = long = np.dtype(np.int64)
bool = np.dtype(np.bool_)


def __getattr__(name: str) -> Any:
    if name != "bfloat16":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise ImportError("bfloat16 needs ml_dtypes: install it with pip install 'minires[bfloat16]'") from error
    return np.dtype(bfloat16)


def is_floating(dtype: np.dtype) -> builtins.bool:
    """Tell whether a dtype holds floating-point numbers: only those have gradients."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def is_half(dtype: np.dtype) -> builtins.bool:
    """Tell whether a dtype is float16 or bfloat16: numbers that are stored in 16 bits and computed in float32."""
    return dtype.itemsize == 2 and is_floating(dtype)


def wide_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype in which numbers of ``dtype`` are computed: float32 for those of 16 bits, else their own."""
    return float32 if is_half(dtype) else dtype


PLAIN_DTYPES = frozenset(np.dtype(code) for code in "?bhilqBHILQefd")  # what a Tensor may have, but for ml_dtypes'
_KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # NumPy has bfloat16 among the kind "V"


def checked_dtype(dtype: Any) -> np.dtype:
    """Return ``dtype`` as NumPy's, if it is one that a Tensor may have.

    Raises
    ------
    TypeError
        If it is none, or one of complex, extended or other numbers, or of numbers in another byte order.
    """
    try:
        checked = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"unknown dtype {dtype!r}: use minires.float32, minires.int64, ...") from error
    if checked in PLAIN_DTYPES or (checked.isnative and checked.type.__module__ == "ml_dtypes"):
        return checked
    if not checked.isnative and checked.newbyteorder("=") in PLAIN_DTYPES:
        raise TypeError(
            f"a Tensor holds numbers in the byte order of this machine, not {checked.str}: convert the array with "
            '.astype(array.dtype.newbyteorder("="))'
        )
    raise TypeError(f"a Tensor holds booleans, integers of up to 64 bits or floats of up to 64 bits, not {checked}")


def promote_types(a: np.dtype, b: np.dtype) -> np.dtype:
    """Return the dtype that holds numbers of both, as PyTorch has it: float32 for int64 with float32."""
    if _KINDS[a.kind] != _KINDS[b.kind]:
        return a if _KINDS[a.kind] > _KINDS[b.kind] else b
    return float32 if a != b and is_half(a) and is_half(b) else np.promote_types(a, b)


def is_higher_kind(a: np.dtype, b: np.dtype) -> builtins.bool:
    """Tell whether the kind of ``a`` is the higher one, by bool < int < float."""
    return _KINDS[a.kind] > _KINDS[b.kind]


def python_number(number: Any) -> Any:
    """Return a number of Python's or NumPy's as a bool, int or float.

    Raises
    ------
    TypeError
        If it is no number, or a complex one.
    """
    for kinds, convert in (
        ((builtins.bool, np.bool_), builtins.bool),
        ((builtins.int, np.integer), builtins.int),
        ((builtins.float, np.floating), builtins.float),
    ):
        if isinstance(number, kinds):
            return convert(number)
    raise TypeError(f"an operand must be a Tensor or a real number, got {type(number).__name__}")


def wrapped_number(number: Any, dtype: np.dtype) -> Any:
    """Return a number as an operand in ``dtype``: an int that integers of it cannot hold wraps around.

    Raises
    ------
    OverflowError
        If an int does not fit into 64 bits.
    """
    number = python_number(number)
    if dtype.kind == "V":
        return dtype.type(builtins.float(number))  # for NumPy makes no other number a bfloat16, nor an int of 64 bits
    if dtype.kind not in "iu" or isinstance(number, builtins.float):
        return number
    if not -(2**63) <= number < 2**64:
        raise OverflowError(f"{number} does not fit into 64 bits: an integer operand must")
    info = np.iinfo(dtype)
    return (number - info.min) % 2**info.bits + info.min


def stored_number(name: str, number: Any, dtype: np.dtype) -> Any:
    """Return a number as a Tensor of ``dtype`` is to store it; for integers without its fraction.

    As in PyTorch, an unsigned integer may be given as the negative one that wraps around to it.

    Raises
    ------
    RuntimeError
        If it is too large, or if it is infinite or NaN and ``dtype`` one of integers.
    TypeError
        If it is no number.
    """
    number = python_number(number)
    if dtype.kind == "b":
        return builtins.bool(number)
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            stored = dtype.type(builtins.float(number))
        if np.isinf(stored) and not math.isinf(number):
            raise RuntimeError(f"{name}: {number} is too large for {dtype}")
        return stored if dtype.kind == "V" else stored.item()
    info = np.iinfo(dtype)
    least = -info.max if dtype.kind == "u" and isinstance(number, builtins.int) else info.min
    if not least <= number <= info.max:  # nor is NaN
        raise RuntimeError(f"{name}: {number} does not fit into {dtype}, which holds {info.min} to {info.max}")
    return wrapped_number(builtins.int(number), dtype)
