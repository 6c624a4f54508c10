"""Recipes: how long and how fast a net is trained, and the optimizer and the schedule that follow from that."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from minires.io import shown
from minires.nn import Parameter
from minires.optim import SGD
from minires.optim.lr_scheduler import ConstantLR, MultiStepLR, OneCycleLR, SequentialLR

LARGEST = sys.float_info.max
LONGEST = 2**53  # updates or epochs: up to here floats count exactly
SCHEDULES = ("one-cycle", "multi-step")
DEEP_CIFAR_NETS = ("resnet110", "resnet1202", "plain110")


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum, its schedule, and how long it runs.

    Attributes
    ----------
    name : what it is called on the command line
    epochs, steps : the length, one of the two; a step is one update
    batch_size : images in a step
    learning_rate : the highest one of the schedule
    momentum, weight_decay, nesterov : as for `minires.optim.SGD`
    schedule : "one-cycle" rises for 30 % of the steps and falls to nearly nothing along a cosine (Smith and Topin
        2017); "multi-step" divides by 10 at each of the milestones
    milestones : where the learning rate drops, as fractions of all steps
    warmup_steps : before a multi-step schedule, steps at a tenth of the learning rate
    label_smoothing : the share of each target that is spread over all classes

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    name: str
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: str = "one-cycle"
    milestones: tuple[float, ...] = ()
    warmup_steps: int = 0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give the length in epochs or in steps, got epochs={self.epochs} and steps={self.steps}")
        for name, least in {"epochs": 1, "steps": 1, "batch_size": 1, "warmup_steps": 0}.items():
            value = getattr(self, name)
            if name in ("epochs", "steps") and value is None:
                continue
            if not _is_number(value, Integral) or not least <= value <= LONGEST:
                raise ValueError(f"{name.replace('_', ' ')} must be at least {least}, got {shown(value)}")
        if not (_is_number(self.learning_rate) and 0 < self.learning_rate <= LARGEST):
            raise ValueError(f"the learning rate must be a positive number, got {shown(self.learning_rate)}")
        for name in ("momentum", "label_smoothing"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < 1):
                raise ValueError(f"{name.replace('_', ' ')} must be at least 0 and below 1, got {shown(value)}")
        if not (_is_number(self.weight_decay) and 0 <= self.weight_decay <= LARGEST):
            raise ValueError(f"weight decay must not be negative, got {shown(self.weight_decay)}")
        if not isinstance(self.nesterov, bool) or (self.nesterov and self.momentum == 0):
            raise ValueError(f"nesterov is True or False and needs a momentum above 0, got {shown(self.nesterov)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, got {shown(self.schedule)}")
        if not all(_is_number(fraction) and 0 <= fraction <= 1 for fraction in self.milestones):
            raise ValueError(f"the milestones must be fractions from 0 to 1, got {shown(self.milestones)}")
        if not isinstance(self.name, str):
            raise ValueError(f"the name must be a string, got {shown(self.name)}")

    def changed(self, **changes: Any) -> Recipe:
        """Return the recipe with other values; None leaves one as it is. ``epochs`` and ``steps`` replace each other.

        Raises
        ------
        ValueError
            If a value is out of its range, or both lengths are given.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        if "epochs" in given and "steps" in given:
            raise ValueError(f"give epochs or steps, not both: got {given['epochs']} epochs and {given['steps']} steps")
        if "epochs" in given or "steps" in given:
            given = {"epochs": None, "steps": None, **given}
        return replace(self, **given)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of updates, where an epoch has ``steps_per_epoch``."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps  # type: ignore[operator]

    def optimizer(self, parameters: Iterable[Parameter]) -> SGD:
        """Return the optimizer of these parameters."""
        return SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )

    def scheduler(self, optimizer: SGD, total_steps: int) -> Any:
        """Return the schedule of ``optimizer``, to be stepped once after each of ``total_steps`` updates."""
        if self.schedule == "one-cycle":
            return OneCycleLR(optimizer, max_lr=self.learning_rate, total_steps=total_steps, cycle_momentum=False)
        drops = [round(fraction * total_steps) for fraction in self.milestones]
        if self.warmup_steps == 0:
            return MultiStepLR(optimizer, drops)
        warmup = ConstantLR(optimizer, factor=0.1, total_iters=self.warmup_steps)
        after = MultiStepLR(optimizer, [max(drop - self.warmup_steps, 1) for drop in drops])
        return SequentialLR(optimizer, [warmup, after], milestones=[self.warmup_steps])


def _is_number(value: Any, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


_QUICK = Recipe("quick", epochs=10, learning_rate=0.2, weight_decay=5e-4, nesterov=True)
_QUICK_BY_DATA = {
    "shapes": _QUICK.changed(steps=750, batch_size=32, learning_rate=0.1),  # two and a half epochs
    "mnist": replace(_QUICK, epochs=2),
    "fashion-mnist": replace(_QUICK, epochs=5),
    "imagefolder": replace(_QUICK, batch_size=64, learning_rate=0.1, weight_decay=1e-4),
}
# He et al. 2015, section 4.2: 64k steps, a tenth of the rate from 32k and from 48k on.
_PAPER = Recipe("paper", steps=64_000, schedule="multi-step", milestones=(0.5, 0.75))
# Section 3.4 lowers the rate whenever the error stands still; thirds of 90 epochs are the usual reading of that.
_PAPER_IMAGENET = Recipe("paper", epochs=90, batch_size=256, schedule="multi-step", milestones=(1 / 3, 2 / 3))

RECIPES = ("quick", "paper")


def recipe_for(name: str, data: str, model: str) -> Recipe:
    """Return the recipe ``name`` for a data set and a model.

    "quick" ends soon at a decent accuracy. "paper" is that of He et al. 2015: SGD at 0.1, momentum 0.9, weight decay
    1e-4, batches of 128, 64k steps with drops at 32k and 48k; nets of 110 layers and more begin with 400 steps at 0.01
    (section 4.2). For folders of images it is 90 epochs in batches of 256.

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    if name == "quick":
        return _QUICK_BY_DATA.get(data, _QUICK)
    if name != "paper":
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    if data == "imagefolder":
        return _PAPER_IMAGENET
    return replace(_PAPER, warmup_steps=400) if model in DEEP_CIFAR_NETS else _PAPER
