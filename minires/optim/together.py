"""Which parameters of a group the kernels can update together, in one launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minires.autograd import Tensor
from minires.kernels.optim import are_alike, steps_together


def divide(parameters: list[Tensor], state: Mapping[Any, dict[str, Any]]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters with a gradient that one launch can update, and all others.

    They lie on one device and have one dtype, and gradient and remembered Tensors lie in memory as their parameter
    does. With the reference kernels there are none.
    """
    together: list[Tensor] = []
    others = []
    kind = None
    for parameter in parameters:
        own = parameter.dtype, parameter.device
        remembered = [value.array for value in state.get(parameter, {}).values() if isinstance(value, Tensor)]
        if (
            parameter.grad is not None
            and steps_together(parameter.array)
            and kind in (None, own)
            and are_alike(parameter.array, parameter.grad.array, *remembered)
        ):
            kind = own
            together.append(parameter)
        else:
            others.append(parameter)
    return together, others


def gradient_arrays(parameters: list[Tensor]) -> list[Any]:
    """Return the arrays of gradients that are there."""
    return [parameter.grad.array for parameter in parameters if parameter.grad is not None]
