"""The dtypes a Tensor may have, under PyTorch's names. They are NumPy's own: ``minires.float32 == np.float32``.

NumPy itself has no bfloat16: ``minires.bfloat16`` is that of ml_dtypes, imported on first use.
"""

import builtins
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
