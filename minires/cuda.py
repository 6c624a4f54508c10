"""What PyTorch keeps in ``torch.cuda``: asking for GPUs, seeding them, waiting for them, their memory, and graphs."""

from __future__ import annotations

from minires.device import Device, as_device, cuda_is_available, cupy, seed_devices, watched_memory
from minires.gpu_memory import OutOfMemoryError, in_units
from minires.graphed_step import GraphedStep
from minires.kernels.capture import CaptureError

__all__ = [
    "CaptureError",
    "GraphedStep",
    "OutOfMemoryError",
    "current_device",
    "device_count",
    "empty_cache",
    "is_available",
    "manual_seed_all",
    "max_memory_allocated",
    "memory_allocated",
    "memory_reserved",
    "memory_summary",
    "reset_peak_memory_stats",
    "synchronize",
]


def is_available() -> bool:
    """Tell whether ``"cuda"`` can be used here: CuPy is installed and a GPU answers. Never raises."""
    return cuda_is_available()


def device_count() -> int:
    """Return how many GPUs can be used: 0 where there is none, or no CuPy."""
    return cupy().cuda.runtime.getDeviceCount() if cuda_is_available() else 0


def current_device() -> int:
    """Return the number of the GPU on which CuPy works at present.

    Raises
    ------
    RuntimeError
        If no GPU can be used; the message says why.
    """
    return cupy().cuda.runtime.getDevice()


def manual_seed_all(seed: int) -> None:
    """Seed the default random generators of all GPUs. `minires.manual_seed` seeds them too, and the CPU's.

    Without a GPU there is nothing to seed, and no error.

    Raises
    ------
    ValueError
        If ``seed`` is negative.
    """
    seed_devices("cuda", seed)


def synchronize(device: Device | str | int | None = None) -> None:
    """Wait until a GPU, the current one unless told otherwise, has done all it was given: for honest timings.

    Raises
    ------
    RuntimeError
        If no GPU can be used; the message says why.
    ValueError
        If ``device`` is no GPU.
    """
    xp = cupy()
    with xp.cuda.Device(_number(device, "synchronize waits for a GPU")):
        xp.cuda.runtime.deviceSynchronize()


def memory_allocated(device: Device | str | int | None = None) -> int:
    """Return how many bytes of a GPU, the current one unless told otherwise, are in use by arrays.

    Raises
    ------
    RuntimeError, ValueError
        As `synchronize`; so do the other functions about memory.
    """
    xp = cupy()
    with xp.cuda.Device(_number(device, "memory is asked of a GPU")):
        return watched_memory(xp).used()


def memory_reserved(device: Device | str | int | None = None) -> int:
    """Return how many bytes of a GPU this process holds, in arrays or for the next ones."""
    xp = cupy()
    with xp.cuda.Device(_number(device, "memory is asked of a GPU")):
        return watched_memory(xp).held()


def max_memory_allocated(device: Device | str | int | None = None) -> int:
    """Return the most bytes that were in use at once, since the start or `reset_peak_memory_stats`."""
    return watched_memory(cupy()).peaks.get(_number(device, "memory is asked of a GPU"), 0)


def reset_peak_memory_stats(device: Device | str | int | None = None) -> None:
    """Count the peak from what is in use now."""
    number = _number(device, "memory is asked of a GPU")
    watched_memory(cupy()).peaks[number] = memory_allocated(number)


def memory_summary(device: Device | str | int | None = None) -> str:
    """Return a line about the memory of a GPU: used, held, peak, and free of how much."""
    xp, number = cupy(), _number(device, "memory is asked of a GPU")
    with xp.cuda.Device(number):
        free, total = xp.cuda.runtime.memGetInfo()
    used, held, peak = (f(number) for f in (memory_allocated, memory_reserved, max_memory_allocated))
    return (
        f"GPU {number}: {in_units(used)} used, {in_units(held)} held, {in_units(peak)} at the peak; "
        f"{in_units(free)} of {in_units(total)} free"
    )


def empty_cache() -> None:
    """Give memory that no array uses back to the device, for other processes."""
    watched_memory(cupy()).pool.free_all_blocks()


def _number(device: Device | str | int | None, what: str) -> int:
    """Return the number of a GPU; ``what`` begins the error if it is none."""
    if device is None:
        return current_device()
    target = Device("cuda", device) if isinstance(device, int) else as_device(device)
    if target.index is None:
        raise ValueError(f"{what}, got device {target}")
    return target.index
