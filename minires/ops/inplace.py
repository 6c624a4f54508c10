"""The methods that change a Tensor in place: each computes as the operation without the underscore.

How memory and graph change is told in `minires.ops.changes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.autograd.creation import below
from minires.device import Array, generator, memory_axes, to_device
from minires.dtypes import is_half, stored_number
from minires.ops import arithmetic, comparison, pointwise
from minires.ops.aliases import takes_names
from minires.ops.broadcast import check_broadcast
from minires.ops.cast import cast, to
from minires.ops.changes import Overwrite, change, check_changeable, is_recorded
from minires.ops.clamp import clamp
from minires.ops.indexing import GetItem, places
from minires.ops.promotion import result_type
from minires.ops.where import masked_fill


def _store(name: str, function: Callable, input: Tensor, *operands: Any, **options: Any) -> Tensor:
    """input <- function(input, *operands), in the memory and dtype of ``input``."""
    check_broadcast(name, input, *operands)
    _check_storable(name, input, *operands)

    def compute(old: Tensor) -> Tensor:
        result = function(old, *operands, **options)
        _check_result_shape(name, result.shape, input)
        return cast(result, input.dtype)

    return change(input, compute, *operands)


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
    return _store("add_", arithmetic.add, input, other, alpha=alpha)


def sub_(input: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Subtract ``alpha * other`` in place."""
    return _store("sub_", arithmetic.sub, input, other, alpha=alpha)


def div_(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Divide by ``other`` in place.

    Raises
    ------
    RuntimeError
        For integers without a rounding mode: their quotients are floats.
    """
    if rounding_mode is None:
        _check_holds_floats("div_", input)
    return _store("div_", arithmetic.div, input, other, rounding_mode=rounding_mode)


def _check_holds_floats(name: str, input: Tensor) -> None:
    if not input.is_floating_point():
        raise RuntimeError(f"{name}: floats cannot be stored in a Tensor of {input.dtype}: convert with .float()")


def _binary(function: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    name = f"{function.__name__}_"

    def method(input: Tensor, other: Any) -> Tensor:
        return _store(name, function, input, other)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Let ``input`` become ``{function.__name__}(input, other)`` in place."
    return method


def _unary(function: Callable[[Tensor], Tensor], *, gives_floats: bool = False) -> Callable[[Tensor], Tensor]:
    name = f"{function.__name__}_"

    def method(input: Tensor) -> Tensor:
        if gives_floats:
            _check_holds_floats(name, input)
        return _store(name, function, input)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Let ``input`` become ``{function.__name__}(input)`` in place."
    return method


mul_ = _binary(arithmetic.mul)
pow_ = takes_names(exponent="other")(_binary(arithmetic.pow))
remainder_ = takes_names(divisor="other")(_binary(arithmetic.remainder))
floor_divide_ = takes_names(value="other")(_binary(arithmetic.floor_divide))
bitwise_and_, bitwise_or_ = _binary(comparison.bitwise_and), _binary(comparison.bitwise_or)
bitwise_xor_, bitwise_not_ = _binary(comparison.bitwise_xor), _unary(comparison.bitwise_not)
neg_, abs_, sign_, square_ = map(_unary, (arithmetic.neg, pointwise.abs, pointwise.sign, pointwise.square))
floor_, ceil_, trunc_ = map(_unary, (pointwise.floor, pointwise.ceil, pointwise.trunc))
exp_, expm1_, log_, log1p_, sqrt_, rsqrt_, reciprocal_, tanh_, sigmoid_, sin_, cos_, erf_ = (
    _unary(function, gives_floats=True)
    for function in (
        pointwise.exp,
        pointwise.expm1,
        pointwise.log,
        pointwise.log1p,
        pointwise.sqrt,
        pointwise.rsqrt,
        pointwise.reciprocal,
        pointwise.tanh,
        pointwise.sigmoid,
        pointwise.sin,
        pointwise.cos,
        pointwise.erf,
    )
)


def round_(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Let ``input`` become ``round(input, decimals=decimals)`` in place."""
    return _store("round_", pointwise.round, input, decimals=decimals)


def zero_(input: Tensor) -> Tensor:
    """Fill with zeros in place."""
    return fill_(input, 0)


def fill_(input: Tensor, value: Any) -> Tensor:
    """Fill with one number, or the value of a 0-dimensional Tensor, in place."""
    if isinstance(value, Tensor) and value.ndim:
        raise RuntimeError(f"fill_ takes a number or a 0-dimensional Tensor, got shape {value.shape}: use copy_")
    if isinstance(value, (int, float, np.generic)):
        stored_number("fill_", value, input.dtype)  # or is refused
    return _assign("fill_", input, value)


@takes_names(other="source", src="source")
def copy_(input: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy the elements of ``source``, broadcast, into the memory, dtype and device of ``input``."""
    if not isinstance(source, Tensor):
        raise TypeError(f"copy_ copies from a Tensor, got {type(source).__name__}")
    return _assign("copy_", input, source)


def _assign(
    name: str,
    input: Tensor,
    value: Any,
    index: Any = ...,
    arrays: tuple | None = None,
    once: bool = True,
    tensors: tuple[Tensor, ...] = (),
) -> Tensor:
    """``input[index][arrays] = value``: see `minires.ops.indexing.Places`."""
    if not isinstance(value, (Tensor, bool, int, float, np.generic)):
        raise TypeError(f"{name}: only a number or a Tensor can be assigned, got {type(value).__name__}")
    if not isinstance(value, Tensor):
        if is_half(input.dtype):  # what is too large is infinite there, as in PyTorch
            with np.errstate(over="ignore"):
                value = float(input.dtype.type(float(value)))
        else:
            value = stored_number(name, value, input.dtype)
    try:
        if is_recorded(input, value):
            place = input if index is ... else GetItem(index, True)(input)
            if isinstance(value, Tensor):
                value = to(value, input.device, input.dtype)
            overwrite = Overwrite(memory_axes(place.array), (), ... if arrays is None else arrays, once)
            overwrite.watching(*tensors)
            change(place, lambda old: overwrite(old, value), value)
        else:
            check_changeable(input, recorded=False)
            array = to_device(value.array, input.device) if isinstance(value, Tensor) else value
            with np.errstate(all="ignore"):  # as in a Function
                if arrays is None:
                    input.array[index] = array
                else:
                    input.array[index][arrays] = array
            input._version.number += 1
    except ValueError as error:  # of shapes: the array library knows what the index selects
        raise RuntimeError(f"{name}: {error}, for a Tensor of shape {input.shape}") from error
    return input


def clamp_(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit the elements to [min, max] in place."""
    return _store("clamp_", clamp, input, min, max)


def masked_fill_(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Set the elements where the boolean ``mask`` holds to ``value``, in place."""

    def compute(old: Tensor) -> Tensor:
        result = masked_fill(old, mask, value)
        _check_result_shape("masked_fill_", result.shape, input)
        return result

    return change(input, compute, value)


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with samples of a normal distribution in place.

    Raises
    ------
    RuntimeError
        If ``std`` is negative.
    """
    if std < 0:
        raise RuntimeError(f"normal_: a standard deviation must not be negative, got {std}")
    return _fill_at_random("normal_", input, lambda random: random.standard_normal(input.shape) * std + mean)


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
    return _fill_at_random(
        "uniform_", input, lambda random: below(random.random(input.shape) * (b - a) + a, a, b, input.dtype)
    )


def _fill_at_random(name: str, input: Tensor, draw: Callable[[Any], Array]) -> Tensor:
    if not input.is_floating_point():
        raise RuntimeError(f"{name} draws floats, which cannot be stored in a Tensor of {input.dtype}")
    check_changeable(input, is_recorded(input))
    return _assign(name, input, Tensor(draw(generator(input.device))))


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """``input[index] = value`` in place, for every index that `getitem` takes."""
    _assign("assignment", input, value, *places(input, index))
