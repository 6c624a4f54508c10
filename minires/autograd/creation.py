"""Making Tensors: from numbers and arrays, constant or random, in the default dtype unless told otherwise."""

from __future__ import annotations

import array as python_array
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minires.autograd.tensor import Tensor
from minires.autograd.variadic import as_sequence, takes_sequence
from minires.device import Array, Device, array_module, generator, is_cuda_array, module_for, to_device
from minires.dtypes import checked_dtype, is_floating, promote_types, python_number, stored_number

DeviceLike = Device | str | None

_default_dtype = np.dtype(np.float32)


def get_default_dtype() -> np.dtype:
    """Return the dtype that Python floats become: float32 unless set otherwise."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats become.

    Raises
    ------
    TypeError
        If it is not a floating-point dtype.
    """
    global _default_dtype
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"the default dtype must be a floating-point one, got {np.dtype(dtype)}")
    _default_dtype = np.dtype(dtype)


def number_dtype(number: Any) -> np.dtype:
    """Return what dtype a number has among operands: bool, int64 or the default dtype, for those of NumPy too.

    Raises
    ------
    TypeError
        If it is no real number.
    """
    if isinstance(number, (bool, np.bool_)):
        return np.dtype(bool)
    if isinstance(number, (int, np.integer)):
        return np.dtype(np.int64)
    if isinstance(number, (float, np.floating)):
        return _default_dtype
    raise TypeError(
        f"an operand must be a Tensor or a real number, got {type(number).__name__}: wrap arrays with "
        "minires.from_numpy"
    )


def tensor(data: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Copy numbers, nested lists, an array or a Tensor into a new leaf Tensor.

    Arrays, NumPy scalars and Tensors keep their dtype, Python floats have the default dtype, ints int64, bools bool; a
    list has the dtype to which those of its items are promoted. A Tensor in a list stands for its only element.

    Raises
    ------
    TypeError, ValueError
        If the data is ragged or holds anything but real numbers, or more Tensors than such of one element.
    RuntimeError
        If a number does not fit into the dtype.
    """
    wanted = None if dtype is None else checked_dtype(dtype)
    if isinstance(data, Tensor):
        data = data.array
    if is_cuda_array(data):
        device = Device("cuda", data.device.id) if device is None else device
        array = to_device(data, device)
        return Tensor(array.astype(wanted or array.dtype, copy=array is data), requires_grad)
    if isinstance(data, np.ndarray):
        checked_dtype(data.dtype)
        with np.errstate(all="ignore"):
            array = np.array(data, dtype=wanted, order="K")
    else:
        array = _array_of_numbers(data, wanted)
    return Tensor(to_device(array, device), requires_grad)


def _array_of_numbers(data: Any, dtype: np.dtype | None) -> Array:
    """Return numbers in nested lists, or one by itself, as an array of ``dtype``, or of that which suits them all."""
    dtypes: set[np.dtype] = set()
    numbers = _numbers(data, dtypes)
    common = functools.reduce(promote_types, dtypes) if dtypes else _default_dtype
    wanted = dtype or common
    try:
        with np.errstate(all="ignore"):
            if wanted.kind not in "iu":
                # bfloat16 takes no int of 64 bits.
                return np.array(numbers, np.float64 if wanted.kind == "V" else wanted).astype(wanted, copy=False)
            if common.kind in "biu":
                source = np.array(numbers, common)
            else:  # each by itself, for an int among floats may have more digits than a float
                source = np.asarray(np.frompyfunc(int, 1, 1)(np.array(numbers, object)), object)
    except OverflowError as error:
        raise RuntimeError(f"tensor: {error}: integers have 64 bits at most, and no infinity") from error
    except ValueError as error:
        raise ValueError(f"tensor: {error}: lists within a list must have equal lengths") from error
    if source.size:
        stored_number("tensor", source.max(), wanted)
        stored_number("tensor", source.min(), wanted)
    return source.astype(wanted)


def _numbers(data: Any, dtypes: set[np.dtype]) -> Any:
    """Return ``data`` in a form that NumPy can read, and add the dtypes of what it holds to ``dtypes``."""
    if isinstance(data, (list, tuple)):
        kinds = set(map(type, data))
        if kinds <= _PYTHON_NUMBERS:
            dtypes.update(number_dtype(kind()) for kind in kinds)
            return data
        return [_numbers(item, dtypes) for item in data]
    if isinstance(data, Tensor):
        if data.numel() != 1:
            raise ValueError(f"tensor: a Tensor in a list must have one element, got shape {data.shape}: use stack")
        dtypes.add(data.dtype)
        return data.item()
    if type(data) in _PYTHON_NUMBERS:
        dtypes.add(number_dtype(data))
        return data
    if isinstance(data, np.generic) or hasattr(data, "__array__") or hasattr(data, "__array_interface__"):
        found = np.asarray(data)
        dtypes.add(checked_dtype(found.dtype.newbyteorder("=")))  # it is copied, in whatever order its bytes are
        return found if found.ndim else found.item()
    if isinstance(data, (Sequence, python_array.array)) and not isinstance(data, (str, bytes)):
        return _numbers(list(data), dtypes)
    raise TypeError(f"a Tensor is made of numbers, lists of them or arrays, not of {type(data).__name__}")


_PYTHON_NUMBERS = {bool, int, float}


def as_tensor(data: Any, dtype: Any = None, device: DeviceLike = None) -> Tensor:
    """Return ``data`` as a Tensor: the Tensor itself or the array's own memory where nothing must change."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    if isinstance(data, np.ndarray) and (dtype is None or np.dtype(dtype) == data.dtype) and device is None:
        return from_numpy(data)
    return tensor(data, dtype, device)


def from_numpy(array: np.ndarray) -> Tensor:
    """Wrap a NumPy array without copying: changes of one are seen in the other.

    Of a matrix, a masked array or another subclass the plain array is wrapped, without its mask.

    Raises
    ------
    TypeError
        If it is no NumPy array of booleans, integers or floats of up to 64 bits, in the byte order of this machine.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy needs a NumPy array, got {type(array).__name__}: use minires.tensor")
    return Tensor(array)


def _shape(size: tuple) -> tuple[int, ...]:
    shape = as_sequence(size)
    if any(length < 0 for length in shape):
        raise RuntimeError(f"a Tensor cannot have a negative length: got shape {shape}")
    return shape


def _dtype(dtype: Any) -> np.dtype:
    return _default_dtype if dtype is None else checked_dtype(dtype)


def _number(value: Any) -> Any:
    """A number of Python's, from one of NumPy's or a Tensor of one element too."""
    return python_number(value.item() if isinstance(value, Tensor) else value)


def full(
    size: tuple, fill_value: float, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """Return a Tensor of shape ``size`` filled with ``fill_value``, which says the dtype unless that is given.

    Raises
    ------
    RuntimeError
        If the dtype cannot hold the number.
    """
    number = _number(fill_value)
    wanted = number_dtype(number) if dtype is None else checked_dtype(dtype)
    number = stored_number("full", number, wanted)
    return Tensor(module_for(device).full(_shape((size,)), number, wanted), requires_grad)


@takes_sequence("size")
def zeros(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return a Tensor of zeros."""
    return Tensor(module_for(device).zeros(_shape(size), _dtype(dtype)), requires_grad)


@takes_sequence("size")
def ones(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return a Tensor of ones."""
    return Tensor(module_for(device).ones(_shape(size), _dtype(dtype)), requires_grad)


@takes_sequence("size")
def empty(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return an uninitialised Tensor."""
    return Tensor(module_for(device).empty(_shape(size), _dtype(dtype)), requires_grad)


def eye(
    n: int, m: int | None = None, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """Return the (n, m) matrix with ones on its diagonal."""
    rows, columns = _shape((n, n if m is None else m))
    return Tensor(module_for(device).eye(rows, columns, dtype=_dtype(dtype)), requires_grad)


def arange(
    start: float | None = None,
    end: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return start, start + step, ... up to but not including end; integers give int64.

    ``arange(end)`` starts at 0. For integers the fractions of start and step are cut off once the steps are counted, in
    int64 before.

    Raises
    ------
    RuntimeError
        If the sequence does not reach the end, for a limit that is not finite, or for booleans.
    TypeError
        If there is no end.
    """
    if end is None:
        start, end = None, start
    if end is None:
        raise TypeError("arange needs an end, e.g. arange(3)")
    first, last, stride = (_number(value) for value in (0 if start is None else start, end, step))
    if not all(map(math.isfinite, (first, last, stride))):
        raise RuntimeError(f"arange from {first} to {last} with step {stride} has no end: give finite numbers")
    if dtype is None:
        wanted = np.dtype(np.int64) if all(isinstance(v, int) for v in (first, last, stride)) else _default_dtype
    else:
        wanted = checked_dtype(dtype)
    if wanted.kind == "b":
        raise RuntimeError("arange counts, which booleans cannot: choose another dtype")
    if wanted == np.int64:
        first, last, stride = (stored_number("arange", value, wanted) for value in (first, last, stride))
    if stride == 0 or (last - first) * stride < 0:
        raise RuntimeError(f"arange from {first} to {last} with step {stride} has no end: check the sign of step")
    whole = isinstance(last - first, int) and isinstance(stride, int)
    count = -((first - last) // stride) if whole else math.ceil((last - first) / stride)
    if wanted.kind in "iu":
        first, stride = int(first), int(stride)
    places = module_for(device).arange(count)
    return Tensor((first + places * stride).astype(wanted), requires_grad)


def linspace(
    start: float, end: float, steps: int, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """Return ``steps`` evenly spaced values from start to end, both included, for integers without their fractions.

    Raises
    ------
    RuntimeError
        If ``steps`` is negative, the dtype is bool or cannot hold a limit.
    """
    wanted = _dtype(dtype)
    if wanted.kind == "b":
        raise RuntimeError("linspace divides an interval, which booleans cannot: choose another dtype")
    (count,) = _shape((steps,))
    first, last = (float(stored_number("linspace", _number(limit), wanted)) for limit in (start, end))
    places = module_for(device).arange(count, dtype=np.float64)
    with np.errstate(all="ignore"):
        step = np.float64(last - first) / max(count - 1, 1)
        from_start, from_end = first + places * step, last - (count - 1 - places) * step
        values = module_for(device).where(places < max(count // 2, 1), from_start, from_end)  # both limits are exact
        return Tensor(values.astype(wanted), requires_grad)


def below(samples: Array, low: float, high: float, dtype: np.dtype) -> Array:
    """Return float64 samples of [low, high) in ``dtype``, where rounding up to ``high`` gives the number before it.

    Raises
    ------
    RuntimeError
        If the dtype cannot hold a limit.
    """
    first, last = (dtype.type(stored_number("a random draw", limit, dtype)) for limit in (low, high))
    before = np.nextafter(last, first)
    return array_module(samples).minimum(samples.astype(dtype), before)


@takes_sequence("size")
def rand(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return samples of the uniform distribution on [0, 1).

    Raises
    ------
    RuntimeError
        If the dtype is not a floating-point one.
    """
    wanted = _floating_dtype("rand", dtype)
    return Tensor(below(generator(device).random(_shape(size)), 0.0, 1.0, wanted), requires_grad)


@takes_sequence("size")
def randn(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return samples of the standard normal distribution.

    Raises
    ------
    RuntimeError
        If the dtype is not a floating-point one.
    """
    wanted = _floating_dtype("randn", dtype)
    return Tensor(generator(device).standard_normal(_shape(size)).astype(wanted), requires_grad)


def _floating_dtype(name: str, dtype: Any) -> np.dtype:
    wanted = _dtype(dtype)
    if not is_floating(wanted):
        raise RuntimeError(f"{name} draws floats, which cannot be stored in {wanted}: use randint for integers")
    return wanted


def randint(
    low: int = 0,
    high: Any = None,
    size: tuple = (),
    dtype: Any = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return integers drawn evenly from [low, high), or from [0, low) if ``high`` is left out; int64 by default.

    Raises
    ------
    RuntimeError
        If there is no integer to draw, or the dtype cannot hold those that there are.
    """
    if isinstance(high, (tuple, list)):  # randint(high, size)
        high, size = None, high
    if high is None:
        low, high = 0, low
    least, limit = operator.index(low), operator.index(high)
    if least >= limit:
        raise RuntimeError(f"randint draws from [low, high), which is empty for low {low} and high {high}")
    wanted = np.dtype(np.int64) if dtype is None else checked_dtype(dtype)
    smallest = {"b": 0, "u": 0}.get(wanted.kind, least)
    if least < smallest or (wanted.kind == "b" and limit > 2):
        raise RuntimeError(f"randint: numbers from {least} to {limit - 1} do not fit into {wanted}")
    for extreme in (least, limit - 1):
        stored_number("randint", extreme, wanted)
    drawn = generator(device).integers(least, limit, _shape((size,)))
    return Tensor(below(drawn, least, limit, wanted) if is_floating(wanted) else drawn.astype(wanted), requires_grad)


def randperm(n: int, device: DeviceLike = None, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a random permutation of 0 ... n - 1, int64 unless told otherwise."""
    order = generator(device).random(*_shape((n,))).argsort()  # CuPy's generators have no permutation
    return Tensor(order.astype(np.int64 if dtype is None else checked_dtype(dtype), copy=False), requires_grad)


def zeros_like(input: Tensor, dtype: Any = None, requires_grad: bool = False, device: DeviceLike = None) -> Tensor:
    """Return zeros of the shape, dtype, device and memory layout of ``input``."""
    return full_like(input, 0, dtype, requires_grad, device)


def ones_like(input: Tensor, dtype: Any = None, requires_grad: bool = False, device: DeviceLike = None) -> Tensor:
    """Return ones of the shape, dtype, device and memory layout of ``input``."""
    return full_like(input, 1, dtype, requires_grad, device)


def empty_like(input: Tensor, dtype: Any = None, requires_grad: bool = False, device: DeviceLike = None) -> Tensor:
    """Return an uninitialised Tensor of the shape, dtype, device and memory layout of ``input``."""
    wanted = input.dtype if dtype is None else checked_dtype(dtype)
    array = array_module(input.array).empty_like(input.array, dtype=wanted)
    return Tensor(to_device(array, device or input.device), requires_grad)


def full_like(
    input: Tensor, fill_value: float, dtype: Any = None, requires_grad: bool = False, device: DeviceLike = None
) -> Tensor:
    """Return a Tensor like ``input`` filled with ``fill_value``.

    Raises
    ------
    RuntimeError
        If the dtype cannot hold the number.
    """
    result = empty_like(input, dtype, device=device)
    result.array.fill(stored_number("full_like", _number(fill_value), result.dtype))
    result.requires_grad = requires_grad
    return result


def rand_like(input: Tensor, dtype: Any = None, requires_grad: bool = False, device: DeviceLike = None) -> Tensor:
    """Return uniform samples on [0, 1) of the shape, dtype and device of ``input``."""
    return rand(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def randn_like(input: Tensor, dtype: Any = None, requires_grad: bool = False, device: DeviceLike = None) -> Tensor:
    """Return standard normal samples of the shape, dtype and device of ``input``."""
    return randn(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def new_tensor(
    input: Tensor, data: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """Return a copy of ``data`` in the dtype and on the device of ``input``."""
    return tensor(data, dtype or input.dtype, device or input.device, requires_grad)


def new_full(input: Tensor, size: tuple, fill_value: float, **options: Any) -> Tensor:
    """Return a Tensor of shape ``size`` filled with one number, in the dtype and on the device of ``input``."""
    return full(size, fill_value, **_like(input, options))


@takes_sequence("size", after=1)
def new_zeros(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return zeros in the dtype and on the device of ``input``."""
    return zeros(*size, **_like(input, options))


@takes_sequence("size", after=1)
def new_ones(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return ones in the dtype and on the device of ``input``."""
    return ones(*size, **_like(input, options))


@takes_sequence("size", after=1)
def new_empty(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return an uninitialised Tensor in the dtype and on the device of ``input``."""
    return empty(*size, **_like(input, options))


def _like(input: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    return {"dtype": input.dtype, "device": input.device} | options
