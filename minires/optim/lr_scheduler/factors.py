"""Schedules that multiply the learning rate: by a constant now and then, or along a line, or by any function."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

from minires.optim.lr_scheduler.base import LRScheduler, check_optimizer, check_positive_int
from minires.optim.optimizer import Optimizer

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class StepLR(LRScheduler):
    """Multiply by ``gamma`` after every ``step_size`` epochs: lr = base * gamma ** (epoch // step_size).

    Raises
    ------
    ValueError
        If ``step_size`` is not a positive whole number.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        check_positive_int("StepLR", step_size=step_size)
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        drops = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return self._present_times(self.gamma) if drops else self._present()


class MultiStepLR(LRScheduler):
    """Multiply by ``gamma`` at each of the ``milestones``, which are epochs; one named twice counts twice.

    Raises
    ------
    ValueError
        If a milestone is not a whole number.
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones = list(milestones)
        if not all(isinstance(milestone, Integral) for milestone in self.milestones):
            raise ValueError(f"MultiStepLR: milestones must be whole numbers, got {self.milestones}")
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        drops = self.milestones.count(self.last_epoch)
        return self._present_times(self.gamma**drops) if drops else self._present()


class ExponentialLR(LRScheduler):
    """Multiply by ``gamma`` at every epoch: lr = base * gamma ** epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        return self._present() if self.is_first else self._present_times(self.gamma)


class ConstantLR(LRScheduler):
    """Multiply by ``factor`` until epoch ``total_iters``, from then on by 1.

    Raises
    ------
    ValueError
        If ``factor`` is not above 0 and at most 1.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if not 0 < factor <= 1:  # PyTorch takes 0 and divides by it at the end
            raise ValueError(f"ConstantLR: factor must be above 0 and at most 1, got {factor}")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        if self.last_epoch == 0:
            return self._present_times(self.factor)
        return self._present_times(1 / self.factor) if self.last_epoch == self.total_iters else self._present()


class LinearLR(LRScheduler):
    """Multiply by a factor that goes in a line from ``start_factor`` to ``end_factor`` in ``total_iters`` epochs.

    Raises
    ------
    ValueError
        If ``start_factor`` is not above 0 and at most 1, or ``end_factor`` not from 0 to 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: start_factor must be above 0 and at most 1, got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor must be from 0 to 1, got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        if self.last_epoch == 0:
            return self._present_times(self.start_factor)
        if self.is_first or self.last_epoch > self.total_iters:
            return self._present()
        return self._present_times(self._factor(self.last_epoch) / self._factor(self.last_epoch - 1))

    def _factor(self, epoch: int) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * epoch / self.total_iters


class LambdaLR(LRScheduler):
    """Set lr = base * ``lr_lambda(epoch)``; a list gives each parameter group its own function.

    Functions are not saved; of callable objects their attributes are.

    Raises
    ------
    ValueError
        If the list has not one function for each group.
    """

    _unsaved = ("optimizer", "lr_lambdas")

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        check_optimizer("LambdaLR", optimizer)
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"LambdaLR: got {len(self.lr_lambdas)} functions for {groups} parameter groups")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        return [base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the optimizer and the functions; of callable objects their attributes."""
        attributes = [None if isinstance(f, _FUNCTIONS) else copy.deepcopy(vars(f)) for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": attributes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises
        ------
        ValueError
            If it is not the state of such a schedule.
        """
        super().load_state_dict(state_dict)
        for function, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                vars(function).update(copy.deepcopy(attributes))
