"""Making Tensors: from numbers and arrays, constant or random, in the default dtype unless told otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd.tensor import Tensor
from minires.device import Device, array_module, generator, is_cuda_array, module_for, to_device

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


def tensor(data: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Copy numbers, nested lists, an array or a Tensor into a new leaf Tensor.

    Arrays keep their dtype; Python floats become the default dtype, ints int64, bools bool.

    Raises
    ------
    TypeError, ValueError
        If the data is ragged or not numeric.
    """
    if isinstance(data, Tensor):
        data = data.array
    if not is_cuda_array(data):
        if isinstance(data, (list, tuple)) and any(isinstance(item, Tensor) for item in data):
            data = [item.tolist() if isinstance(item, Tensor) else item for item in data]
        is_array = isinstance(data, (np.ndarray, np.generic))
        data = np.array(data, order="K")
        if data.dtype.kind not in "biuf":
            raise TypeError(f"a Tensor holds booleans, integers or floats, not {data.dtype}")
        if dtype is None and not is_array:
            dtype = {"f": _default_dtype, "i": np.dtype(np.int64)}.get(data.dtype.kind)
    elif device is None:
        device = Device("cuda", data.device.id)
    array = to_device(data, device)
    copied = array is data and (is_cuda_array(data))
    array = array.astype(dtype or array.dtype, copy=copied)
    return Tensor(array, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: DeviceLike = None) -> Tensor:
    """Return ``data`` as a Tensor: the Tensor itself or the array's own memory where nothing must change."""
    if isinstance(data, Tensor) and dtype is None and device is None:
        return data
    if isinstance(data, np.ndarray) and dtype in (None, data.dtype) and device is None:
        return from_numpy(data)
    return tensor(data, dtype, device)


def from_numpy(array: np.ndarray) -> Tensor:
    """Wrap a NumPy array without copying: changes of one are seen in the other.

    Raises
    ------
    TypeError
        If it is no NumPy array of booleans, integers or floats.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise TypeError(f"from_numpy needs a numeric NumPy array, got {getattr(array, 'dtype', type(array).__name__)}")
    return Tensor(array)


def _shape(size: tuple) -> tuple[int, ...]:
    """``zeros(2, 3)`` and ``zeros((2, 3))`` mean the same."""
    shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    if any(length < 0 for length in shape):
        raise RuntimeError(f"a Tensor cannot have a negative length: got shape {shape}")
    return shape


def full(
    size: tuple, fill_value: float, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """Return a Tensor of shape ``size`` filled with ``fill_value``."""
    if dtype is None:
        dtype = {bool: np.bool_, int: np.int64}.get(type(fill_value), _default_dtype)
    return Tensor(module_for(device).full(_shape((size,)), fill_value, dtype), requires_grad)


def zeros(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return a Tensor of zeros."""
    return Tensor(module_for(device).zeros(_shape(size), dtype or _default_dtype), requires_grad)


def ones(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return a Tensor of ones."""
    return Tensor(module_for(device).ones(_shape(size), dtype or _default_dtype), requires_grad)


def empty(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return an uninitialised Tensor."""
    return Tensor(module_for(device).empty(_shape(size), dtype or _default_dtype), requires_grad)


def eye(n: int, m: int | None = None, dtype: Any = None, device: DeviceLike = None) -> Tensor:
    """Return the (n, m) matrix with ones on its diagonal."""
    return Tensor(module_for(device).eye(n, m, dtype=dtype or _default_dtype))


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return start, start + step, ... up to but not including end; integers give int64."""
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(f"arange from {start} to {end} with step {step} has no end: check the sign of step")
    if dtype is None:
        dtype = np.int64 if all(isinstance(v, int) for v in (start, end, step)) else _default_dtype
    return Tensor(module_for(device).arange(start, end, step).astype(dtype), requires_grad)


def linspace(start: float, end: float, steps: int, dtype: Any = None, device: DeviceLike = None) -> Tensor:
    """Return ``steps`` evenly spaced values from start to end, both included."""
    return Tensor(module_for(device).linspace(start, end, steps, dtype=dtype or _default_dtype))


def rand(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return samples of the uniform distribution on [0, 1)."""
    return Tensor(generator(device).random(_shape(size)).astype(dtype or _default_dtype), requires_grad)


def randn(*size: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """Return samples of the standard normal distribution."""
    return Tensor(generator(device).standard_normal(_shape(size)).astype(dtype or _default_dtype), requires_grad)


def randint(low: int, high: Any = None, size: tuple = (), dtype: Any = np.int64, device: DeviceLike = None) -> Tensor:
    """Return integers drawn evenly from [low, high), or from [0, low) if ``high`` is left out.

    Raises
    ------
    RuntimeError
        If there is no integer to draw.
    """
    if isinstance(high, (tuple, list)):  # randint(high, size)
        high, size = None, high
    if high is None:
        low, high = 0, low
    if low >= high:
        raise RuntimeError(f"randint draws from [low, high), which is empty for low {low} and high {high}")
    return Tensor(generator(device).integers(low, high, _shape((size,))).astype(dtype))


def randperm(n: int, device: DeviceLike = None) -> Tensor:
    """Return a random permutation of 0 ... n - 1."""
    return Tensor(generator(device).random(n).argsort())  # CuPy's generators have no permutation


def zeros_like(input: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return zeros of the shape, dtype, device and memory layout of ``input``."""
    return Tensor(array_module(input.array).zeros_like(input.array, dtype=dtype), requires_grad)


def ones_like(input: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return ones of the shape, dtype, device and memory layout of ``input``."""
    return Tensor(array_module(input.array).ones_like(input.array, dtype=dtype), requires_grad)


def empty_like(input: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return an uninitialised Tensor of the shape, dtype, device and memory layout of ``input``."""
    return Tensor(array_module(input.array).empty_like(input.array, dtype=dtype), requires_grad)


def full_like(input: Tensor, fill_value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a Tensor like ``input`` filled with ``fill_value``."""
    return Tensor(array_module(input.array).full_like(input.array, fill_value, dtype=dtype), requires_grad)


def rand_like(input: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return uniform samples on [0, 1) of the shape, dtype and device of ``input``."""
    return rand(*input.shape, dtype=dtype or input.dtype, device=input.device, requires_grad=requires_grad)


def randn_like(input: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return standard normal samples of the shape, dtype and device of ``input``."""
    return randn(*input.shape, dtype=dtype or input.dtype, device=input.device, requires_grad=requires_grad)


def new_tensor(
    input: Tensor, data: Any, dtype: Any = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """Return a copy of ``data`` in the dtype and on the device of ``input``."""
    return tensor(data, dtype or input.dtype, device or input.device, requires_grad)


def new_full(input: Tensor, size: tuple, fill_value: float, **options: Any) -> Tensor:
    """Return a Tensor of shape ``size`` filled with one number, in the dtype and on the device of ``input``."""
    return full(size, fill_value, **_like(input, options))


def new_zeros(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return zeros in the dtype and on the device of ``input``."""
    return zeros(*size, **_like(input, options))


def new_ones(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return ones in the dtype and on the device of ``input``."""
    return ones(*size, **_like(input, options))


def new_empty(input: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return an uninitialised Tensor in the dtype and on the device of ``input``."""
    return empty(*size, **_like(input, options))


def _like(input: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    return {"dtype": input.dtype, "device": input.device} | options
