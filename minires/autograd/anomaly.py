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
    return "".join(traceback.format_stack()[:-3])  # calling_stack, Function._record and Function.__call__


def check_forward(function: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
    """Raise AnomalyError if ``function`` made a NaN or an Inf, or was given a NaN."""
    fault = _blame(inputs, outputs)
    if fault is None:
        return
    kind, index, given = fault
    if given:
        message = (
            f"{kind} entered {function.name} through its input {index} (shape {inputs[index].shape}): "
            "check the data it was given"
        )
    else:
        message = f"{function.name} made {kind} in its forward pass (output {index}, shape {outputs[index].shape})"
    raise AnomalyError(message, function.name, "forward")


def check_backward(function: Any, arguments: tuple, gradients: tuple) -> None:
    """Raise AnomalyError if ``function`` made a NaN or an Inf among the gradients it returned, or was given a NaN."""
    fault = _blame(arguments, gradients)
    if fault is None:
        return
    kind, index, given = fault
    if given:
        message = (
            f"{kind} entered the backward pass of {function.name} as the gradient of its output {index}: "
            "check the gradient given to backward() and what hooks return"
        )
    else:
        message = f"{function.name} made {kind} in its backward pass (gradient of input {index})"
    if function.forward_stack is not None:
        message += f"; it was called here in the forward pass:\n{function.forward_stack}"
    raise AnomalyError(message, function.name, "backward")


def _blame(given: tuple, made: tuple) -> tuple[str, int, bool] | None:
    """Return "NaN" or "Inf", where it is, and whether it was given rather than made; None if all is well.

    An Inf that was given may pass through: masks are made of them.
    """
    fault = _first_fault(made)
    if fault is None:
        return None
    source = _first_fault(given)
    if source is None or (source[0] == "Inf" and fault[0] == "NaN"):
        return (*fault, False)
    return (*source, True) if source[0] == "NaN" else None


def _first_fault(values: tuple) -> tuple[str, int] | None:
    for index, value in enumerate(values):
        if isinstance(value, Tensor) and value.is_floating_point():
            xp = array_module(value.array)
            if not bool(xp.isfinite(value.array).all()):
                return "NaN" if bool(xp.isnan(value.array).any()) else "Inf", index
    return None
