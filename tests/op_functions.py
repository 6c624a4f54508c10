"""A sample of the op table as a function of its floating-point Tensors, for the gradient checks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from op_table import Row, Sample, _leaves, _map_arrays

from minires.autograd import Tensor


def as_function(row: Row, sample: Sample) -> tuple[Callable, list[Tensor]]:
    """Return fn and leaves such that fn(*leaves) applies the op; only floating-point outputs come back."""
    leaves: list[Tensor] = []

    def convert(array: np.ndarray):
        floating = array.dtype.kind == "f"
        tensor = Tensor(array, requires_grad=floating)
        if floating:
            leaves.append(tensor)
        return tensor

    inputs = _map_arrays(row.draw(sample), convert)
    options = _map_arrays(row.draw_options(sample), convert)

    def fn(*given: Tensor) -> tuple[Tensor, ...]:
        replaced = {id(leaf): tensor for leaf, tensor in zip(leaves, given, strict=True)}

        def put(value):
            if isinstance(value, Tensor):
                return replaced.get(id(value), value)
            if isinstance(value, dict):
                return {name: put(item) for name, item in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)(put(item) for item in value)
            return value

        result = row.ours(*put(list(inputs)), **put(options))
        return tuple(output for output in _leaves(result, Tensor) if output.is_floating_point())

    return fn, leaves
