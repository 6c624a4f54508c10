"""Seeded gradient bugs: right functions, each with a wrong backward pass, on plain NumPy arrays.

    Op("relu", fn, vjp, inputs, [Bug("passes everything", lambda inputs, dy, right: [dy])])

``right`` is what the right backward pass returns, so most bugs are one change to it. The right passes are checked too,
by the checker and by PyTorch's: a bug is a bug only beside a gradient that is right.
"""

from importlib import import_module

MODULES = ["conv", "norm", "losses", "pooling", "elementwise", "shape", "structure", "mixed"]
OPS = [op for name in MODULES for op in import_module(f"gradient_bugs.{name}").OPS]
BUGS = [(op, bug) for op in OPS for bug in op.bugs]
