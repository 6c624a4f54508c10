"""Cosine annealing."""

from __future__ import annotations

import math

from minires.optim.lr_scheduler.base import LRScheduler, check_positive_int
from minires.optim.optimizer import Optimizer


class CosineAnnealingLR(LRScheduler):
    """Fall along half a cosine from the base learning rate to ``eta_min`` in ``T_max`` epochs, then rise again.

        lr = eta_min + (base - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    Loshchilov and Hutter 2017, "SGDR", equation 5, without the restarts.

    Raises
    ------
    ValueError
        If ``T_max`` is not a positive whole number.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        check_positive_int("CosineAnnealingLR", T_max=T_max)
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        if self.is_first:
            return self._present()
        before, now = self._height(self.last_epoch - 1), self._height(self.last_epoch)
        if (self.last_epoch - 1) % (2 * self.T_max) == self.T_max:  # at the bottom nothing is left to multiply
            return [lr + (base - self.eta_min) * now for lr, base in zip(self._present(), self.base_lrs, strict=True)]
        return [self.eta_min + (lr - self.eta_min) * now / before for lr in self._present()]

    def _height(self, epoch: int) -> float:
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2
