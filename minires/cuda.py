"""What PyTorch keeps in ``torch.cuda``: asking for GPUs, seeding them and waiting for them."""

from __future__ import annotations

from minires.device import Device, as_device, cuda_is_available, cupy, seed_devices


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
    if device is None:
        index = current_device()
    else:
        target = Device("cuda", device) if isinstance(device, int) else as_device(device)
        if target.index is None:
            raise ValueError(f"synchronize waits for a GPU, got device {target}")
        index = target.index
    with xp.cuda.Device(index):
        xp.cuda.runtime.deviceSynchronize()
