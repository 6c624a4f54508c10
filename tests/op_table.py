"""The op table: one row for each op, from which tests/test_ops.py makes every test of that op against PyTorch.

    Row("exp", minires.exp, torch.exp, [Sample(normal(2, 3)), Sample(normal())])

A Sample holds what the op is called with. Inputs are recipes (`normal(2, 3)`) that draw a float64 array from a seeded
generator; every floating-point input is differentiated. Anything else is passed to both libraries as it is. ``bad``
holds calls that both libraries must refuse.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import minires
from minires.autograd import Tensor
from minires.device import to_device

ERRORS = (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError)


@dataclass(frozen=True)
class Recipe:
    """How to draw one input array; ``layout`` rearranges its memory without changing its values."""

    draw: Callable[[np.random.Generator], np.ndarray]
    layout: str = "contiguous"

    def __repr__(self) -> str:
        """Without the address of ``draw``: what is drawn for a sample is seeded with its text."""
        return "Recipe"

    def array(self, rng: np.random.Generator) -> np.ndarray:
        values = np.asarray(self.draw(rng))
        if self.layout == "channels_last":
            return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        if self.layout == "transposed":  # every axis in reverse order in memory
            return np.ascontiguousarray(values.T).T
        if self.layout == "strided":  # every second element of a larger array, read backwards
            spread = np.full((*values.shape[:-1], 2 * values.shape[-1]), np.nan, values.dtype)
            spread[..., ::2] = values[..., ::-1]
            return spread[..., ::2][..., ::-1]
        return values


def normal(*shape: int, layout: str = "contiguous") -> Recipe:
    return Recipe(lambda rng: rng.standard_normal(shape), layout)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, layout: str = "contiguous") -> Recipe:
    return Recipe(lambda rng: rng.uniform(low, high, shape), layout)


def integers(*shape: int, low: int = 0, high: int = 10) -> Recipe:
    return Recipe(lambda rng: rng.integers(low, high, shape))


def booleans(*shape: int) -> Recipe:
    return Recipe(lambda rng: rng.integers(0, 2, shape).astype(bool))


def values(data: Any, dtype: Any = None) -> Recipe:
    return Recipe(lambda rng: np.array(data, dtype))


class Sample:
    """One call of an op: its inputs by position, its options by name.

    ``kink`` marks inputs at which the op has no derivative (ties, corners): finite differences are not tried there.
    """

    def __init__(self, *inputs: Any, kink: bool = False, **options: Any):
        self.inputs = inputs
        self.options = options
        self.kink = kink

    def __repr__(self) -> str:
        described = [repr(i) for i in self.inputs]
        return f"Sample({', '.join([*described, *(f'{k}={v!r}' for k, v in self.options.items())])})"


@dataclass(frozen=True)
class Row:
    """One op. ``theirs`` defaults to ``ours``, for calls that read the same on both kinds of Tensor.

    ``second_order=False`` is for ops that PyTorch itself cannot differentiate twice.
    """

    name: str
    ours: Callable
    theirs: Callable | None = None
    samples: list[Sample] = field(default_factory=list)
    bad: list[Sample] = field(default_factory=list)
    second_order: bool = True

    def draw(self, sample: Sample) -> list[Any]:
        """The arrays (and other values) of a sample, the same at every call and in every process."""
        rng = np.random.default_rng(zlib.crc32(f"{self.name} {sample!r}".encode()))
        return [_draw(value, rng) for value in sample.inputs]

    def draw_options(self, sample: Sample) -> dict[str, Any]:
        """The options of a sample, arrays drawn likewise."""
        rng = np.random.default_rng(zlib.crc32(f"{self.name} options".encode()))
        return {name: _draw(value, rng) for name, value in sample.options.items()}


def _draw(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, Recipe):
        return value.array(rng)
    if isinstance(value, (list, tuple)):
        return type(value)(_draw(item, rng) for item in value)
    return value


def _map_arrays(value: Any, convert: Callable) -> Any:
    if isinstance(value, np.ndarray):
        return convert(value)
    if isinstance(value, dict):
        return {name: _map_arrays(item, convert) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_arrays(item, convert) for item in value)
    return value


def _leaves(value: Any, kind: type) -> list[Any]:
    if isinstance(value, kind):
        return [value]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item, kind)]
    return []


@dataclass
class Run:
    """An op applied by one library: NumPy arrays of its outputs and of its derivatives."""

    outputs: list[np.ndarray]
    gradients: list[np.ndarray]
    second: list[np.ndarray]


def run_ours(
    row: Row,
    sample: Sample,
    dtype: Any = np.float64,
    device: str = "cpu",
    gradients: bool = True,
    second: bool = False,
    rounding: Any = np.float64,
) -> Run:
    """Apply the op with minires; cotangents come from `_cotangent`. All numbers are rounded to ``rounding`` first."""

    def convert(array: np.ndarray) -> Tensor:
        floating = array.dtype.kind == "f"
        array = array.astype(rounding, copy=False).astype(dtype, copy=False) if floating else array
        return Tensor(to_device(array, device), requires_grad=floating and gradients)

    inputs = _map_arrays(row.draw(sample), convert)
    options = _map_arrays(row.draw_options(sample), convert)
    result = row.ours(*inputs, **options)
    outputs = _leaves(result, Tensor)
    run = Run([_numpy(output) for output in outputs], [], [])
    leaves = [leaf for leaf in _leaves([*inputs, *options.values()], Tensor) if leaf.requires_grad]
    outputs = [output for output in outputs if output.requires_grad]
    if not gradients or not outputs or not leaves:
        return run
    cotangents = [
        Tensor(to_device(_cotangent(o.shape, i, o.dtype, rounding), device), requires_grad=second)
        for i, o in enumerate(outputs)
    ]
    first = minires.autograd.grad(
        outputs, leaves, cotangents, create_graph=second, allow_unused=True, materialize_grads=True
    )
    run.gradients = [_numpy(g) for g in first]
    if second:
        wanted = [*leaves, *cotangents]
        directions = [
            Tensor(to_device(_cotangent(g.shape, 100 + i, g.dtype, rounding), device)) for i, g in enumerate(first)
        ]
        run.second = _second(minires.autograd.grad, first, wanted, directions, _numpy)
    return run


def run_torch(row: Row, sample: Sample, dtype: Any = torch.float64, second: bool = False, device: str = "cpu") -> Run:
    """Apply the op with PyTorch to the same arrays and cotangents."""

    def convert(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape).to(device)
        return tensor.to(dtype).requires_grad_() if array.dtype.kind == "f" else tensor

    inputs = _map_arrays(row.draw(sample), convert)
    options = _map_arrays(row.draw_options(sample), convert)
    result = (row.theirs or row.ours)(*inputs, **options)
    outputs = _leaves(result, torch.Tensor)
    run = Run([o.numpy(force=True) for o in outputs], [], [])
    leaves = [leaf for leaf in _leaves([*inputs, *options.values()], torch.Tensor) if leaf.requires_grad]
    outputs = [output for output in outputs if output.requires_grad]
    if not outputs or not leaves:
        return run
    cotangents = [
        convert(_cotangent(tuple(o.shape), i, np.float64)).detach().requires_grad_(second)
        for i, o in enumerate(outputs)
    ]
    first = torch.autograd.grad(
        outputs, leaves, cotangents, create_graph=second, allow_unused=True, materialize_grads=True
    )
    run.gradients = [g.numpy(force=True) for g in first]
    if second:
        wanted = [*leaves, *cotangents]
        directions = [convert(_cotangent(tuple(g.shape), 100 + i, np.float64)).detach() for i, g in enumerate(first)]
        run.second = _second(torch.autograd.grad, first, wanted, directions, lambda g: g.numpy(force=True))
    return run


def _second(grad: Callable, first: Any, wanted: list, directions: list, to_numpy: Callable) -> list[np.ndarray]:
    """The derivatives of <first, directions>; gradients that do not require grad are constant and add nothing."""
    varying = [(g, direction) for g, direction in zip(first, directions, strict=True) if g.requires_grad]
    if not varying:
        return [np.zeros_like(to_numpy(tensor)) for tensor in wanted]
    gradients, directions = zip(*varying, strict=True)
    second = grad(gradients, wanted, directions, allow_unused=True, materialize_grads=True)
    return [to_numpy(g) for g in second]


def _cotangent(shape: tuple[int, ...], number: int, dtype: Any, rounding: Any = np.float64) -> np.ndarray:
    return np.asarray(np.random.default_rng(number).standard_normal(shape)).astype(rounding).astype(dtype)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, what: str) -> None:
    """Equal shape and dtype kind; norm-wise relative error below ``tolerance``, with NaN and Inf in the same places."""
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch has {theirs.shape}"
    assert ours.dtype == theirs.dtype, f"{what}: dtype {ours.dtype}, PyTorch has {theirs.dtype}"
    if ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs, err_msg=what)
        return
    if ours.dtype == np.float32:  # what integers become: the libraries may differ in the last bits
        tolerance = max(tolerance, 1e-6)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(ours[~finite], theirs[~finite], err_msg=what)
    assert np.isfinite(ours[finite]).all(), f"{what}: not finite where PyTorch is"
    error = np.linalg.norm((ours[finite] - theirs[finite]).ravel())
    scale = max(np.linalg.norm(theirs[finite].ravel()), 1e-3)
    assert error <= tolerance * scale, f"{what}: relative error {error / scale:.2e} exceeds {tolerance:.0e}"
