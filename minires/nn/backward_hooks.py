"""What `Module.register_full_backward_hook` needs: boundaries around a module that watch gradients come and go.

The module's inputs and outputs pass through identities in the graph. The one behind the outputs sees their gradients
first and keeps them; the one before the inputs sees the gradients of the inputs last, and calls the hooks with both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires.autograd import Function, Tensor, is_grad_enabled

Gradients = tuple[Tensor | None, ...]


class ModuleBoundary(Function):
    """The identity on several Tensors; ``on_gradients`` gets their gradients when all have arrived."""

    def __init__(self, on_gradients: Callable[[Gradients], Gradients], materialize_grads: bool):
        self.on_gradients = on_gradients
        self.materialize_grads = materialize_grads

    def forward(self, *arrays: Any) -> tuple:
        """Return the arrays as they are."""
        return arrays

    def backward(self, *gradients: Any) -> Gradients:
        """Return what the watcher makes of the gradients."""
        return self.on_gradients(gradients)


class BackwardWatch:
    """Follows one call of a module with backward hooks."""

    def __init__(self, module: Any):
        self.module = module
        self.input_count = 0
        self.inputs_need_grad = False
        self.grad_output: Gradients = ()

    def enter(self, inputs: tuple) -> tuple:
        """Put the boundary before the inputs: return what the module is to compute with."""
        self.input_count = len(inputs)
        self.inputs_need_grad = bool(_needing_grad(inputs))
        return _through_boundary(inputs, self._at_inputs, materialize_grads=True)

    def leave(self, output: Any) -> Any:
        """Put the boundary behind the output, a Tensor or a tuple or list of them; others are not watched."""
        if isinstance(output, Tensor):
            return _through_boundary((output,), self._at_outputs, materialize_grads=False)[0]
        if isinstance(output, (tuple, list)):
            outputs = _through_boundary(tuple(output), self._at_outputs, materialize_grads=False)
            return type(output)._make(outputs) if hasattr(output, "_make") else type(output)(outputs)
        return output

    def _at_outputs(self, gradients: Gradients) -> Gradients:
        self.grad_output = gradients
        if not self.inputs_need_grad:  # then this is the last boundary that the walk will meet
            replaced = self._call_hooks((None,) * self.input_count)
            if any(gradient is not None for gradient in replaced):
                raise RuntimeError(
                    f"a backward hook of {type(self.module).__name__} returned gradients for inputs of which none "
                    "requires one: it must return None"
                )
        return gradients

    def _at_inputs(self, gradients: Gradients) -> Gradients:
        return self._call_hooks(gradients)

    def _call_hooks(self, grad_input: Gradients) -> Gradients:
        for hook in self.module._backward_hooks.calls():
            replaced = hook(self.module, grad_input, self.grad_output)
            if replaced is None:
                continue
            replaced = replaced if isinstance(replaced, tuple) else (replaced,)
            if len(replaced) != len(grad_input):
                raise RuntimeError(
                    f"a backward hook of {type(self.module).__name__} returned {len(replaced)} gradients for "
                    f"{len(grad_input)} inputs"
                )
            grad_input = replaced
        self.grad_output = ()  # under create_graph it would hold the graph that holds this watch
        return grad_input


def _needing_grad(values: tuple) -> list[int]:
    if not is_grad_enabled():
        return []
    return [index for index, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]


def _through_boundary(
    values: tuple, on_gradients: Callable[[Gradients], Gradients], *, materialize_grads: bool
) -> tuple:
    """Pass the Tensors that need a gradient through a boundary.

    ``on_gradients`` gets, and returns, one gradient for each of ``values``: None for those that need none.
    """
    positions, count = _needing_grad(values), len(values)
    if not positions:
        return values

    def spread_out(gradients: Gradients) -> Gradients:
        of_all: list[Tensor | None] = [None] * count
        for position, gradient in zip(positions, gradients, strict=True):
            of_all[position] = gradient
        replaced = on_gradients(tuple(of_all))
        return tuple(replaced[position] for position in positions)

    result = list(values)
    passed = ModuleBoundary(spread_out, materialize_grads)(*(values[position] for position in positions))
    for position, tensor in zip(positions, passed, strict=True):
        result[position] = tensor
    return tuple(result)
