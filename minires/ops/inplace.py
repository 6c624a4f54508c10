"""Changing a Tensor's memory in place: for optimizers, initialisation and data, not for recorded computation.

PyTorch records in-place changes; here they are refused on a Tensor that requires a gradient, and counted on every other,
so that a backward pass that needs the old values raises instead of giving a wrong gradient. ``x += y`` in a recorded
computation therefore makes a new Tensor: the gradients are the same, but other names for x keep its old value.
"""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor, is_grad_enabled
from minires.device import generator, to_device
from minires.ops.arithmetic import add, div, mul, sub
from minires.ops.promotion import result_type


def _records(*operands: Any) -> bool:
    return is_grad_enabled() and any(isinstance(operand, Tensor) and operand.requires_grad for operand in operands)


def _array(operand: Any) -> Any:
    return operand.array if isinstance(operand, Tensor) else operand


def _update(function: Any, name: str, input: Tensor, other: Any, **options: Any) -> Tensor:
    """input <- function(input, other), in the memory and dtype of ``input``."""
    if _records(other):
        raise RuntimeError(
            f"{name}: the other operand requires a gradient, and changes in place are not recorded: "
            "use the operation without the underscore, or minires.no_grad()"
        )
    dtype = result_type(input, other)
    if dtype.kind == "f" and not input.is_floating_point():
        raise RuntimeError(f"{name}: the result is {dtype} and cannot be stored in a Tensor of {input.dtype}")
    target = input.writable_array()
    result = function(input.detach(), other, **options)
    if result.shape != input.shape:
        raise RuntimeError(f"{name}: the result has shape {result.shape} and cannot be stored in shape {input.shape}")
    target[...] = result.array
    return input


def add_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Add ``alpha * other`` in place."""
    return _update(add, "add_", input, other, alpha=alpha)


def sub_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Subtract ``alpha * other`` in place."""
    return _update(sub, "sub_", input, other, alpha=alpha)


def mul_(input: Tensor, other: Any) -> Tensor:
    """Multiply by ``other`` in place."""
    return _update(mul, "mul_", input, other)


def div_(input: Tensor, other: Any) -> Tensor:
    """Divide by ``other`` in place."""
    return _update(div, "div_", input, other)


def _augmented(function: Any, update: Any) -> Any:
    """``x += y``: in place where nothing is recorded, else a new Tensor; a leaf that needs a gradient is refused."""

    def method(input: Tensor, other: Any) -> Tensor:
        recorded_leaf = input.is_leaf and _records(input)
        return update(input, other) if recorded_leaf or not _records(input, other) else function(input, other)

    return method


iadd, isub, imul, itruediv = (
    _augmented(add, add_),
    _augmented(sub, sub_),
    _augmented(mul, mul_),
    _augmented(div, div_),
)


def zero_(input: Tensor) -> Tensor:
    """Fill with zeros in place."""
    return fill_(input, 0)


def fill_(input: Tensor, value: float) -> Tensor:
    """Fill with one number in place."""
    input.writable_array()[...] = _array(value)
    return input


def copy_(input: Tensor, source: Tensor) -> Tensor:
    """Copy the elements of ``source``, broadcast, into the memory, dtype and device of ``input``."""
    if _records(source):
        raise RuntimeError("copy_ from a Tensor that requires a gradient is not recorded: detach() it first")
    input.writable_array()[...] = to_device(source.array, input.device)
    return input


def clamp_(input: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """Limit the elements to [min, max] in place."""
    array = input.writable_array()
    array[...] = array.clip(min, max)
    return input


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with samples of a normal distribution in place."""
    input.writable_array()[...] = generator(input.device).standard_normal(input.shape) * std + mean
    return input


def uniform_(input: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with samples of the uniform distribution on [a, b) in place."""
    input.writable_array()[...] = generator(input.device).random(input.shape) * (b - a) + a
    return input


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """``input[index] = value`` in place."""
    if _records(value):
        raise RuntimeError("assigning a Tensor that requires a gradient is not recorded: use where or cat instead")
    from minires.ops.indexing import array_index

    input.writable_array()[array_index(index)] = _array(value)
