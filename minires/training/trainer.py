"""The training loop, evaluation, and what happens when a loss is no number any more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from minires.amp import GradScaler, autocast
from minires.autograd import AnomalyError, Tensor, detect_anomaly, no_grad
from minires.cuda import CaptureError, GraphedStep
from minires.data.on_device import batches_for, on_device
from minires.device import Device, array_module, as_device, generator
from minires.nn import Module
from minires.nn import functional as F


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one line.

    ``step`` is the number of the failing step, from 1; ``op`` the name of the operation at fault, if it was found.
    """

    def __init__(self, message: str, step: int, op: str | None = None):
        super().__init__(message)
        self.step = step
        self.op = op


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a set of images: mean cross-entropy, share of correct answers, images a second."""

    loss: float
    accuracy: float
    images: int
    images_per_second: float


@dataclass(frozen=True)
class StepReport:
    """One update: its number and that of its epoch, both from 1, its loss, learning rate and images."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    images: int


@dataclass(frozen=True)
class EpochReport:
    """One epoch, up to update ``step``: mean loss and accuracy in training, and ``test``, the evaluation after it.

    ``images_per_second`` counts training alone, ``seconds`` the evaluation too.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    images_per_second: float
    seconds: float
    test: Evaluation | None


class Trainer:
    """Trains a model for a number of updates, and tells what happens through two plain callbacks.

    Parameters
    ----------
    model : Module
    optimizer : any of `minires.optim`
    train_loader : iterable with a length, of (images, targets); one with a ``seed`` is told each epoch's number
    steps : int
        How many updates there are to be in all.
    test_loader : the same, for the evaluation after each epoch; optional
    scheduler : stepped after each update; optional
    loss_fn : (logits, targets) -> scalar Tensor; cross-entropy unless given
    device : where the model is; batches are moved there
    on_step, on_epoch : called with a StepReport after each update, with an EpochReport after each epoch
    amp : "float16" or "bfloat16" to train in mixed precision (see `minires.amp.autocast`), float16 with a loss scale;
        evaluations stay in float32
    on_notice : called with a line about how the run is computed, where that is not as it could be

    On a GPU each update is captured and replayed (see `minires.cuda.GraphedStep`) where that can be; where not,
    `on_notice` is told why.

    Attributes
    ----------
    step : updates done so far; set it, with the model's and the optimizer's state, to go on from there
    best_accuracy : the highest accuracy of the evaluations so far, or None
    """

    def __init__(
        self,
        model: Module,
        optimizer: Any,
        train_loader: Any,
        steps: int,
        test_loader: Iterable | None = None,
        scheduler: Any = None,
        loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        device: Device | str | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        amp: str | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        if len(train_loader) == 0:
            raise ValueError(
                "there is nothing to train on: the loader has no batch; lower the batch size or add images"
            )
        self.model = model
        self.optimizer = optimizer
        self.train_loader = train_loader
        self.steps = steps
        self.test_loader = test_loader
        self.scheduler = scheduler
        self.loss_fn = loss_fn
        self.device = device
        self.on_step = on_step
        self.on_epoch = on_epoch
        self.on_notice = on_notice
        self.autocast = autocast(as_device(device).type, amp, enabled=amp is not None)
        self.scaler = GradScaler() if amp == "float16" else None
        self._graphed: GraphedStep | None = None
        self._may_be_graphed = as_device(device).type == "cuda"
        self.step = 0
        self.best_accuracy: float | None = None

    @property
    def epochs(self) -> int:
        """The number of epochs, the last of which may be cut short."""
        return -(-self.steps // len(self.train_loader))

    @property
    def learning_rate(self) -> float:
        """The rate of the next update (of the first parameter group)."""
        return float(self.optimizer.param_groups[0]["lr"])

    def fit(self) -> EpochReport | None:
        """Train until ``steps`` updates are done; return the last epoch's report, or None if nothing was left to do.

        Raises
        ------
        TrainingError
            If the loss or a gradient is NaN or Inf. The update is not made; the failing step is repeated under anomaly
            detection, so that the message names the operation.
        """
        report = None
        is_slowed = self.autocast.enabled and as_device(self.device).type == "cpu"
        if is_slowed and self.step < self.steps and self.on_notice is not None:
            self.on_notice(
                "mixed precision saves time on a GPU; on the CPU it takes more than float32 does, because each kernel "
                "converts 16-bit numbers to float32 and back"
            )
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # NaN and Inf are looked for here
            while self.step < self.steps:
                report = self._train_epoch()
                if self.on_epoch is not None:
                    self.on_epoch(report)
        return report

    def _train_epoch(self) -> EpochReport:
        epoch, done = divmod(self.step, len(self.train_loader))
        last = min(self.steps, (epoch + 1) * len(self.train_loader))
        if getattr(self.train_loader, "seed", None) is not None:
            self.train_loader.set_epoch(epoch)
        self.model.train()
        losses, correct, seen = 0.0, 0, 0
        begin = time.perf_counter()
        with (
            closing(batches_for(self.train_loader, self.device)) as batches,
            closing(on_device(islice(batches, done, done + last - self.step), self.device)) as moved,
        ):
            for images, targets in moved:
                learning_rate = self.learning_rate
                loss, logits = self._update(images, targets)
                losses += loss * len(images)
                correct = correct + _correct(logits, targets)
                seen += len(images)
                if self.on_step is not None:
                    self.on_step(StepReport(self.step, epoch + 1, loss, learning_rate, len(images)))
        trained = time.perf_counter()
        test = None
        if self.test_loader is not None:
            test = evaluate(self.model, self.test_loader, self.device)
            self.best_accuracy = max(test.accuracy, self.best_accuracy or 0.0)
        return EpochReport(
            epoch=epoch + 1,
            step=self.step,
            learning_rate=learning_rate,
            train_loss=losses / seen,
            train_accuracy=int(correct) / seen,
            images_per_second=seen / (trained - begin),
            seconds=time.perf_counter() - begin,
            test=test,
        )

    def _update(self, images: Tensor, targets: Tensor) -> tuple[float, Tensor]:
        """Make one update and return its loss and logits."""
        random_state = generator().bit_generator.state
        graphed = self._graphed_update(images, targets) if self._may_be_graphed else None
        loss, logits = graphed or self._gradients(images, targets)
        value = float(loss.item())
        if not math.isfinite(value):
            raise self._failure(f"the loss is {value}", images, targets, random_state)
        if graphed is None:
            symptom = self._stepped()
        elif self.scaler is not None:
            symptom = self._overflow()
        else:
            symptom = "a gradient is not finite" if bool(self._graphed.found_inf) else None  # type: ignore[union-attr]
        if symptom is not None:
            raise self._failure(symptom, images, targets, random_state)
        if self.scheduler is not None:
            self.scheduler.step()
        self.step += 1
        return value, logits.detach()

    def _graphed_update(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Make one update by a graph, where it is finite; return its loss and logits, or None if there can be none."""
        try:
            if self._graphed is None:
                self._graphed = GraphedStep(self.model, self.loss_fn, self.optimizer, self.scaler)
            with self.autocast:
                loss = self._graphed(images, targets)
        except CaptureError as error:
            self._may_be_graphed, self._graphed = False, None
            if self.on_notice is not None:
                self.on_notice(f"launching the GPU's kernels one by one: {error}")
            return None
        assert self._graphed.output is not None  # it has just made a step
        return loss, self._graphed.output

    def _gradients(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.model(images)
            loss = self.loss_fn(logits, targets)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss, logits

    def _stepped(self) -> str | None:
        """Move the parameters by gradients that are finite; return what is wrong if they are not, or None.

        In float16 such a step is left out, and the next has a smaller loss scale.
        """
        if self.scaler is None:
            if not self._gradients_are_finite():
                return "a gradient is not finite"
            self.optimizer.step()
            return None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self._overflow()

    def _overflow(self) -> str | None:
        """Return what is wrong where no loss scale helps any more, or None."""
        scale = self.scaler.get_scale()  # type: ignore[union-attr]
        return None if scale >= 1 else f"gradients overflow float16 even at a loss scale of {scale:g}"

    def _gradients_are_finite(self) -> bool:
        arrays = [p.grad.array for p in self.model.parameters() if p.grad is not None]
        if not arrays:
            return True
        xp = array_module(arrays[0])
        return bool(xp.stack([xp.isfinite(array).all() for array in arrays]).all())  # one read from a GPU, not many

    def _failure(self, symptom: str, images: Tensor, targets: Tensor, random_state: dict) -> TrainingError:
        """Repeat a failing step under anomaly detection and return the error that names the operation."""
        step, epoch = self.step + 1, self.step // len(self.train_loader) + 1
        finding, op = "repeating the step did not show where it began", None
        generator().bit_generator.state = random_state  # dropout must drop the same elements again
        try:
            with detect_anomaly():
                self._gradients(images, targets)
        except AnomalyError as error:
            finding, op = str(error).splitlines()[0].partition("; it was called here")[0], error.op
        advice = f"lower the learning rate (it was {self.learning_rate:g}) or check the data"
        return TrainingError(
            f"training stopped at step {step} (epoch {epoch}): {symptom}; {finding}; {advice}", step, op
        )


def evaluate(model: Module, loader: Iterable, device: Device | str | None = None) -> Evaluation:
    """Return mean cross-entropy and accuracy of ``model`` over a loader, in eval mode, without recording a graph.

    The model comes back in the mode it was in.

    Raises
    ------
    ValueError
        If the loader gives no images.
    """
    losses, correct, seen = 0.0, 0, 0
    training = model.training
    model.eval()
    begin = time.perf_counter()
    try:
        with no_grad():
            for images, targets in on_device(batches_for(loader, device), device):
                logits = model(images)
                losses += F.cross_entropy(logits, targets).item() * len(images)
                correct = correct + _correct(logits, targets)
                seen += len(images)
    finally:
        model.train(training)
    if seen == 0:
        raise ValueError("there is nothing to evaluate: the loader gives no images")
    return Evaluation(losses / seen, int(correct) / seen, seen, seen / (time.perf_counter() - begin))


def _correct(logits: Tensor, targets: Tensor) -> Any:
    """Return how many answers are right, as a number that stays on its device."""
    return (logits.array.argmax(1) == targets.array).sum()
