"""The rows of the op table, by kind of op."""

from op_rows import arithmetic, conv, pooling

ROWS = [*arithmetic.ROWS, *conv.ROWS, *pooling.ROWS]
