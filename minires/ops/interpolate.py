"""Resizing planes by nearest-neighbour or bilinear interpolation.

Both are linear and separable: along each axis, output pixel p mixes a few source pixels with fixed weights,

    y[p] = sum over taps t of  weight_t[p] * x[index_t[p]]

with one tap for nearest and two for bilinear. The transpose sends each dy[p] back to the same pixels with the same
weights; each of the two is the derivative of the other.

Which source pixels, is a matter of coordinates. With ``ratio`` = source pixels per output pixel, 1 / scale_factor where
a scale factor was given and input / output size where not,

    nearest                          index = floor(p * ratio)
    bilinear                         position = max((p + 0.5) * ratio - 0.5, 0)     pixel centres correspond
    bilinear with align_corners      position = p * (input - 1) / (output - 1)      corner pixels correspond

and a position between two pixels is shared in proportion. These are PyTorch's formulas, to the rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.kernels.layout import from_nhwc
from minires.ops.autocast import rounds_once
from minires.ops.geometry import IntOrPair, Pair, check_operands, checked_planes, pair

MANY = 16  # lines that are added to one

Taps = tuple[tuple[np.ndarray, np.ndarray | None], ...]  # (index, weight) pairs, each (P,); a weight of None is 1


class Resample(Function):
    """x (N, C, H, W) -> y, resampled along ``axis`` (2 or 3) to as many pixels as the taps are long."""

    def __init__(self, axis: int, taps: Taps):
        self.axis = axis
        self.taps = taps

    def forward(self, x):
        xp = array_module(x)
        nhwc, axis = x.transpose(0, 2, 3, 1), self.axis - 1
        along = tuple(-1 if a == axis else 1 for a in range(4))
        y = None
        for index, weight in self.taps:
            term = xp.take(nhwc, xp.asarray(index), axis=axis)  # a copy, so it may be scaled in place
            if weight is not None:
                term *= xp.asarray(weight, x.dtype).reshape(along)
            y = term if y is None else y + term
        return from_nhwc(xp.ascontiguousarray(y))

    def backward(self, dy):
        return ResampleTranspose(self.axis, self.taps, self.input_shapes[0])(dy)


class ResampleTranspose(Function):
    """dy -> dx (N, C, H, W), the transpose: every line of dy is added to the lines it was mixed from."""

    def __init__(self, axis: int, taps: Taps, input_shape: tuple[int, ...]):
        self.axis = axis
        self.taps = taps
        self.input_shape = input_shape

    def forward(self, dy):
        xp = array_module(dy)
        n, c, h, w = self.input_shape
        # Many lines that are added one after another lose digits in the dtype of dy.
        dtype = np.float64 if dy.shape[self.axis] > MANY * self.input_shape[self.axis] else dy.dtype
        dx = from_nhwc(xp.zeros((n, h, w, c), dtype))
        dx_lines, dy_lines = xp.moveaxis(dx, self.axis, 0), xp.moveaxis(dy, self.axis, 0)
        for index, weight in self.taps:
            for p, source in enumerate(index.tolist()):
                dx_lines[source] += dy_lines[p] if weight is None else dy_lines[p] * float(weight[p])
        return dx.astype(dy.dtype, copy=False)

    def backward(self, ddx):
        return Resample(self.axis, self.taps)(ddx)


@rounds_once
def interpolate(
    input: Tensor,
    size: IntOrPair | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize images to ``size`` or by ``scale_factor``, as ``torch.nn.functional.interpolate`` does.

    Parameters
    ----------
    input : Tensor (N, C, H, W) of floats; N may be 0
    size : int or (int, int), positive: the output size P x Q
    scale_factor : float or (float, float), positive: P = floor(H * scale_factor), Q alike; either this or ``size``
    mode : "nearest" or "bilinear"; PyTorch's other modes are not offered
    align_corners : for "bilinear": whether the centres of the corner pixels, rather than the outer edges, correspond
    recompute_scale_factor : sample at the ratio of the sizes, where rounding them down changed it, rather than at
        1 / ``scale_factor``
    antialias : must be False; it stands here so that PyTorch's calls read the same

    Returns
    -------
    Tensor (N, C, P, Q)

    Raises
    ------
    ValueError
        If not exactly one of ``size`` and ``scale_factor`` is given, or for an option that does not go with the others.
    NotImplementedError
        For another mode or number of axes, or antialias.
    TypeError
        If the input is not a Tensor, a size not an integer, or a factor not a number.
    RuntimeError
        If a size is not positive or the input has no pixels.

    Examples
    --------
    >>> x = minires.tensor([[[[0.0, 1.0]]]])
    >>> interpolate(x, (1, 4), mode="bilinear").numpy()[0, 0]
    array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    check_operands("interpolate", input)
    if mode not in ("nearest", "bilinear") or input.ndim != 4:
        raise NotImplementedError(
            f'interpolate offers mode="nearest" and "bilinear" for inputs (N, C, H, W), got mode={mode!r} and an input '
            f"of shape {input.shape}"
        )
    if antialias:
        raise NotImplementedError("interpolate offers no antialias: blur with avg_pool2d before downsampling")
    if mode == "nearest" and align_corners is not None:
        raise ValueError('interpolate: align_corners goes with mode="bilinear" only: leave it out')
    checked_planes("interpolate", input.shape)
    size, scale_factors = _output_size(input.shape, size, scale_factor, bool(recompute_scale_factor))
    for axis, length, factor in zip((2, 3), size, scale_factors, strict=True):
        if mode == "nearest":
            taps = _nearest_taps(input.shape[axis], length, factor)
        else:
            taps = _linear_taps(input.shape[axis], length, factor, bool(align_corners), input.dtype)
        input = Resample(axis, taps)(input)
    return input


def _output_size(
    input_shape: tuple[int, ...], size: Any, scale_factor: Any, recompute: bool
) -> tuple[Pair, tuple[float | None, float | None]]:
    """Return the output size, and along each axis the factor that sets the sampling ratio, if one does."""
    if (size is None) == (scale_factor is None):
        given = "neither" if size is None else f"size={size!r} and scale_factor={scale_factor!r}"
        raise ValueError(f"interpolate needs either size or scale_factor, got {given}")
    for name, value in (("size", size), ("scale_factor", scale_factor)):
        if isinstance(value, (tuple, list)) and len(value) != 2:
            raise ValueError(f"interpolate: {name} must be one number, or two for (height, width), got {value!r}")
    if size is not None:
        if recompute:
            raise ValueError("interpolate: recompute_scale_factor goes with scale_factor, not with size: leave it out")
        return pair("interpolate", "size", size), (None, None)
    factors = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
    for factor in factors:
        if not isinstance(factor, (int, float, np.number)):
            raise TypeError(f"interpolate: scale_factor must be a number or two, got {scale_factor!r}")
    lengths = [
        length * factor if math.isfinite(factor) else 0 for length, factor in zip(input_shape[2:], factors, strict=True)
    ]
    if min(lengths) < 1:
        raise RuntimeError(
            f"interpolate: scale_factor={scale_factor!r} leaves no pixel of an input of shape {input_shape}, or is not "
            "finite: use a larger factor, or give the size"
        )
    return (int(lengths[0]), int(lengths[1])), ((None, None) if recompute else factors)


def _nearest_taps(length: int, outputs: int, factor: float | None) -> Taps:
    """PyTorch computes in float32 whatever the dtype, and takes equal and doubled lengths exactly."""
    p = np.arange(outputs)
    if outputs == length:
        return ((p, None),)
    if outputs == 2 * length:
        return ((p // 2, None),)
    ratio = np.float32(1 / factor) if factor is not None else np.float32(length) / np.float32(outputs)
    index = np.floor(p.astype(np.float32) * ratio).astype(np.int64)
    return ((np.minimum(index, length - 1), None),)


def _linear_taps(length: int, outputs: int, factor: float | None, align_corners: bool, dtype: np.dtype) -> Taps:
    """Positions are computed in ``dtype``, float32 or float64; equal lengths are taken exactly."""
    p = np.arange(outputs)
    if outputs == length:
        return ((p, None),)
    if align_corners:
        position = p.astype(dtype) * (dtype.type(length - 1) / dtype.type(max(outputs - 1, 1)))
    else:
        ratio = dtype.type(1 / factor) if factor is not None else dtype.type(length) / dtype.type(outputs)
        position = np.maximum((p.astype(dtype) + dtype.type(0.5)) * ratio - dtype.type(0.5), 0)
    low = np.minimum(position.astype(np.int64), length - 1)
    high = np.minimum(low + 1, length - 1)
    share = np.clip(position - low.astype(dtype), 0, 1)
    return (low, 1 - share), (high, share)
