"""What a loss does with the losses of its elements: nothing ("none"), their sum, or their mean."""

from __future__ import annotations

from minires.autograd import Tensor

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(name: str, reduction: str) -> None:
    """Raise ValueError if ``reduction`` is none of "none", "mean" and "sum"."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'{name}: reduction must be "none", "mean" or "sum", got {reduction!r}')


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Return the elementwise ``loss`` as it is, its sum or its mean."""
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()
