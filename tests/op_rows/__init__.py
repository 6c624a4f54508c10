"""The rows of the op table, by kind of op."""

from op_rows import arithmetic

ROWS = [*arithmetic.ROWS]
