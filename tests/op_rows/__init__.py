"""The rows of the op table, by kind of op."""

from op_rows import (
    activation,
    arithmetic,
    clamp,
    comparison,
    conv,
    indexing,
    interpolate,
    losses,
    matmul,
    norm,
    pad,
    pointwise,
    pooling,
    reduction,
    shape,
)

MODULES = (
    activation,
    arithmetic,
    clamp,
    comparison,
    conv,
    indexing,
    interpolate,
    losses,
    matmul,
    norm,
    pad,
    pointwise,
    pooling,
    reduction,
    shape,
)
ROWS = [row for module in MODULES for row in module.ROWS]
