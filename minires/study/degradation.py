"""Degradation: nets trained alike, side by side.

He et al. 2015, "Deep Residual Learning for Image Recognition", figures 1 and 6: a plain net of 56 layers ends with a
higher *training* error than one of 20, though it could represent the same functions; residual nets gain from depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.data import DataLoader, Dataset
from minires.device import Device, manual_seed
from minires.models.cifar import CifarResNet
from minires.nn import Module
from minires.study.errors import StudyError
from minires.study.figure import check_results, legend_above, line_style, new_figure
from minires.study.fixup import CifarFixup
from minires.study.highway import CifarHighway
from minires.training import EpochReport, Recipe, StepReport, Trainer, TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTESTANTS: dict[str, Callable[[int, int], Module]] = {
    "residual": lambda depth, classes: CifarResNet(depth, classes),
    "plain": lambda depth, classes: CifarResNet(depth, classes, residual=False),
    "highway": lambda depth, classes: CifarHighway(depth, classes),
    "zero-init": lambda depth, classes: CifarResNet(depth, classes, zero_init_residual=True),
    "fixup": lambda depth, classes: CifarFixup(depth, classes),
}


def contestant(name: str, num_classes: int = 10) -> Module:
    """Build a net by a name such as "plain-56": kind and depth 6n + 2.

    Kinds are residual, plain, highway (`minires.study.highway`), zero-init (residual, with the last batch norm of each
    block at 0: Goyal et al. 2017) and fixup (`minires.study.fixup`). All have three stages of 16, 32, 64 channels.

    Raises
    ------
    StudyError
        If there is no such kind, or the depth is no number.
    ValueError
        If the depth is not 6n + 2.
    """
    kind, _, depth = name.rpartition("-")
    if kind not in CONTESTANTS or not depth.isdecimal():
        raise StudyError(f"there is no net {name!r}: write KIND-DEPTH with one of {', '.join(CONTESTANTS)}")
    return CONTESTANTS[kind](int(depth), num_classes)


@dataclass(frozen=True)
class TrainingCurve:
    """How one training went.

    Attributes
    ----------
    step_losses : loss of each step
    epochs : the report of each epoch: mean training loss and accuracy over it, and an evaluation after it
    failure : why it stopped early, or ""
    """

    step_losses: tuple[float, ...]
    epochs: tuple[EpochReport, ...]
    failure: str = ""

    @property
    def final_train_loss(self) -> float:
        """The mean training loss over the last tenth of the steps (at least one); NaN without any step."""
        if not self.step_losses:
            return float("nan")
        return float(np.mean(self.step_losses[-max(1, len(self.step_losses) // 10) :]))

    @property
    def final_test_error(self) -> float:
        """The share of wrong answers on held-out images after the last epoch; NaN without one."""
        last = self.epochs[-1].test if self.epochs else None
        return float("nan") if last is None else 1 - last.accuracy

    def rows(self) -> list[dict[str, Any]]:
        """Return one record an epoch."""
        return [
            {
                "epoch": report.epoch,
                "step": report.step,
                "training loss": report.train_loss,
                "training error": 1 - report.train_accuracy,
                "test loss": None if report.test is None else report.test.loss,
                "test error": None if report.test is None else 1 - report.test.accuracy,
            }
            for report in self.epochs
        ]


def train_alike(
    build: Callable[[], Module],
    train_set: Dataset,
    test_set: Dataset | None,
    recipe: Recipe,
    seed: int = 0,
    device: Device | str | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> tuple[Module, TrainingCurve]:
    """Build a net and train it by a recipe; return it, in eval mode, with its curve.

    Nets trained with one seed see the same images in the same order. A training that meets NaN ends there, and its
    curve says why.

    Parameters
    ----------
    build : makes the net; the random generators are seeded before it is called
    """
    manual_seed(seed)
    net = build().to(device or "cpu")
    full = len(train_set) >= recipe.batch_size
    loader = DataLoader(train_set, recipe.batch_size, shuffle=True, drop_last=full, seed=seed)
    steps = recipe.total_steps(len(loader))
    optimizer = recipe.optimizer(net.parameters())
    losses: list[float] = []
    reports: list[EpochReport] = []

    def watch(report: StepReport) -> None:
        losses.append(report.loss)
        if on_step is not None:
            on_step(report)

    trainer = Trainer(
        net,
        optimizer,
        loader,
        steps,
        test_loader=None if test_set is None else DataLoader(test_set, recipe.batch_size),
        scheduler=recipe.scheduler(optimizer, steps),
        device=device,
        on_step=watch,
        on_epoch=reports.append,
    )
    failure = ""
    try:
        trainer.fit()
    except TrainingError as error:
        failure = str(error)
    net.eval()
    return net, TrainingCurve(tuple(losses), tuple(reports), failure)


def draw_training_curves(results: Mapping[str, TrainingCurve]) -> Figure:
    """Draw training loss by step, smoothed over a twentieth of the run, and test error by epoch."""
    check_results(results)
    figure, (losses, errors) = new_figure(2, height=3)
    for index, (label, curve) in enumerate(results.items()):
        style = line_style(index)
        if curve.step_losses:
            losses.plot(*_smoothed(curve.step_losses), label=label, color=style["color"])
        tested = [report for report in curve.epochs if report.test is not None]
        errors.plot(
            [report.step for report in tested],
            [1 - report.test.accuracy for report in tested if report.test is not None],
            label=label,
            **style,
        )
    losses.set(ylabel="training loss", yscale="log", xlabel="step")
    errors.set(ylabel="test error", xlabel="step", ylim=(0, 1))
    legend_above(figure, errors)
    return figure


def _smoothed(losses: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    width = max(1, len(losses) // 20)
    return np.arange(width, len(losses) + 1), np.convolve(losses, np.full(width, 1 / width), "valid")
