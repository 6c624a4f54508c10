"""Padding: a frame of constants, or of values mirrored, repeated or wrapped around from inside."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.dtypes import stored_number
from minires.ops.autocast import rounds_once

Widths = tuple[tuple[int, int], ...]  # (before, after) of each axis


class Pad(Function):
    """x -> x with a frame of ``value``; the gradient loses its frame."""

    def __init__(self, widths: Widths, value: float):
        self.widths = widths
        self.value = value

    def forward(self, x):
        shape = tuple(n + before + after for n, (before, after) in zip(x.shape, self.widths, strict=True))
        y = array_module(x).full_like(x, self.value, shape=shape)
        y[self._inside(x.shape)] = x
        return y

    def backward(self, dy):
        return dy[self._inside(self.input_shapes[0])]

    def _inside(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(before, before + n) for n, (before, _) in zip(shape, self.widths, strict=True))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Return ``input`` padded at its last axes.

    Parameters
    ----------
    pad : widths (last axis before, after, second last before, after, ...); negative ones crop, in mode "circular"
        before the rest is wrapped around.
    mode : "constant" on any axes; "reflect" (the edge itself not repeated), "replicate" (the edge repeated) or
        "circular" on the last 1, 2 or 3 axes, with one or two axes before them.
    value : the constant, 0 if left out; for mode "constant" only.

    Raises
    ------
    RuntimeError
        If there are too many or an odd number of widths, or too large a one to reflect or wrap around.
    NotImplementedError
        For an unknown mode or an unsupported number of axes.
    """
    flat = [operator.index(width) for width in pad]
    if len(flat) % 2 or len(flat) > 2 * input.ndim:
        raise RuntimeError(
            f"pad: {flat} must hold 2 widths for each padded axis of shape {input.shape}, the last first"
        )
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
    widths = ((0, 0),) * (input.ndim - len(pairs)) + pairs[::-1]
    for length, (before, after) in zip(input.shape, widths, strict=True):
        repeats_edges = mode in ("reflect", "replicate")  # which may lie beyond the other edge
        if length + before + after < 0 or (max(-before, -after) > length and not repeats_edges):
            raise RuntimeError(f"pad: widths {flat} crop more of shape {input.shape} than there is")
    if mode == "constant":
        return _constant(input, widths, 0 if value is None else value)
    if mode not in _SOURCES:
        raise NotImplementedError(f'pad: mode must be "constant", "reflect", "replicate" or "circular", got {mode!r}')
    if value is not None:
        raise RuntimeError(f'pad: mode "{mode}" takes its values from the input, value must be left out')
    if not 1 <= len(pairs) <= 3 or not 1 <= input.ndim - len(pairs) <= 2:
        raise NotImplementedError(
            f'pad: mode "{mode}" pads the last 1, 2 or 3 axes and leaves one or two before them, '
            f"got {len(flat)} widths for shape {input.shape}"
        )
    return _by_index(input, mode, widths)


@rounds_once
def _by_index(input: Tensor, mode: str, widths: Widths) -> Tensor:
    if mode == "circular":
        input, widths = _cropped(input, widths)
    for axis, (before, after) in enumerate(widths):
        if before or after:
            source = _SOURCES[mode](np.arange(-before, input.shape[axis] + after), input.shape[axis], (before, after))
            input = input[(*[slice(None)] * axis, source)]
    return input


def _constant(input: Tensor, widths: Widths, value: float) -> Tensor:
    number = stored_number("pad", float(value), input.dtype)
    input, widths = _cropped(input, widths)
    return Pad(widths, number)(input) if any(map(any, widths)) else input.clone()


def _cropped(input: Tensor, widths: Widths) -> tuple[Tensor, Widths]:
    """Cut off what negative widths say, and return the others."""
    if min(min(pair) for pair in (*widths, (0, 0))) >= 0:
        return input, widths
    input = input[tuple(slice(max(0, -b), n - max(0, -a)) for n, (b, a) in zip(input.shape, widths, strict=True))]
    return input, tuple((max(0, before), max(0, after)) for before, after in widths)


def _reflected(places: np.ndarray, length: int, widths: tuple[int, int]) -> np.ndarray:
    if max(widths) >= length:
        raise RuntimeError(f"pad: to reflect, widths {widths} must be less than the length of their axis, {length}")
    return length - 1 - np.abs(length - 1 - np.abs(places))


def _replicated(places: np.ndarray, length: int, widths: tuple[int, int]) -> np.ndarray:
    if not length:
        raise RuntimeError("pad: an axis without elements has no edge to replicate")
    return places.clip(0, length - 1)


def _wrapped(places: np.ndarray, length: int, widths: tuple[int, int]) -> np.ndarray:
    if max(widths) > length:
        raise RuntimeError(
            f"pad: to wrap around once, widths {widths} must not exceed the length {length} of their axis"
        )
    return places % length


_SOURCES = {"reflect": _reflected, "replicate": _replicated, "circular": _wrapped}
