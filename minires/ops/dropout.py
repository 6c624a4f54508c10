"""Dropout: in training each element is zeroed with probability p and the rest scaled by 1 / (1 - p)."""

from __future__ import annotations

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import Array, device_of, generator
from minires.dtypes import wide_dtype
from minires.ops.changes import change


class Dropout(Function):
    """y = x * kept * scale for a constant boolean mask; dx = dy * kept * scale."""

    def __init__(self, kept: Array, scale: float):
        self.kept = kept
        self.scale = scale

    def forward(self, x):
        y = (x * self.kept).astype(wide_dtype(x.dtype), copy=False)  # in 16 bits the scale itself would be rounded
        y *= self.scale
        return y.astype(x.dtype, copy=False)

    def backward(self, dy):
        return Dropout(self.kept, self.scale)(dy)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p); evaluation returns the input.

    As ``torch.nn.functional.dropout`` (Srivastava et al. 2014, "Dropout", section 10 for the scale). The mask comes
    from the default generator of the input's device: `minires.manual_seed` repeats it. With ``inplace`` the input
    becomes the result and is returned.

    Raises
    ------
    ValueError
        If ``p`` is not between 0 and 1.
    RuntimeError
        In training, if the input is not floating-point.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: the probability must lie between 0 and 1, got {p}")
    if not training or p == 0.0:
        return input
    if not input.is_floating_point():
        raise RuntimeError(f"dropout needs a floating-point input in training, got {input.dtype}: use .float()")
    # p = 1 drops everything: the scale 1 / (1 - p) has no value there, and none is needed
    function = Dropout(_kept(input.array, p), 1.0 / (1.0 - p) if p < 1.0 else 1.0)
    return change(input, function, is_activation=True) if inplace else function(input)


def _kept(x: Array, p: float) -> Array:
    """Draw which elements stay, in the order in which they lie in memory: one pass over a channels-last array too."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    shape = tuple(x.shape[axis] for axis in order)
    kept = generator(device_of(x)).random(shape, dtype=np.float32) >= p
    return kept.transpose([order.index(axis) for axis in range(x.ndim)])
