"""Checking a gradient against finite differences: (f(x + h) - f(x - h)) / 2h for each element, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minires.autograd import Tensor, grad
from minires.device import array_module


class GradcheckError(RuntimeError):
    """A gradient and the finite differences disagree; the message gives the worst element."""


def gradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Tell whether the gradients of ``fn(*inputs)`` agree with central differences, as ``torch.autograd.gradcheck``.

    Every element of every input that requires a gradient is moved by ``eps`` both ways, and each output watched: the
    whole Jacobian is compared. ``fn`` must be deterministic, and smooth at ``inputs``.

    Parameters
    ----------
    fn : takes the inputs, returns a Tensor or a tuple of Tensors
    inputs : Tensors in float64 (and anything else, passed on as it is)
    eps : how far each element is moved
    atol, rtol : the analytical value a and the numerical n agree when |a - n| <= atol + rtol * |n|
    raise_exception : raise instead of returning False

    Raises
    ------
    ValueError
        If no input requires a gradient, one that does is not float64, or no output depends on the inputs.
    GradcheckError
        If a derivative disagrees.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    watched = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not watched:
        raise ValueError("gradcheck: no input requires a gradient: make one with requires_grad=True")
    for i in watched:
        if inputs[i].dtype != np.float64:
            raise ValueError(
                f"gradcheck: input {i} is {inputs[i].dtype}, whose rounding would drown the differences: use .double()"
            )
    outputs = _outputs(fn, inputs)
    if not any(output.requires_grad for output in outputs):
        raise ValueError("gradcheck: no output depends on the inputs through the graph")
    for index, output in enumerate(outputs):
        for i in watched:
            analytical = _analytical_jacobian(output, inputs[i])
            numerical = _numerical_jacobian(fn, inputs, i, index, eps)
            difference = np.abs(analytical - numerical)
            wrong = ~(difference <= atol + rtol * np.abs(numerical))  # NaN is wrong too
            if not wrong.any():
                continue
            if not raise_exception:
                return False
            worst = np.unravel_index(np.where(wrong, np.nan_to_num(difference, nan=np.inf), -1).argmax(), wrong.shape)
            at_output = np.unravel_index(worst[0], output.shape) if output.ndim else ()
            at_input = np.unravel_index(worst[1], inputs[i].shape) if inputs[i].ndim else ()
            raise GradcheckError(
                f"the derivative of output {index}{_at(at_output)} by input {i}{_at(at_input)} is "
                f"{analytical[worst]:.8g}, finite differences give {numerical[worst]:.8g}; "
                f"{int(wrong.sum())} of {wrong.size} derivatives disagree"
            )
    return True


def _at(index: tuple) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]" if index else ""


def _outputs(fn: Callable[..., Any], inputs: tuple) -> tuple[Tensor, ...]:
    result = fn(*inputs)
    outputs = (result,) if isinstance(result, Tensor) else tuple(result or ())
    if not outputs or not all(isinstance(output, Tensor) for output in outputs):
        raise ValueError(f"gradcheck: the function must return Tensors, it returned {type(result).__name__}")
    return tuple(output for output in outputs if output.is_floating_point())


def _analytical_jacobian(output: Tensor, x: Tensor) -> np.ndarray:
    """(output elements, input elements), one backward pass a row."""
    rows = np.zeros((output.numel(), x.numel()))
    if not output.requires_grad:
        return rows
    xp = array_module(output.array)
    for row in range(output.numel()):
        direction = xp.zeros(output.numel(), output.dtype)
        direction[row] = 1
        (gradient,) = grad(
            output, x, Tensor(direction.reshape(output.shape)), retain_graph=True, materialize_grads=True
        )
        assert gradient is not None  # materialised
        rows[row] = gradient.cpu().numpy().reshape(-1)
    return rows


def _numerical_jacobian(fn: Callable[..., Any], inputs: tuple, i: int, index: int, eps: float) -> np.ndarray:
    """(output elements, input elements), two calls a column."""

    def value_at(element: int, step: float) -> np.ndarray:
        moved = inputs[i].array.copy()
        moved.reshape(-1)[element] += step
        arguments = tuple(
            Tensor(moved, requires_grad=True)
            if j == i
            else x.detach().requires_grad_(x.requires_grad)
            if isinstance(x, Tensor)
            else x
            for j, x in enumerate(inputs)
        )
        return _outputs(fn, arguments)[index].detach().cpu().numpy().reshape(-1).astype(np.float64)

    columns = [(value_at(element, eps) - value_at(element, -eps)) / (2 * eps) for element in range(inputs[i].numel())]
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))
