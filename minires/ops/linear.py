"""The affine map y = x w^T + b; dx = dy w, dw = dy^T x, db = the sum of dy over the batch."""

from __future__ import annotations

import math

from minires.autograd import Function, Tensor
from minires.dtypes import wide_dtype
from minires.kernels import kernels_for
from minires.ops.autocast import computes_in_half
from minires.ops.cast import cast


class Linear(Function):
    """(x, w, b) -> y; x (..., I), w (O, I), b (O,) or None, y (..., O)."""

    def forward(self, x, w, b):
        self.save(x if self.needs_grad[1] else None, w if self.needs_grad[0] else None)
        return kernels_for(x).linear(x, w, b)

    def backward(self, dy):
        x, w = self.saved
        batch = math.prod(dy.shape[:-1])  # every axis but the last is a batch axis
        rows = dy.reshape(batch, dy.shape[-1])
        dx = dy @ w if self.needs_grad[0] else None
        dw = rows.transpose(0, 1) @ x.reshape(batch, x.shape[-1]) if self.needs_grad[1] else None
        db = cast(rows.sum(0, dtype=wide_dtype(dy.dtype)), dy.dtype) if self.needs_grad[2] else None
        return dx, dw, db


@computes_in_half
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply the affine map ``input @ weight.T + bias``, as ``torch.nn.functional.linear``.

    Parameters
    ----------
    input : Tensor (..., I)
    weight : Tensor (O, I), or (I,) for a single output without its axis
    bias : Tensor (O,), optional

    Raises
    ------
    RuntimeError
        If the shapes or dtypes do not fit.
    """
    if weight.ndim == 1 and input.ndim and input.shape[-1] == weight.shape[0] and bias is None:
        return input @ weight
    if weight.ndim != 2 or not input.ndim or input.shape[-1] != weight.shape[1]:
        expected = f"a last axis of {weight.shape[1]}" if weight.ndim == 2 else "a weight (out_features, in_features)"
        raise RuntimeError(
            f"linear: input of shape {input.shape} and weight of shape {weight.shape} do not fit: expected {expected}"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise RuntimeError(
            f"linear: bias has shape {bias.shape}, the weight of shape {weight.shape} needs ({weight.shape[0]},)"
        )
    dtypes = {t.dtype for t in (input, weight, bias) if t is not None}
    if len(dtypes) > 1 or not input.is_floating_point():
        raise RuntimeError(
            f"linear needs equal floating-point dtypes, got input {input.dtype} and weight {weight.dtype}: convert one"
        )
    return Linear()(input, weight, bias)
