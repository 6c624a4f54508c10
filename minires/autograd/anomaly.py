"""Finding the op that made the first NaN or Inf, in the forward or the backward pass."""

from __future__ import annotations

import traceback
from typing import Any

from minires.autograd.tensor import Tensor
from minires.device import array_module


class AnomalyError(RuntimeError):
    """A NaN or an Inf appeared under `detect_anomaly`; the message names the op that made it.

    ``op`` is the name of the op, ``direction`` is "forward" or "backward".
    """

    def __init__(self, message: str, op: str, direction: str):
        super().__init__(message)
        self.op = op
        self.direction = direction


def calling_stack() -> str:
    """Return the Python stack of the caller's op, innermost last, without the frames of the engine itself."""
    return "".join(traceback.format_stack()[:-3])


def check_forward(function: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
    """Raise AnomalyError if an output holds a NaN, or an Inf that no input holds."""
    fault = _first_fault(outputs)
    if fault is None:
        return
    index, kind = fault
    source = _first_fault(inputs)
    if source is None or (source[1] == "Inf" and kind == "NaN"):
        raise AnomalyError(
            f"{function.name} made {kind} in its forward pass (output {index}, shape {outputs[index].shape})",
            function.name,
            "forward",
        )
    if source[1] == "NaN":
        raise AnomalyError(
            f"NaN entered {function.name} through its input {source[0]} (shape {inputs[source[0]].shape}): "
            "check the data it was given",
            function.name,
            "forward",
        )


def check_backward(function: Any, gradients: tuple) -> None:
    """Raise AnomalyError if a gradient that ``function`` returned holds a NaN or an Inf."""
    fault = _first_fault(gradients)
    if fault is None:
        return
    index, kind = fault
    where = f"; it was called here in the forward pass:\n{function.forward_stack}" if function.forward_stack else ""
    raise AnomalyError(
        f"{function.name} made {kind} in its backward pass (gradient of input {index}){where}",
        function.name,
        "backward",
    )


def _first_fault(values: tuple) -> tuple[int, str] | None:
    for index, value in enumerate(values):
        if isinstance(value, Tensor) and value.is_floating_point():
            xp = array_module(value.array)
            if not bool(xp.isfinite(value.array).all()):
                return index, "NaN" if bool(xp.isnan(value.array).any()) else "Inf"
    return None
