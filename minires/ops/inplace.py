"""Changing a Tensor's memory in place: for optimizers, initialisation and data, not for recorded computation.

PyTorch records in-place changes; here they are refused on a Tensor that requires a gradient, and counted on every
other, so that a backward pass that needs the old values raises instead of giving a wrong gradient. ``x += y`` in a
recorded computation therefore makes a new Tensor: the gradients are the same, but other names for x keep its old value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import Tensor, is_grad_enabled
from minires.autograd.creation import below
from minires.device import Array, generator, to_device
from minires.dtypes import stored_number
from minires.ops.aliases import takes_names
from minires.ops.arithmetic import add, div, mul, sub
from minires.ops.broadcast import check_broadcast
from minires.ops.clamp import clamp
from minires.ops.indexing import places
from minires.ops.promotion import result_type
from minires.ops.where import masked_fill


def _records(*operands: Any) -> bool:
    return is_grad_enabled() and any(isinstance(operand, Tensor) and operand.requires_grad for operand in operands)


def _refuse_recorded(name: str, *operands: Any) -> None:
    if _records(*operands):
        raise RuntimeError(
            f"{name}: the other operand requires a gradient, and changes in place are not recorded: "
            "use the operation without the underscore, or minires.no_grad()"
        )


def _random_target(name: str, input: Tensor) -> Array:
    if not input.is_floating_point():
        raise RuntimeError(f"{name} draws floats, which cannot be stored in a Tensor of {input.dtype}")
    return input.writable_array()


def _store(name: str, function: Callable, input: Tensor, *operands: Any, **options: Any) -> Tensor:
    """input <- function(input, *operands), in the memory and dtype of ``input``."""
    _refuse_recorded(name, *operands)
    check_broadcast(name, input, *operands)
    _check_storable(name, input, *operands)
    target = input.writable_array()
    result = function(input.detach(), *operands, **options)
    _check_result_shape(name, result.shape, input)
    target[...] = result.array
    return input


def _check_storable(name: str, input: Tensor, *operands: Any) -> None:
    """A float does not fit into integers, nor an integer into booleans."""
    dtype = result_type(input, *(operand for operand in operands if operand is not None))
    if not np.can_cast(dtype, input.dtype, "same_kind") and (dtype.kind, input.dtype.kind) != ("i", "u"):
        raise RuntimeError(f"{name}: the result is {dtype} and cannot be stored in a Tensor of {input.dtype}")


def _check_result_shape(name: str, shape: tuple[int, ...], input: Tensor) -> None:
    if shape != input.shape:
        raise RuntimeError(f"{name}: the result has shape {shape} and cannot be stored in shape {input.shape}")


def add_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Add ``alpha * other`` in place."""
    return _store("add_", add, input, other, alpha=alpha)


def sub_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Subtract ``alpha * other`` in place."""
    return _store("sub_", sub, input, other, alpha=alpha)


def mul_(input: Tensor, other: Any) -> Tensor:
    """Multiply by ``other`` in place."""
    return _store("mul_", mul, input, other)


def div_(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Divide by ``other`` in place.

    Raises
    ------
    RuntimeError
        For integers without a rounding mode: their quotients are floats.
    """
    if not input.is_floating_point() and rounding_mode is None:
        raise RuntimeError(f"div_: quotients cannot be stored in a Tensor of {input.dtype}: convert with .float()")
    return _store("div_", div, input, other, rounding_mode=rounding_mode)


def _augmented(function: Callable, update: Callable) -> Callable[[Tensor, Any], Tensor]:
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


def fill_(input: Tensor, value: Any) -> Tensor:
    """Fill with one number, or the value of a 0-dimensional Tensor, in place."""
    if isinstance(value, Tensor) and value.ndim:
        raise RuntimeError(f"fill_ takes a number or a 0-dimensional Tensor, got shape {value.shape}: use copy_")
    return _assign("fill_", input, value)


@takes_names(other="source", src="source")
def copy_(input: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy the elements of ``source``, broadcast, into the memory, dtype and device of ``input``."""
    if not isinstance(source, Tensor):
        raise TypeError(f"copy_ copies from a Tensor, got {type(source).__name__}")
    return _assign("copy_", input, source)


def _assign(name: str, input: Tensor, value: Any, index: Any = ...) -> Tensor:
    """``input[index] = value`` for an index that arrays understand."""
    _refuse_recorded(name, value)
    target = input.writable_array()
    if isinstance(value, Tensor):
        value = to_device(value.array, input.device)
    elif not isinstance(value, (bool, int, float, np.generic)):
        raise TypeError(f"{name}: only a number or a Tensor can be assigned, got {type(value).__name__}")
    elif not input.is_floating_point():
        value = stored_number(name, value, input.dtype)
    try:
        target[index] = value
    except ValueError as error:  # of shapes: the array library knows what the index selects
        raise RuntimeError(f"{name}: {error}, for a Tensor of shape {input.shape}") from error
    return input


def clamp_(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit the elements to [min, max] in place."""
    return _store("clamp_", clamp, input, min, max)


def masked_fill_(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Set the elements where the boolean ``mask`` holds to ``value``, in place."""
    target = input.writable_array()
    result = masked_fill(input.detach(), mask, value)
    _check_result_shape("masked_fill_", result.shape, input)
    target[...] = result.array
    return input


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with samples of a normal distribution in place.

    Raises
    ------
    RuntimeError
        If ``std`` is negative.
    """
    if std < 0:
        raise RuntimeError(f"normal_: a standard deviation must not be negative, got {std}")
    _random_target("normal_", input)[...] = generator(input.device).standard_normal(input.shape) * std + mean
    return input


@takes_names(**{"from": "a", "to": "b"})
def uniform_(input: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with samples of the uniform distribution on [a, b) in place.

    Raises
    ------
    RuntimeError
        If ``a`` exceeds ``b``.
    """
    if a > b:
        raise RuntimeError(f"uniform_: the lower limit {a} exceeds the upper limit {b}")
    samples = generator(input.device).random(input.shape) * (b - a) + a
    _random_target("uniform_", input)[...] = below(samples, a, b, input.dtype)
    return input


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """``input[index] = value`` in place, for every index that `getitem` takes."""
    basic, arrays, _ = places(input, index)
    if arrays is None:
        _assign("assignment", input, value, basic)
    else:
        view = Tensor(input.writable_array()[basic])
        _assign("assignment", view, value, arrays)
