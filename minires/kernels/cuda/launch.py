"""Where and how kernels are launched: the backend, the geometry of grids, and the arguments.

The launchers beside this file ask the backend for memory and hand it launches. On a GPU that is `gpu.Gpu`; the tests
put one in its place that runs the same texts on the host, so that geometry and arguments are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from minires.device import Array
from minires.kernels.capture import current_capture
from minires.kernels.cuda.source import VECTOR_BYTES, instance

THREADS = 256  # to a block
MAX_BLOCKS = 1 << 12  # fill the largest GPU several times over; kernels step on until all is done

Size3 = tuple[int, int, int]


class Backend(Protocol):
    """What launchers need of a device."""

    def __hash__(self) -> int: ...

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of any content."""

    def from_host(self, array: np.ndarray) -> Array:
        """Return a copy of ``array`` on the device."""

    def pointer(self, array: Array) -> int:
        """Return the address of the first element of ``array``."""

    def run(self, source: str, kernel: str, grid: Size3, block: Size3, arguments: tuple[Any, ...]) -> None:
        """Run a kernel of a source, both by name. Arguments are arrays, None (a null pointer) or NumPy scalars."""

    def blas(self) -> Any:
        """Return the `blas.Blas` of this device."""


_substitute: Backend | None = None


def backend() -> Backend:
    """Return the backend in force: the current GPU, unless `running_on` put another in its place."""
    if _substitute is not None:
        return _substitute
    from minires.kernels.cuda.gpu import current_gpu

    return current_gpu()


@contextmanager
def running_on(other: Backend) -> Iterator[None]:
    """Run all kernels inside on another backend."""
    global _substitute
    before, _substitute = _substitute, other
    try:
        yield
    finally:
        _substitute = before


def launch(source: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
    """Run a kernel; a Python bool or int is passed as a 32-bit int, and no block at all is no launch.

    Raises
    ------
    OverflowError
        If an int does not fit in 32 bits.
    """
    if 0 in grid:
        return
    backend().run(source, kernel, _three(grid), _three(block), tuple(_argument(value) for value in arguments))


def launch_over(source: str, kernel: str, size: int, width: int, *arguments: Any) -> None:
    """Run a kernel over ``size`` elements, ``width`` to a thread; the size is its last argument, as 64 bits."""
    if size:
        launch(source, kernel, (blocks(size, THREADS * width),), (THREADS,), *arguments, np.int64(size))


def blocks(items: int, at_once: int) -> int:
    """Return how many blocks to launch for ``items`` of which a block does ``at_once`` at a time."""
    return min(-(-items // at_once), MAX_BLOCKS)


def vector_width(length: int, *arrays: Array | None) -> int:
    """Return how many neighbours to move at once: vectors of 16 bytes if they divide ``length``, else 1.

    ``arrays``, of one dtype, must begin at a multiple of 16 bytes too.
    """
    given = [array for array in arrays if array is not None]
    width = VECTOR_BYTES // given[0].itemsize
    aligned = all(backend().pointer(array) % VECTOR_BYTES == 0 for array in given)
    return width if aligned and length % width == 0 else 1


def upload(array: np.ndarray) -> Array:
    """Return a copy of ``array`` on the device; during a capture its memory alone, which is filled at the end."""
    capture = current_capture()
    if capture is None:
        return backend().from_host(array)
    return capture.later(backend().empty(array.shape, array.dtype), array)


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array of zeros."""
    array = backend().empty(shape, dtype)
    array[...] = 0
    return array


def named(kernel: str, array: Array, width: int | None = None) -> str:
    """Return the name of a kernel for arrays such as ``array``."""
    return instance(kernel, array.dtype, width)


def _three(size: tuple[int, ...]) -> Size3:
    x, y, z = (*size, 1, 1)[:3]
    return x, y, z


def _argument(value: Any) -> Any:
    if not isinstance(value, int):  # a bool is one too
        return value
    if not -(2**31) <= value < 2**31:
        raise OverflowError(f"the CUDA kernels count sides and channels in 32 bits, got {value}")
    return np.int32(value)
