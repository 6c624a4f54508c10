"""Changing dtype and device: linear maps whose gradient travels back the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import Device, as_device, device_of, to_device
from minires.dtypes import is_floating
from minires.kernels import kernels_for


class Cast(Function):
    """x -> x in another dtype; the gradient is cast back."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def forward(self, x):
        self.source = x.dtype
        return kernels_for(x).cast(x, self.dtype)

    def backward(self, dy):
        return Cast(self.source)(dy)


class Widen(Cast):
    """x of 16 bits -> x in float32, for an operation that computes there; its backward makes the copy again."""

    can_remake = True

    def __init__(self):
        super().__init__(np.dtype(np.float32))

    def forward(self, x):
        self.save(x)
        return super().forward(x)

    def remake(self, x):
        return kernels_for(x.array).cast(x.array, self.dtype)


class ToDevice(Function):
    """x -> x on another device; the gradient is copied back."""

    def __init__(self, device: Device):
        self.device = device

    def forward(self, x):
        self.source = device_of(x)
        return to_device(x, self.device)

    def backward(self, dy):
        return ToDevice(self.source)(dy)


def cast(input: Tensor, dtype: Any) -> Tensor:
    """Return ``input`` in ``dtype``: itself if it has that dtype already.

    Raises
    ------
    TypeError
        If ``dtype`` is no dtype of booleans, integers or floats.
    """
    if input.array.dtype == dtype:
        return input
    target = np.dtype(dtype)
    if target.kind not in "biu" and not is_floating(target):
        raise TypeError(f"a Tensor holds booleans, integers or floats, not {target}")
    return Cast(target)(input)


def to(
    input: Tensor,
    *target: Any,
    device: Any = None,
    dtype: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    tensor: Tensor | None = None,
) -> Tensor:
    """Return ``input`` on a device and in a dtype, given by position or name; a Tensor as target lends both of its own.

    ``input`` itself comes back if nothing changes, unless ``copy``. ``non_blocking`` is accepted for PyTorch's sake.

    Raises
    ------
    RuntimeError
        If the device is not there.
    TypeError, ValueError
        If a target is neither a device, a dtype nor a Tensor.
    """
    device, dtype = destination(target if tensor is None else (*target, tensor), device, dtype)
    result = input if dtype is None else cast(input, dtype)
    if device is not None and as_device(device) != result.device:
        result = ToDevice(as_device(device))(result)
    return result.clone() if copy and result is input else result


def destination(target: tuple, device: Any, dtype: Any) -> tuple[Any, Any]:
    """Return the device and the dtype that the arguments of a ``to`` name, by position or by name; None if none does.

    Raises
    ------
    TypeError, ValueError
        If a target is neither a device, a dtype nor a Tensor.
    """
    for argument in target:
        if isinstance(argument, Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, Device) or (isinstance(argument, str) and argument.startswith(("cpu", "cuda"))):
            device = argument
        elif isinstance(argument, bool) or argument is None:
            raise TypeError(f"to: {argument} is neither a device nor a dtype: pass non_blocking and copy by name")
        else:
            try:
                dtype = np.dtype(argument)
            except TypeError:
                kind = ValueError if isinstance(argument, str) else TypeError
                raise kind(
                    f'to: {argument!r} is neither a device ("cpu", "cuda" or "cuda:0", "cuda:1", ...) nor a dtype '
                    "(minires.float32, minires.float16, ...)"
                ) from None
    return device, dtype


def type_(input: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """Return ``input`` in ``dtype``, or without one the name of its type, such as "minires.FloatTensor".

    Raises
    ------
    TypeError
        If ``dtype`` is no dtype of booleans, integers or floats.
    """
    if dtype is not None:
        return cast(input, dtype)
    name = _TYPE_NAMES.get(input.dtype.name, input.dtype.name.capitalize())
    return f"minires.{'cuda.' if input.is_cuda else ''}{name}Tensor"


_TYPE_NAMES = {
    "bfloat16": "BFloat16",
    "float16": "Half",
    "float32": "Float",
    "float64": "Double",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "uint8": "Byte",
}


def cpu(input: Tensor) -> Tensor:
    """Return ``input`` on the CPU: itself if it lies there already."""
    return to(input, device="cpu")


def cuda(input: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """Return ``input`` on a GPU, the first unless told otherwise.

    Raises
    ------
    RuntimeError
        If there is no such GPU.
    """
    return to(input, device=f"cuda:{device or 0}" if isinstance(device, int | None) else device)


def _converter(name: str, dtype: Any) -> Callable[[Tensor], Tensor]:
    def convert(input: Tensor) -> Tensor:
        return cast(input, dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"Return ``input`` as {np.dtype(dtype)}: itself if it is so already."
    return convert


half, float_, double = _converter("half", np.float16), _converter("float", np.float32), _converter("double", np.float64)
long, int_, short = _converter("long", np.int64), _converter("int", np.int32), _converter("short", np.int16)
byte, bool_ = _converter("byte", np.uint8), _converter("bool", np.bool_)


def type_as(input: Tensor, other: Tensor) -> Tensor:
    """Return ``input`` in the dtype of ``other``."""
    return cast(input, other.dtype)
