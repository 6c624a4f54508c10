"""Compiling ahead: small cases that bring every kernel into memory, and with that onto the disk.

A kernel is compiled for the types it is called with. So that these are the ones that training meets, each case goes
through the public functions, as ops do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from minires.kernels import cpu
from minires.kernels.algorithm import conv_algorithm
from minires.kernels.cpu import cache, launch, team
from minires.kernels.geometry import Conv2dGeometry, Pool2dGeometry

PADDED = ((1, 1), (1, 1))
GEOMETRIES = {
    "convolution": Conv2dGeometry((2, 16, 8, 8), (32, 16, 3, 3), (2, 2), PADDED),
    "convolution of few channels": Conv2dGeometry((2, 3, 8, 8), (16, 3, 3, 3), (1, 1), PADDED),
    "grouped convolution": Conv2dGeometry((2, 16, 8, 8), (16, 4, 3, 3), (1, 1), PADDED, groups=4),
    "depthwise convolution": Conv2dGeometry((2, 16, 8, 8), (16, 1, 3, 3), (1, 1), PADDED, groups=16),
    "convolution by Winograd": Conv2dGeometry((2, 32, 8, 8), (32, 32, 3, 3), (1, 1), PADDED),
}


@dataclass(frozen=True)
class State:
    """What there is of compiled kernels: how many, how many of them this process has compiled, and their folder."""

    kernels: int
    compiled: int
    folder: Path | None


def warm_up(dtype: Any) -> Iterator[str]:
    """Compile every kernel for ``dtype``, or load it from the disk; yield what comes next before each step."""
    for name, step in steps(dtype).items():
        yield name
        step()


def state() -> State:
    """Return what this process has of compiled kernels."""
    found = kernels()
    compiled = sum(bool(kernel.stats.cache_misses) for kernel in found)
    return State(len(found), compiled, cache.folder())


def kernels() -> list[Dispatcher]:
    """Return all kernels, compiled or not, and what launches those that have been launched."""
    modules = [module for name, module in sys.modules.items() if name.startswith("minires.kernels.cpu.")]
    values = {id(value): value for module in modules for value in vars(module).values()}
    return [*(value for value in values.values() if isinstance(value, Dispatcher)), *launch.launchers.values()]


def steps(dtype: Any) -> dict[str, Callable[[], None]]:
    """Return what has to run for every kernel to be compiled, by what it is for."""
    dtype = np.dtype(dtype)
    convolutions = {name: _convolution(geometry, dtype) for name, geometry in GEOMETRIES.items()}
    return {
        **convolutions,
        "batch norm": lambda: _batch_norm(dtype),
        "pooling": lambda: _pooling(dtype),
        "matrix products": lambda: _matrix_products(dtype),
        "elementwise": lambda: _elementwise(dtype),
        "sums": lambda: _sums(dtype),
        "optimizers": lambda: _optimizers(dtype),
        "threads": _threads,
    }


def _convolution(geometry: Conv2dGeometry, dtype: np.dtype) -> Callable[[], None]:
    def run() -> None:
        x, w = np.zeros(geometry.input_shape, dtype), np.zeros(geometry.weight_shape, dtype)
        bias = np.zeros(len(w), dtype)
        with conv_algorithm("winograd"):
            y = cpu.conv2d(x, w, geometry)
            cpu.conv2d_input_grad(y, w, geometry)
            cpu.conv2d_weight_grad(x, y, geometry)
            cpu.conv2d_add_relu(x, w, bias, y, True, geometry)

    return run


def _batch_norm(dtype: np.dtype) -> None:
    x = np.zeros((2, 16, 8, 8), dtype)
    mean, var = cpu.batch_norm_statistics(x)
    y = cpu.batch_norm(x, mean, var, var, mean, x, True)
    cpu.batch_norm_grad(y, x, y, mean, var, var, mean, True, True, True)


def _pooling(dtype: np.dtype) -> None:
    x = np.zeros((2, 16, 8, 8), dtype)
    geometry = Pool2dGeometry(x.shape, (2, 2), (2, 2), (0, 0), (1, 1), (4, 4))
    y, indices = cpu.max_pool2d(x, geometry)
    cpu.max_pool2d_input_grad(y, indices, x.shape)
    cpu.adaptive_max_pool2d(x, (1, 1))
    cpu.sum_pool2d_input_grad(cpu.sum_pool2d(x, geometry), geometry)
    cpu.adaptive_avg_pool2d_input_grad(cpu.adaptive_avg_pool2d(x, (1, 1)), x.shape)


def _matrix_products(dtype: np.dtype) -> None:
    x, w = np.zeros((16, 64), dtype), np.zeros((32, 64), dtype)
    cpu.linear(x, w, np.zeros(32, dtype))
    cpu.linear(x[:1], np.zeros((256, 64), dtype), None)  # few rows: the dot products
    cpu.matmul(x, w.T.copy())


def _elementwise(dtype: np.dtype) -> None:
    x = np.zeros(launch.SERIAL_WORK, dtype)  # less is left to NumPy
    cpu.add(x, x)
    cpu.relu_grad(x, cpu.relu(x))
    cpu.erf(x)


def _sums(dtype: np.dtype) -> None:
    x = np.zeros((4, 1 << 16), dtype)
    cpu.sum_axes(x, (0,))
    cpu.sum_axes(x.reshape(1 << 16, 4), (1,))


def _optimizers(dtype: np.dtype) -> None:
    tensors = [[np.zeros(1, dtype)] for _ in range(5)]
    cpu.step_tensors("sgd", tensors[:3], *np.zeros(4), False, False, False)
    cpu.step_tensors("adam", tensors, *np.ones(7), False)


def _threads() -> None:
    """What helpers wait in: a job that says to end. And what runs a recorded sequence of jobs."""
    board = np.zeros(team.PLACES, np.int64)
    team.post(board, 0, 0, 0, 0)
    team.serve(board, 1)
    team.share_jobs(launch.NO_BOARDS, np.zeros((0, 4), np.int64))
