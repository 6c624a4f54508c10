"""State dicts as JSON and arrays: what an optimizer or a schedule remembers, in a form that a file can hold safely.

Numbers, strings, booleans and None stay; lists stay lists. A dict becomes ``{"dict": [[key, value], ...]}``, because
its keys need not be strings, a tuple ``{"tuple": [...]}``, a Tensor ``{"tensor": name}`` with its array under that
name, an array ``{"array": name}``. Python writes and reads floats exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.device import Array, is_cuda_array


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
        raise ValueError(f"an object with the keys {sorted(packed)} is no packed state")
    ((kind, content),) = packed.items()
    if kind == "dict":
        return {unpack(key, arrays): unpack(value, arrays) for key, value in content}
    if kind == "tuple":
        return tuple(unpack(each, arrays) for each in content)
    if kind in ("tensor", "array") and content in arrays:
        return Tensor(arrays[content]) if kind == "tensor" else arrays[content]
    raise ValueError(f"a state refers to the {kind} {content!r}, which is not there")
