"""State dicts as JSON and arrays: what an optimizer or a schedule remembers, in a form that a file can hold safely.

Numbers, strings, booleans and None stay; lists stay lists. A dict becomes ``{"dict": [[key, value], ...]}``, because
its keys need not be strings, a tuple ``{"tuple": [...]}``, a Tensor ``{"tensor": name}`` with its array under that
name, an array ``{"array": name}``. Python writes and reads floats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.device import Array, is_cuda_array
from minires.io import shown


def pack(state: Any, name: str) -> tuple[Any, dict[str, Array]]:
    """Return the JSON form of ``state`` and its arrays; their names begin with ``name``.

    Raises
    ------
    TypeError
        If something in it is neither a number, a string, None, a container nor an array.
    """
    arrays: dict[str, Array] = {}

    def packed(value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Tensor | np.ndarray) or is_cuda_array(value):
            arrays[path] = value.array if isinstance(value, Tensor) else value
            return {"tensor" if isinstance(value, Tensor) else "array": path}
        if isinstance(value, Mapping):
            return {"dict": [[packed(key, path), packed(each, f"{path}.{key}")] for key, each in value.items()]}
        if isinstance(value, list | tuple):
            items = [packed(each, f"{path}.{index}") for index, each in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold")

    return packed(state, name), arrays


def unpack(packed: Any, arrays: Mapping[str, Array]) -> Any:
    """Return the state that `pack` was given; the arrays are used as they are, not copied.

    Raises
    ------
    ValueError
        If it is not what `pack` makes, or an array is missing.
    """
    if isinstance(packed, list):
        return [unpack(each, arrays) for each in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) != 1:
        raise ValueError(f"an object with the keys {shown(sorted(packed))} is no packed state")
    ((kind, content),) = packed.items()
    if kind == "dict":
        return {unpack(key, arrays): unpack(value, arrays) for key, value in content}
    if kind == "tuple":
        return tuple(unpack(each, arrays) for each in content)
    if kind in ("tensor", "array") and content in arrays:
        return Tensor(arrays[content]) if kind == "tensor" else arrays[content]
    raise ValueError(f"a state refers to the {shown(kind)} {shown(content)}, which is not there")


def unlike(own: Any, saved: Any, name: str = "it") -> str:
    """Say in a few words where a saved state is not of the same form as one's own, or nothing.

    Numbers stay finite and at least 0, as all numbers of optimizers, schedules and scalers are; those of one's own
    above 0 stay so, but for learning rates. What only one of two dicts has is not looked at.
    """
    if isinstance(own, Mapping) and isinstance(saved, Mapping):
        parts = [(own[key], saved[key], str(key)) for key in own if key in saved]
    elif isinstance(own, Sequence) and not isinstance(own, str) and isinstance(saved, list | tuple):
        alike = len(own) == len(saved)
        parts = [(own[index if alike else 0], each, name) for index, each in enumerate(saved)] if len(own) else []
    elif own is None or isinstance(own, bool | str):
        return "" if own is None or type(saved) is type(own) else f"{name} is {shown(saved)}"
    elif isinstance(own, Real):
        fits = isinstance(saved, int | float) and not isinstance(saved, bool) and 0 <= saved < 2**63
        fits = fits and math.isfinite(saved) and (saved > 0 or own <= 0 or name.endswith("lr"))
        return "" if fits else f"{name} is {shown(saved)}"
    else:
        return f"{name} is {shown(saved)}"
    return next((found for part in parts if (found := unlike(*part))), "")
