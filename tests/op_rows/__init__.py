"""The rows of the op table, by kind of op."""

from op_rows import arithmetic, conv, interpolate, pooling

ROWS = [*arithmetic.ROWS, *conv.ROWS, *interpolate.ROWS, *pooling.ROWS]
