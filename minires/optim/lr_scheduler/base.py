"""LRScheduler: what all schedules share."""

from __future__ import annotations

import copy
import warnings
from numbers import Integral
from typing import Any

from minires.optim.optimizer import Optimizer


class LRScheduler:
    """The base of all schedules. A subclass defines `get_lr`; it is called at construction and at each `step`.

    Parameters
    ----------
    optimizer : the Optimizer whose learning rates are set.
    last_epoch : the epoch before the first; other than -1 when going on with an optimizer whose groups hold
        "initial_lr" already.

    Attributes
    ----------
    last_epoch : how often the schedule was stepped: an epoch, or a batch if it is stepped after each batch.
    base_lrs : the learning rate of each group at the start.

    Raises
    ------
    TypeError
        If ``optimizer`` is no Optimizer.
    KeyError
        If ``last_epoch`` is not -1 and a group has no "initial_lr".
    """

    _unsaved: tuple[str, ...] = ("optimizer",)
    is_first = False  # whether `get_lr` is asked for the first value rather than for that of a further step

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        check_optimizer(type(self).__name__, optimizer)
        self.optimizer = optimizer
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"last_epoch={last_epoch} goes on with an earlier schedule, but parameter group {index} holds no "
                    '"initial_lr": load the optimizer\'s state first, or leave last_epoch out'
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._last_lr: list[float] = []
        self._begin()

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`. To read the present ones use `get_last_lr`."""
        raise NotImplementedError(f"{type(self).__name__} defines no get_lr")

    def get_last_lr(self) -> list[float]:
        """Return the learning rate of each group as it was last set."""
        return self._last_lr

    def step(self) -> None:
        """Go on by one epoch, or by one batch; call it after the optimizer's own step."""
        counts_its_steps = type(self.optimizer).step is Optimizer.step
        if self._step_count == 1 and counts_its_steps and self.optimizer.step_calls == 0:
            warnings.warn(
                f"{type(self).__name__}.step() was called before the first optimizer.step(), which skips the first "
                "learning rate of the schedule: step the optimizer first",
                stacklevel=2,
            )
        self._advance()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the optimizer. The learning rates themselves are in the optimizer's state."""
        return copy.deepcopy({name: value for name, value in vars(self).items() if name not in self._unsaved})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; load the optimizer's state too.

        Raises
        ------
        ValueError
            If it is not the state of such a schedule.
        """
        self._check_state(state_dict)
        vars(self).update(
            copy.deepcopy({name: value for name, value in state_dict.items() if name not in self._unsaved})
        )

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        own = self.state_dict()
        missing, unknown = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
        if missing or unknown:
            raise ValueError(
                f"this is not the state of a {type(self).__name__}: missing {missing or 'nothing'}, "
                f"unknown {unknown or 'nothing'}"
            )
        for name in ("last_epoch", "_step_count"):
            if not isinstance(state_dict[name], Integral) or state_dict[name] < 0:
                raise ValueError(f"{name} must be a whole number of at least 0, got {state_dict[name]!r}")
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            raise ValueError(
                f"the state has {len(state_dict['base_lrs'])} learning rates, the optimizer {len(self.base_lrs)} groups"
            )

    def _begin(self) -> None:
        """Set the first learning rates."""
        self.is_first = True
        self._advance()
        del self.is_first

    def _restart(self) -> None:
        """Begin again from the initial learning rates, as when a `SequentialLR` hands over."""
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr
        self.last_epoch = -1
        self._begin()

    def _advance(self) -> None:
        self._step_count += 1
        self.last_epoch += 1
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise RuntimeError(
                f"{type(self).__name__} was made for {len(self.base_lrs)} parameter groups, the optimizer now has "
                f"{len(groups)}: make the schedule after the last add_param_group"
            )
        for group, lr in zip(groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self._present()

    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _present_times(self, factor: float) -> list[float]:
        return [lr * factor for lr in self._present()]


def check_optimizer(schedule: str, optimizer: Any) -> None:
    """Raise TypeError if ``optimizer`` is no Optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{schedule} needs an Optimizer, got {type(optimizer).__name__}")


def check_positive_int(schedule: str, **values: Any) -> None:
    """Raise ValueError if one of these options is not a whole number above 0."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value <= 0:
            raise ValueError(f"{schedule}: {name} must be a whole number above 0, got {value!r}")
