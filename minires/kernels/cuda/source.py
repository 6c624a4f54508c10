"""The texts of the kernels in ``source/``, and the C++ names of what they are instantiated for.

A text is compiled as a whole, with `common.cuh` before it, for every type of storage. A kernel that moves V neighbours
at once is there for V = 1 and for vectors of 16 bytes.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np

SOURCES = Path(__file__).parent / "source"
TYPES = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16"}
VECTOR_BYTES = 16
SIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}

_KERNEL = re.compile(
    r"(?:template <(?P<parameters>[^>]*)>\s*)?__global__ void\s+__launch_bounds__\([\d, ]+\)\s*(?P<name>\w+)\("
)


@cache
def source_text(source: str) -> str:
    """Return the whole text of the kernels of ``source``, a file's name without its ending."""
    return "\n".join((SOURCES / name).read_text(encoding="utf-8") for name in ("common.cuh", f"{source}.cu"))


def source_names() -> list[str]:
    """Return the names that `source_text` takes."""
    return sorted(path.stem for path in SOURCES.glob("*.cu"))


@cache
def instances(source: str, number_type: str | None = None) -> tuple[str, ...]:
    """Return the C++ names of all kernels of a source, such as ``add<float, 4>``, or of those for one type."""
    names = []
    for match in _KERNEL.finditer(source_text(source)):
        name, parameters = match["name"], match["parameters"]
        if parameters is None:
            names.append(name)
        elif "typename U" in parameters:
            names += [cast_instance(a, b, width) for a, b in permutations(TYPES, 2) for width in (1, cast_width(a, b))]
        elif "int V" in parameters:
            names += [instance(name, dtype, width) for dtype in TYPES for width in (1, VECTOR_BYTES // SIZES[dtype])]
        else:
            names += [instance(name, dtype) for dtype in TYPES]
    return tuple(name for name in names if number_type in (None, type_of(name)))


def type_of(kernel: str) -> str:
    """Return the C++ type that a kernel is for, "float" of ``add<float, 4>``; nothing if it is no template."""
    return kernel.partition("<")[2].partition(",")[0].rstrip(">")


def instance(kernel: str, dtype: np.dtype | str, width: int | None = None) -> str:
    """Return the C++ name of a kernel for numbers of ``dtype``, moved ``width`` at once if it is one that does."""
    name = TYPES[str(dtype)]
    return f"{kernel}<{name}>" if width is None else f"{kernel}<{name}, {width}>"


def cast_width(a: np.dtype | str, b: np.dtype | str) -> int:
    """Return how many numbers are cast at once: 16 bytes of the wider type."""
    return VECTOR_BYTES // max(SIZES[str(a)], SIZES[str(b)])


def cast_instance(a: np.dtype | str, b: np.dtype | str, width: int) -> str:
    """Return the C++ name of the kernel that casts ``a`` to ``b``, ``width`` numbers at once."""
    return f"cast<{TYPES[str(a)]}, {TYPES[str(b)]}, {width}>"
