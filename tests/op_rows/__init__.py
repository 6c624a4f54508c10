"""The rows of the op table, by kind of op: one module each."""

from importlib import import_module

MODULES = [
    "activation",
    "arithmetic",
    "clamp",
    "comparison",
    "conv",
    "indexing",
    "interpolate",
    "losses",
    "matmul",
    "norm",
    "pad",
    "pointwise",
    "pooling",
    "reduction",
    "shape",
    "sorting",
]
ROWS = [row for name in MODULES for row in import_module(f"op_rows.{name}").ROWS]
