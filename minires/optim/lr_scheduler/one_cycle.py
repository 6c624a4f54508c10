"""The 1cycle schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minires.optim.lr_scheduler.base import LRScheduler, check_optimizer, check_positive_int
from minires.optim.optimizer import Optimizer


class OneCycleLR(LRScheduler):
    """Raise the learning rate to ``max_lr``, then let it fall to nearly nothing; momentum goes the other way.

    To be stepped after each batch. Smith and Topin 2017, "Super-Convergence"; two phases unless ``three_phase``.

    Parameters
    ----------
    max_lr : the highest learning rate; a list gives one for each parameter group, as do lists of momenta.
    total_steps : the length in batches; or ``epochs`` and ``steps_per_epoch``, whose product it then is.
    pct_start : the part of the cycle, 0 to 1, in which the learning rate rises.
    anneal_strategy : "cos" or "linear".
    cycle_momentum : move the momentum (Adam: beta1) between ``max_momentum`` and ``base_momentum`` too.
    div_factor : the first learning rate is max_lr / div_factor,
    final_div_factor : and the last one that divided by this.
    three_phase : fall as long as it rose, back to the first learning rate, and only then to the last one.

    Raises
    ------
    ValueError
        If the length is missing or not positive, another option is out of range, or the optimizer has no momentum.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        check_optimizer("OneCycleLR", optimizer)
        self.total_steps = _length(total_steps, epochs, steps_per_epoch)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be from 0 to 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'OneCycleLR: anneal_strategy must be "cos" or "linear", got {anneal_strategy!r}')
        if cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError(
                f"OneCycleLR: {type(optimizer).__name__} has neither momentum nor betas to cycle: "
                "pass cycle_momentum=False"
            )
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.three_phase = three_phase
        if last_epoch == -1:
            groups = optimizer.param_groups
            lrs = _for_each_group("max_lr", max_lr, len(groups))
            low = _for_each_group("base_momentum", base_momentum, len(groups))
            high = _for_each_group("max_momentum", max_momentum, len(groups))
            for group, lr, base, top in zip(groups, lrs, low, high, strict=True):
                group["max_lr"] = lr
                group["initial_lr"] = lr / div_factor
                group["min_lr"] = group["initial_lr"] / final_div_factor
                if cycle_momentum:
                    group["base_momentum"], group["max_momentum"] = base, top
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`, and set its momentum.

        Raises
        ------
        ValueError
            If the cycle has ended.
        """
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"OneCycleLR was made for {self.total_steps} steps and cannot take step {self.last_epoch}: "
                "total_steps must be the number of optimizer steps"
            )
        position, ends, momenta = self._phase()
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(self._between(group[ends[0]], group[ends[1]], position))
            if self.cycle_momentum:
                momentum = self._between(group[momenta[0]], group[momenta[1]], position)
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return lrs

    def _phase(self) -> tuple[float, tuple[str, str], tuple[str, str]]:
        """Return how far the present phase is, 0 to 1, and between which learning rates and momenta it leads."""
        rise = self.pct_start * self.total_steps
        last = self.total_steps - 1
        up, down = ("max_momentum", "base_momentum"), ("base_momentum", "max_momentum")
        if self.three_phase:
            phases = [
                (rise - 1, ("initial_lr", "max_lr"), up),
                (2 * rise - 2, ("max_lr", "initial_lr"), down),
                (last, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
            ]
        else:
            phases = [(rise - 1, ("initial_lr", "max_lr"), up), (last, ("max_lr", "min_lr"), down)]
        begin = 0.0
        while len(phases) > 1 and self.last_epoch > phases[0][0]:
            begin = phases.pop(0)[0]
        end, lrs, momenta = phases[0]
        return (self.last_epoch - begin) / (end - begin) if end != begin else 1.0, lrs, momenta

    def _between(self, start: float, end: float, position: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * position
        return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def _length(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        check_positive_int("OneCycleLR", total_steps=total_steps)
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError("OneCycleLR needs its length: total_steps, or epochs and steps_per_epoch")
    check_positive_int("OneCycleLR", epochs=epochs, steps_per_epoch=steps_per_epoch)
    return epochs * steps_per_epoch


def _for_each_group(name: str, value: float | Sequence[float], groups: int) -> list[float]:
    if not isinstance(value, Sequence):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"OneCycleLR: {name} has {len(value)} values for {groups} parameter groups")
    return list(value)
