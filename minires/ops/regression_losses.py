"""Losses of the difference between input and target: mse_loss, l1_loss, smooth_l1_loss."""

from __future__ import annotations

import warnings

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.autocast import computes_in_float32
from minires.ops.broadcast import broadcast_to
from minires.ops.loss_reduction import check_reduction, reduced
from minires.ops.pointwise import abs
from minires.ops.promotion import matched
from minires.ops.where import where


class SquaredError(Function):
    """y = (a - b)^2; da = 2 * (a - b) * dy, db = -da."""

    def forward(self, a, b):
        self.save(a, b)
        difference = a - b
        difference *= difference
        return difference

    def backward(self, dy):
        a, b = self.saved
        da = 2 * (a - b) * dy
        return da, -da if self.needs_grad[1] else None


class SmoothL1(Function):
    """With d = a - b, y = d^2 / (2 beta) where |d| < beta, else |d| - beta / 2.

    da = dy * d / beta where |d| < beta, else dy * sign(d); db = -da.
    """

    def __init__(self, beta: float):
        self.beta = beta

    def forward(self, a, b):
        self.save(a, b)
        xp = array_module(a)
        d = xp.abs(a - b)
        return xp.where(d < self.beta, (0.5 / self.beta) * d * d, d - 0.5 * self.beta)

    def backward(self, dy):
        a, b = self.saved
        d = a - b
        sign = Tensor(array_module(d.array).sign(d.array))
        da = where(abs(d) < self.beta, d / self.beta, sign) * dy
        return da, -da if self.needs_grad[1] else None


def _operands(name: str, input: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """Check what the losses here have in common; return input and target of one shape and dtype."""
    check_reduction(name, reduction)
    if not input.is_floating_point() and not target.is_floating_point():
        raise RuntimeError(f"{name} needs floating-point numbers, got {input.dtype} and {target.dtype}: use .float()")
    if input.shape != target.shape:
        warnings.warn(
            f"{name}: the target's shape {target.shape} differs from the input's {input.shape} and is broadcast, which "
            "is rarely what is meant: reshape one of them",
            stacklevel=5,
        )
    a, b = matched(name, input, target)
    shape = np.broadcast_shapes(a.shape, b.shape)
    return broadcast_to(a, shape), broadcast_to(b, shape)


@computes_in_float32
def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return the squared error (input - target)^2, reduced, as ``torch.nn.functional.mse_loss``.

    Parameters
    ----------
    input, target : Tensors of one shape; others are broadcast with a warning.
    reduction : "none", "sum" or "mean".

    PyTorch's deprecated ``size_average`` and ``reduce``, and its ``weight``, are left out.

    Raises
    ------
    ValueError, RuntimeError
        If the shapes do not broadcast, neither is floating-point, or the reduction is unknown.
    """
    return reduced(SquaredError()(*_operands("mse_loss", input, target, reduction)), reduction)


@computes_in_float32
def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return the absolute error |input - target|, reduced, as ``torch.nn.functional.l1_loss``. Its gradient at 0 is 0.

    Parameters and errors are those of `mse_loss`.
    """
    a, b = _operands("l1_loss", input, target, reduction)
    return reduced(abs(a - b), reduction)


@computes_in_float32
def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Return the error d = input - target as d^2 / (2 beta) below ``beta`` and |d| - beta / 2 above, reduced.

    As ``torch.nn.functional.smooth_l1_loss`` (Girshick 2015, "Fast R-CNN", equation 3); beta = 0 is `l1_loss`.
    Parameters and errors are those of `mse_loss`; a negative ``beta`` raises RuntimeError.
    """
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    a, b = _operands("smooth_l1_loss", input, target, reduction)
    return reduced(abs(a - b) if beta == 0 else SmoothL1(beta)(a, b), reduction)
