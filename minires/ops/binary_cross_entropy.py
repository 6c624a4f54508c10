"""Binary cross entropy of logits, and the logarithm of the sigmoid that it rests on."""

from __future__ import annotations

import numpy as np

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.autocast import computes_in_float32
from minires.ops.loss_reduction import check_reduction, reduced
from minires.ops.pointwise import expm1


class LogSigmoid(Function):
    """y = log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|)), which never overflows; dx = (1 - exp(y)) * dy."""

    def forward(self, x):
        xp = array_module(x)
        y = xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.abs(x)))
        self.save(y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return -expm1(y) * dy


@computes_in_float32
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy between sigmoid(input) and target, computed from the logits without overflow.

        loss = -weight * (pos_weight * target * log(sigmoid(input)) + (1 - target) * log(1 - sigmoid(input)))

    As ``torch.nn.functional.binary_cross_entropy_with_logits``, without its deprecated ``size_average`` and ``reduce``.

    Parameters
    ----------
    input : Tensor of logits.
    target : floating-point Tensor of the same shape, probabilities from 0 to 1.
    weight : Tensor that broadcasts to that shape, a factor for each element.
    reduction : "none", "sum" or "mean" (over all elements, whatever their weights).
    pos_weight : Tensor that broadcasts to that shape, a factor for the positive part.

    Raises
    ------
    ValueError, RuntimeError
        If shapes do not fit, a Tensor is not floating-point, or the reduction is unknown.
    """
    name = "binary_cross_entropy_with_logits"
    check_reduction(name, reduction)
    if target.shape != input.shape:
        raise ValueError(f"{name}: the target's shape {target.shape} must be that of the input, {input.shape}")
    for role, tensor in (("input", input), ("target", target), ("weight", weight), ("pos_weight", pos_weight)):
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise RuntimeError(f"{name}: the {role} must be floating-point, got {tensor.dtype}: use .float()")
        if not _broadcasts_to(tensor.shape, input.shape):
            raise RuntimeError(f"{name}: the {role}'s shape {tensor.shape} does not broadcast to {input.shape}")
    # (1 - t) * log(1 - s(x)) = (1 - t) * (log s(x) - x): one logarithm serves both parts
    log_weight = 1.0 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input - log_weight * LogSigmoid()(input)
    return reduced(loss if weight is None else loss * weight, reduction)


def _broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False
