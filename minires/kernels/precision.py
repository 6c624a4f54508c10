"""How exactly a GPU multiplies float32 matrices: the user's choice, which the CUDA kernels ask for."""

from __future__ import annotations

PRECISIONS = ("highest", "high", "medium")

_precision = "highest"


def get_float32_matmul_precision() -> str:
    """Return the choice in force, one of PRECISIONS."""
    return _precision


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how a GPU computes float32 convolutions from now on, as ``torch.set_float32_matmul_precision``.

    "highest" (the default) multiplies in float32. "high" and "medium" round the factors to TF32, 10 bits of mantissa,
    which tensor cores multiply several times as fast; sums stay in float32. The CPU always computes in float32.

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    _precision = precision
