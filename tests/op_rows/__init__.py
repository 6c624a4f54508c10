"""The rows of the op table, by kind of op."""

from op_rows import arithmetic, conv, interpolate, losses, pooling

ROWS = [*arithmetic.ROWS, *conv.ROWS, *interpolate.ROWS, *losses.ROWS, *pooling.ROWS]
