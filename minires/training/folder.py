"""The folder of a run: the last checkpoint, the best one, and the log."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from minires.training.checkpoint import Checkpoint
from minires.training.log import RunLog
from minires.training.trainer import EpochReport, Trainer


class RunFolder:
    """Where a run leaves ``last.safetensors``, ``best.safetensors`` and ``log.csv`` or ``log.jsonl``."""

    def __init__(self, path: str | os.PathLike[str], log_format: str = "csv") -> None:
        self.path = Path(path)
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.log = RunLog(self.path / f"log.{log_format}")

    @classmethod
    def fresh(cls, name: str, log_format: str = "csv") -> RunFolder:
        """Return ``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, ... that holds no run yet."""
        number, path = 1, Path("runs") / name
        while path.exists():
            number += 1
            path = Path("runs") / f"{name}-{number}"
        return cls(path, log_format)

    def prepare(self, resuming: bool = False) -> None:
        """Make the folder and see that it can be written to, before any work is done for it.

        Raises
        ------
        ValueError
            If it cannot, or if it holds a run that is not being resumed.
        """
        if not resuming and self.last.exists():
            raise ValueError(
                f"{self.path}: holds a run already; choose another folder, or go on with --resume {self.last}"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(f"{self.path}: cannot be written to: {reason}; choose another folder") from error

    def record(self, trainer: Trainer, report: EpochReport, description: dict) -> None:
        """Save the trainer's state after an epoch, as the best too if it is, then append a line to the log.

        Raises
        ------
        OSError
            If a file cannot be written; the checkpoints from before are still there.
        """
        checkpoint = Checkpoint.capture(
            trainer.model,
            trainer.optimizer,
            trainer.scheduler,
            trainer.step,
            trainer.best_accuracy,
            description,
            trainer.scaler,
        )
        checkpoint.save(self.last)
        if report.test is None or report.test.accuracy == trainer.best_accuracy:
            checkpoint.save(self.best)
        self.log.write(
            {
                "epoch": report.epoch,
                "step": report.step,
                "learning_rate": report.learning_rate,
                "train_loss": report.train_loss,
                "train_accuracy": report.train_accuracy,
                "test_loss": report.test.loss if report.test else None,
                "test_accuracy": report.test.accuracy if report.test else None,
                "images_per_second": round(report.images_per_second, 1),
                "seconds": round(report.seconds, 2),
            }
        )
