"""float16 and bfloat16: every op computes in float32, forward and backward, and rounds its result once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from op_rows import ROWS
from op_table import Row, Sample, run_ours

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
halves = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)

# Ops of more than one kernel, which round between them: a convolution before its bias is added, a padding that mirrors
# after each axis. The error is then measured at the largest number.
SEVERAL_ROUNDINGS = {"conv2d", "conv_transpose2d", "pad_reflect", "pad_replicate", "pad_circular"}


def cases():
    return [
        pytest.param(row, sample, id=f"{row.name}-{index}") for row in ROWS for index, sample in enumerate(row.samples)
    ]


@halves
@pytest.mark.parametrize(("row", "sample"), cases())
def test_every_op_is_that_of_float32_rounded_once(row: Row, sample: Sample, half: np.dtype):
    ours = run_ours(row, sample, half, second=row.second_order, rounding=half)
    exact = run_ours(row, sample, np.float32, second=row.second_order, rounding=half)
    follows = run_ours(row, sample, np.float64, second=row.second_order)
    for name in ("outputs", "gradients", "second"):
        results = zip(getattr(ours, name), getattr(exact, name), getattr(follows, name), strict=True)
        for index, (mine, right, wide) in enumerate(results):
            expected = half if wide.dtype == np.float64 else wide.dtype
            assert mine.dtype == expected, f"{name} {index}: {mine.dtype}, not {expected}"
            if expected != half:
                continue
            # A second derivative is the sum of several gradients, each of which is rounded.
            several = name == "second" or row.name in SEVERAL_ROUNDINGS
            assert_rounded(mine, right, several, f"{name} {index}")


def assert_rounded(mine: np.ndarray, right: np.ndarray, several: bool, what: str) -> None:
    """A unit in the last place, but for float32's own rounding; at the largest number if there were several."""
    info = ml_dtypes.finfo(mine.dtype)
    with np.errstate(over="ignore"):
        rounded = right.astype(mine.dtype).astype(np.float64)
    mine, overflows = mine.astype(np.float64), ~np.isfinite(rounded)
    np.testing.assert_array_equal(mine[overflows], rounded[overflows], err_msg=what)
    mine, right = mine[~overflows], right[~overflows].astype(np.float64)
    if not right.size:
        return
    scale = np.abs(right).max()
    allowed = (4 * scale if several else np.abs(right)) * float(info.eps) + 1e-6 * scale
    excess = np.abs(mine - right) - allowed - float(info.smallest_subnormal)
    assert excess.max() <= 0, f"{what}: {mine[excess.argmax()]}, right {right[excess.argmax()]}"
