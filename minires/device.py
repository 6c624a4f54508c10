"""Where arrays live: NumPy on the CPU, CuPy on a CUDA GPU, and the random generators of both.

The ground floor: it knows arrays and nothing else of minires. CuPy is imported only when an array or a caller asks
for the GPU, so a machine without one never pays for it.
"""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from sys import getrefcount
from types import ModuleType
from typing import Any

import numpy as np

from minires.gpu_memory import Watched

Array = Any  # numpy.ndarray or cupy.ndarray: CuPy may not be installed, so no static type names both

CUPY_REMEDY = "install CuPy for your driver with pip install 'minires[cuda13]' (or 'minires[cuda12]')"


@dataclass(frozen=True, init=False)
class Device:
    """A place for arrays: ``Device("cpu")``, ``Device("cuda")``, ``Device("cuda:1")`` or ``Device("cuda", 1)``.

    Prints as ``cpu`` or ``cuda:1``; a GPU without a number is number 0. Users know it as ``minires.device``.

    Raises
    ------
    ValueError
        If there is no such kind of device.
    TypeError
        If the type is no name.
    """

    type: str
    index: int | None = None

    def __init__(self, type: str | Device, index: int | None = None):
        if not isinstance(type, (str, Device)):
            raise TypeError(f'a device is named by a str such as "cpu" or "cuda:0", got {type!r}')
        name = str(type) if index is None else f"{type}:{index}"
        kind, colon, number = name.partition(":")
        if kind == "cpu" and (not colon or number == "0"):
            number = ""  # there is one CPU, and it has no number
        elif kind != "cuda" or (colon and not number.isdecimal()):
            raise ValueError(f'unknown device {name!r}: use "cpu", "cuda" or "cuda:0", "cuda:1", ...')
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "index", None if kind == "cpu" else int(number or 0))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


CPU = Device("cpu")


def as_device(device: Device | str | None) -> Device:
    """Return the Device that ``device`` names: ``None`` and ``"cpu"`` the CPU, ``"cuda"`` or ``"cuda:1"`` a GPU.

    Raises
    ------
    ValueError
        If the name is none of these.
    """
    if isinstance(device, Device):
        return device
    return CPU if device is None else Device(device)


@cache
def cupy() -> ModuleType:
    """Import CuPy and check that a GPU answers.

    Raises
    ------
    RuntimeError
        If CuPy is missing or no CUDA device can be used; the message says which and what to install.
    """
    if importlib.util.find_spec("cupy") is None:
        raise RuntimeError(f'device "cuda" needs CuPy, which is not installed: {CUPY_REMEDY}')
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a driver can fail in many ways; each of them means "no GPU here"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(
            f'device "cuda" cannot be used: {reason}. Check that nvidia-smi lists a GPU and that the CUDA version of '
            f"CuPy is one your driver supports; {CUPY_REMEDY}"
        ) from error
    if count == 0:
        raise RuntimeError('device "cuda" cannot be used: CuPy is installed but finds no CUDA device')
    cupy.cuda.set_allocator(watched_memory(cupy).malloc)
    return cupy


@cache
def watched_memory(xp: ModuleType) -> Watched:
    """Return what watches over the memory that CuPy hands out."""
    return Watched(xp)


def cuda_is_available() -> bool:
    """Tell whether ``"cuda"`` can be used here: CuPy is installed and a device answers."""
    try:
        cupy()
    except RuntimeError:
        return False
    return True


def is_cuda_array(array: Array) -> bool:
    """Tell whether ``array`` is a CuPy array, without importing CuPy."""
    loaded = sys.modules.get("cupy")
    return loaded is not None and isinstance(array, loaded.ndarray)


def array_module(array: Array) -> ModuleType:
    """Return ``numpy`` or ``cupy``, whichever made ``array``."""
    return sys.modules["cupy"] if is_cuda_array(array) else np


def module_for(device: Device | str | None) -> ModuleType:
    """Return the array module of a device: ``numpy`` for the CPU, ``cupy`` for a GPU (an error if there is none)."""
    return np if as_device(device).type == "cpu" else cupy()


def device_of(array: Array) -> Device:
    """Return the device that ``array`` lies on."""
    return _gpu(array.device.id) if is_cuda_array(array) else CPU


@cache  # asked for often, and naming a device takes longer than asking
def _gpu(index: int) -> Device:
    return Device("cuda", index)


def owns_memory(array: Array) -> bool:
    """Tell whether no other array refers to the memory of ``array``. In doubt one does."""
    if is_cuda_array(array):
        return array.base is None and type(array.data.mem).__name__ != "UnownedMemory"
    if not array.flags.writeable:
        return False
    if array.base is None:
        return True
    # 2: the attribute and the argument of getrefcount.
    if type(array.base) is not np.ndarray or getrefcount(array.base) > 2:
        return False
    # Memory that is neither NumPy's nor from our own pool may have another owner still.
    return array.base.flags.owndata or getattr(array.base.base, "lent_by_pool", False)


def memory_axes(array: Array) -> tuple[int, ...]:
    """Return the axes of an array in the order of its memory, the slowest first."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


def to_device(array: Array, device: Device | str | None) -> Array:
    """Return ``array`` on ``device``: itself if it lies there already, else a copy with the same memory layout.

    Raises
    ------
    RuntimeError
        If the device is a GPU that is not there.
    """
    target = as_device(device)
    if device_of(array) == target:
        return array
    if target.type == "cpu":
        return array.get(order="A") if array.flags.c_contiguous else _through_axes(array, lambda dense: dense.get())
    xp = cupy()
    if target.index >= xp.cuda.runtime.getDeviceCount():
        raise RuntimeError(f"device {target} is not there: {xp.cuda.runtime.getDeviceCount()} CUDA device(s) found")
    with xp.cuda.Device(target.index):
        return _through_axes(array, xp.asarray)


def _through_axes(array: Array, copy: Any) -> Array:
    """Copy in the order the axes lie in memory, so that a channels-last array arrives channels-last."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    back = [order.index(axis) for axis in range(array.ndim)]
    return copy(array.transpose(order)).transpose(back)


_generators: dict[Device, Any] = {}
_seeds: dict[str, int] = {}  # by type of device
_refusals: dict[Device, str] = {}  # why no numbers are drawn on a device at present


def manual_seed(seed: int) -> None:
    """Seed the default random generators of every device: the same seed gives the same numbers, run after run.

    Raises
    ------
    ValueError
        If ``seed`` is negative.
    """
    seed_devices("cpu", seed)
    seed_devices("cuda", seed)


def seed_devices(type: str, seed: int) -> None:
    """Seed the default random generators of the devices of one type, "cpu" or "cuda", whether there are any or not.

    Raises
    ------
    ValueError
        If ``seed`` is negative.
    """
    if seed < 0:
        raise ValueError(f"a seed must not be negative, got {seed}")
    _seeds[type] = seed
    for device in [device for device in _generators if device.type == type]:
        del _generators[device]


def generator(device: Device | str | None = None) -> Any:
    """Return the default random generator of a device (``numpy.random.Generator`` or CuPy's counterpart).

    Raises
    ------
    RuntimeError
        Inside `refusing_random`, with its reason.
    """
    target = as_device(device)
    if target in _refusals:
        raise RuntimeError(_refusals[target])
    if target not in _generators:
        _generators[target] = module_for(target).random.default_rng(_seeds.get(target.type))
    return _generators[target]


@contextmanager
def refusing_random(device: Device, reason: str) -> Iterator[None]:
    """Draw no numbers on ``device`` inside: whoever asks for its generator gets an error with the reason."""
    _refusals[device] = reason
    try:
        yield
    finally:
        del _refusals[device]


def random_states() -> dict[Device, Any]:
    """Return where the default random generators stand, for `repeated_random`.

    A GPU's generator cannot be read. One that has drawn numbers already is replaced by a new one, whose seed it draws.
    """
    states: dict[Device, Any] = {CPU: generator(CPU).bit_generator.state}
    for device in [device for device in _generators if device != CPU]:
        states[device] = int(generator(device).integers(0, 2**31 - 1))
        _generators[device] = module_for(device).random.default_rng(states[device])
    _seeds.setdefault("cuda", secrets.randbits(31))  # for one that is made only after this
    return states


@contextmanager
def repeated_random(states: dict[Device, Any]) -> Iterator[None]:
    """Draw the same numbers inside as were drawn after ``states`` was taken; afterwards go on as if nothing had been.

    In the ``with`` block `generator` returns other generators than outside it.
    """
    before = dict(_generators)
    _generators.clear()
    try:
        for device, where in states.items():
            _generators[device] = module_for(device).random.default_rng(0 if device == CPU else where)
        _generators[CPU].bit_generator.state = states[CPU]
        yield
    finally:
        _generators.clear()
        _generators.update(before)
