"""Schedules one after the other, and the most common pair: a linear warm-up, then a cosine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from minires.optim.lr_scheduler.base import LRScheduler, check_positive_int
from minires.optim.lr_scheduler.cosine import CosineAnnealingLR
from minires.optim.lr_scheduler.factors import LinearLR
from minires.optim.optimizer import Optimizer


class SequentialLR(LRScheduler):
    """Run each of ``schedulers`` until the next of the ``milestones``; each begins from the initial learning rates.

    Parameters
    ----------
    schedulers : schedules of ``optimizer``.
    milestones : the epochs at which the second, third, ... schedule begins: one fewer than there are schedules.

    Raises
    ------
    ValueError
        If the numbers do not fit, a schedule belongs to another optimizer, or the milestones do not rise.
    """

    _unsaved = ("optimizer", "_schedulers")

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]):
        self._schedulers = list(schedulers)
        self.milestones = list(milestones)
        if len(self.milestones) != len(self._schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(self._schedulers)} schedules need {max(len(self._schedulers) - 1, 0)} milestones "
                f"between them, got {len(self.milestones)}"
                if self._schedulers
                else "SequentialLR got no schedule"
            )
        if self.milestones != sorted(set(self.milestones)) or min(self.milestones, default=0) < 0:
            raise ValueError(f"SequentialLR: milestones must rise from 0 on, got {self.milestones}")
        for index, scheduler in enumerate(self._schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"SequentialLR: schedule {index} is a {type(scheduler).__name__}")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedule {index} belongs to another optimizer")
        super().__init__(optimizer)

    def _begin(self) -> None:
        # Making the schedules has set their first learning rates one over the other: undone by beginning again.
        self._advance()

    def _restart(self) -> None:
        self.last_epoch = -1
        self._advance()

    def _advance(self) -> None:
        self._step_count += 1
        self.last_epoch += 1
        index = bisect_right(self.milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if self.last_epoch == (self.milestones[index - 1] if index else 0):
            scheduler._restart()
        else:
            scheduler._advance()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the optimizer, with the state of each schedule."""
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises
        ------
        ValueError
            If it is not the state of such schedules.
        """
        super().load_state_dict(state_dict)
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        super()._check_state(state_dict)
        states = state_dict["_schedulers"]
        if len(states) != len(self._schedulers):
            raise ValueError(f"the state has {len(states)} schedules, this SequentialLR {len(self._schedulers)}")
        for scheduler, state in zip(self._schedulers, states, strict=True):
            scheduler._check_state(state)


def warmup_cosine(
    optimizer: Optimizer, warmup_steps: int, total_steps: int, start_factor: float = 0.01, eta_min: float = 0.0
) -> LRScheduler:
    """Return a schedule that rises in a line in ``warmup_steps`` and falls along a cosine until ``total_steps``.

    Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2, for the warm-up.

    Parameters
    ----------
    start_factor : the first learning rate is this part of the base learning rate, above 0 and at most 1.
    eta_min : the last learning rate.

    Raises
    ------
    ValueError
        If ``warmup_steps`` is negative or not below ``total_steps``.
    """
    check_positive_int("warmup_cosine", total_steps=total_steps)
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must be from 0 to below total_steps={total_steps}, got {warmup_steps}")
    if warmup_steps == 0:
        return CosineAnnealingLR(optimizer, total_steps, eta_min)
    warmup = LinearLR(optimizer, start_factor, total_iters=warmup_steps)
    cosine = CosineAnnealingLR(optimizer, total_steps - warmup_steps, eta_min)
    return SequentialLR(optimizer, [warmup, cosine], milestones=[warmup_steps])
