"""The folder of a run: the last checkpoint, the best one, and the log.

After an epoch the log gets its line first, then the best checkpoint is saved if this is it, then the last one, each
whole or not at all. So whenever a run is killed, going on from the last checkpoint makes again what came after it, and
the line of an epoch whose checkpoint is missing is taken back. Two runs never write to one folder: it is locked.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

from minires.io import lock, reason
from minires.training.checkpoint import Checkpoint, CheckpointError
from minires.training.log import RunLog
from minires.training.trainer import EpochReport, Trainer


class RunFolder:
    """Where a run leaves ``last.safetensors``, ``best.safetensors`` and ``log.csv`` or ``log.jsonl``.

    Attributes
    ----------
    path, last, best : the folder, and the checkpoints in it
    log : RunLog
    saved_step : the update that ``last`` was saved after, or None until this run has saved it
    """

    def __init__(self, path: str | os.PathLike[str], log_format: str = "csv") -> None:
        self.path = Path(path)
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.log = RunLog(self.path / f"log.{log_format}")
        self.saved_step: int | None = None
        self._made: list[Path] = []
        self._unlock: Any = None

    @classmethod
    def fresh(cls, name: str, log_format: str = "csv") -> RunFolder:
        """Return ``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, ... that holds no run yet."""
        number, path = 1, Path("runs") / name
        while path.exists():
            number += 1
            path = Path("runs") / f"{name}-{number}"
        return cls(path, log_format)

    def prepare(self, resuming: bool = False, checkpoint: Checkpoint | None = None) -> None:
        """Make the folder, lock it and see that it can be written to, before any work is done for it.

        ``checkpoint`` is the one that a resumed run goes on from. The lock ends with `release`, or with the process.

        Raises
        ------
        ValueError
            If it cannot, if another run is writing to it, or if it holds a run that is not being resumed.
        """
        try:
            self._lock()
            with tempfile.TemporaryFile(dir=self.path):
                pass
            if self.last.exists():
                self._check_resumed(resuming or checkpoint is not None, checkpoint)
            self._cut_log(checkpoint)
        except OSError as error:
            self.release()
            raise ValueError(f"{self.path}: cannot be written to: {reason(error)}; choose another folder") from error
        except ValueError:
            self.release()
            raise

    def release(self) -> None:
        """Let other runs write to the folder; what `prepare` has made and nothing was written to is removed."""
        for folder in self._made:
            with contextlib.suppress(OSError):  # it holds something, or never came to be
                folder.rmdir()
        self._made = []
        if self._unlock is not None:
            self._unlock()

    def _lock(self) -> None:
        while True:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError:
                self._made = missing
                raise
            descriptor = os.open(self.path, os.O_RDONLY)
            if not lock(descriptor, wait=False):
                os.close(descriptor)
                raise ValueError(
                    f"{self.path}: another run is writing to this folder; wait for its end, or choose another"
                )
            # The run that held it before may have removed the folder that was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    break
            os.close(descriptor)
        self._made = missing
        self._unlock = weakref.finalize(self, os.close, descriptor)

    def _check_resumed(self, resuming: bool, checkpoint: Checkpoint | None) -> None:
        if not resuming:
            raise ValueError(
                f"{self.path}: holds a run already; choose another folder, or go on with --resume {self.last}"
            )
        if checkpoint is not None and not self._holds(checkpoint):
            raise ValueError(f"{self.path}: holds another run than {checkpoint.source}; choose another folder")

    def _holds(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.source is not None and os.path.samefile(checkpoint.source.parent, self.path)

    def _cut_log(self, checkpoint: Checkpoint | None) -> None:
        """Remove the line of an epoch that was killed before it had saved its checkpoint."""
        if checkpoint is None:
            if not self.last.exists():
                self.log.cut(0, most=1)
        elif self._holds(checkpoint):
            self.log.cut(max(checkpoint.step, self._last_step()))

    def _last_step(self) -> int:
        try:
            return Checkpoint.load(self.last).step
        except CheckpointError:  # it is not there, or damaged, which may be why another one is taken
            return 0

    def record(self, trainer: Trainer, report: EpochReport, description: dict) -> None:
        """Append a line to the log after an epoch, then save the trainer's state, as the best too if it is.

        Raises
        ------
        OSError
            If a file cannot be written; the checkpoints from before are still there.
        """
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
        checkpoint = Checkpoint.capture(
            trainer.model,
            trainer.optimizer,
            trainer.scheduler,
            trainer.step,
            trainer.best_accuracy,
            description,
            trainer.scaler,
        )
        if report.test is None or report.test.accuracy == trainer.best_accuracy:
            checkpoint.save(self.best)
        checkpoint.save(self.last)
        self.saved_step = report.step
