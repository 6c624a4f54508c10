"""What training shows: a bar while an epoch runs, where there is a terminal, and one line after it."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from minires.io import printable
from minires.training import EpochReport, StepReport, Trainer


class TrainingProgress:
    """A context manager that follows a trainer; elsewhere than on a terminal it prints whole lines only."""

    def __init__(self, trainer: Trainer, console: Console) -> None:
        self.trainer = trainer
        self.console = console
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} images/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: Any = None
        self.epoch = 0
        self.images = 0
        self.begin = 0.0

    def __enter__(self) -> TrainingProgress:
        self.begin = time.perf_counter()
        begun = self.trainer.step // len(self.trainer.train_loader) + 1
        self.task = self.bar.add_task(
            "", total=self.trainer.steps, completed=self.trainer.step, epoch=self._epoch(begun), loss="-", rate="-"
        )
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def on_step(self, report: StepReport) -> None:
        """Move the bar."""
        if report.epoch != self.epoch:
            self.epoch, self.images = report.epoch, 0
        self.images += report.images
        rate = self.images / (time.perf_counter() - self.begin)
        self.bar.update(
            self.task,
            completed=report.step,
            epoch=self._epoch(report.epoch),
            loss=f"{report.loss:.3f}",
            rate=f"{rate:,.0f}",
        )

    def on_epoch(self, report: EpochReport) -> None:
        """Print the line of an epoch."""
        self.begin = time.perf_counter()
        test = f"  test {100 * report.test.accuracy:.2f} %" if report.test else ""
        self.say(
            f"epoch {self._epoch(report.epoch)}  loss {report.train_loss:.4f}"
            f"  train {100 * report.train_accuracy:.2f} %{test}"
            f"  {report.images_per_second:,.0f} images/s  {duration(report.seconds)}"
        )

    def _epoch(self, number: int) -> str:
        return f"{number}/{self.trainer.epochs}"


def duration(seconds: float) -> str:
    """Return a time for people: 8.2 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
