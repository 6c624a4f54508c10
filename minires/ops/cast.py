"""Changing dtype and device: linear maps whose gradient travels back the same way."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import Device, as_device, device_of, to_device


class Cast(Function):
    """x -> x in another dtype; the gradient is cast back."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def forward(self, x):
        self.source = x.dtype
        return x.astype(self.dtype)

    def backward(self, dy):
        return Cast(self.source)(dy)


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
    """Return ``input`` in ``dtype``: itself if it has that dtype already."""
    return input if input.dtype == dtype else Cast(np.dtype(dtype))(input)


def to(input: Tensor, *target: Any, device: Any = None, dtype: Any = None, copy: bool = False) -> Tensor:
    """Return ``input`` on a device and in a dtype, given by position or name; a Tensor as target lends both of its own.

    Raises
    ------
    RuntimeError
        If the device is not there.
    """
    for argument in target:
        if isinstance(argument, Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, Device) or (isinstance(argument, str) and argument.startswith(("cpu", "cuda"))):
            device = argument
        else:
            dtype = np.dtype(argument)
    result = input if dtype is None else cast(input, dtype)
    if device is not None and as_device(device) != result.device:
        result = ToDevice(as_device(device))(result)
    return result.clone() if copy and result is input else result


def cpu(input: Tensor) -> Tensor:
    """Return ``input`` on the CPU: itself if it lies there already."""
    return to(input, device="cpu")


def cuda(input: Tensor, device: int | None = None) -> Tensor:
    """Return ``input`` on a GPU, the first unless told otherwise.

    Raises
    ------
    RuntimeError
        If there is no such GPU.
    """
    return to(input, device=f"cuda:{device or 0}")
