"""`minires train`: train a model, or go on with a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from minires.cli.errors import INTERRUPTED, MENDABLE, described
from minires.cli.options import (
    DATA_NAMES,
    MODEL_HELP,
    DataName,
    Debug,
    Device,
    HalfDtype,
    LogFormat,
    RecipeName,
    Root,
    Workers,
)
from minires.cli.wording import counted, say

RECIPE = "Recipe"
MANY_IMAGES = 20_000  # a few seconds


def train(
    data: Annotated[
        DataName | None, typer.Option(metavar="NAME", help=f"What to learn: {DATA_NAMES}.", show_default="shapes")
    ] = None,
    root: Root = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help=MODEL_HELP, show_default="resnet20")] = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            help="quick ends soon at a decent accuracy; paper is that of He et al. 2015.",
            show_default="quick",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length in epochs.", rich_help_panel=RECIPE)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length in updates.", rich_help_panel=RECIPE)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in an update.", rich_help_panel=RECIPE)] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.", rich_help_panel=RECIPE)] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD.", rich_help_panel=RECIPE)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of SGD.", rich_help_panel=RECIPE)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the weights and the order of images.", show_default="0")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Use less memory: compute activations again in the backward pass.")
    ] = False,
    checkpoint: Annotated[bool, typer.Option("--checkpoint", hidden=True)] = False,
    amp: Annotated[
        HalfDtype | None,
        typer.Option(help="Train in mixed precision, on a GPU: convolutions in 16 bits, weights in float32."),
    ] = None,
    device: Device = "cpu",
    workers: Workers = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and log.", show_default="runs/DATA-MODEL")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from this checkpoint; data, model and recipe come from it.")
    ] = None,
    log: Annotated[LogFormat | None, typer.Option(help="Format of the log.", show_default="csv")] = None,
    debug: Debug = False,
) -> None:
    """Train a ResNet and save it.

    The plain command trains resnet20 on shapes, a set of images that is drawn on the spot, in a few minutes.
    """
    fixed = {
        "data": data, "model": model, "recipe": recipe, "epochs": epochs, "steps": steps, "batch-size": batch_size,
        "lr": lr, "momentum": momentum, "weight-decay": weight_decay, "seed": seed, "recompute": recompute or None,
        "checkpoint": checkpoint or None, "amp": amp,
    }  # fmt: skip
    if resume is not None:
        given = [f"--{name}" for name, value in fixed.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: a resumed run keeps its own; leave it out, or start a new run")

    if checkpoint:  # in other commands it names a file
        typer.echo("minires: --checkpoint is called --recompute now; the old name still works", err=True)

    from minires.data import ImageFolder
    from minires.data.datasets.folder import check_images
    from minires.device import as_device, module_for
    from minires.training import Checkpoint, Experiment, RunFolder, open_sets, plan, recipe_for

    target = as_device(device)
    module_for(target)  # a GPU that is not there is an error now, not after the data are read
    saved = None
    if resume is not None:
        saved = Checkpoint.load(resume)
        experiment = Experiment.from_checkpoint(saved)
        net = experiment.restored_model(saved)
        train_set, test_set = open_sets(experiment, root)
        folder = RunFolder(out or resume.parent, log or _log_format_in(resume.parent))
    else:
        data_name, model_name = data or DataName.SHAPES, model or "resnet20"
        chosen = recipe_for(recipe or RecipeName.QUICK, data_name, model_name).changed(
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            learning_rate=lr,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        experiment, net, train_set, test_set = plan(
            str(data_name), root, model_name, chosen, seed or 0, recompute or checkpoint, amp and str(amp)
        )
        log_format = log or LogFormat.CSV
        folder = RunFolder(out, log_format) if out else RunFolder.fresh(f"{data_name}-{model_name}", log_format)
    folders = [images for images in (train_set, test_set) if isinstance(images, ImageFolder)]
    if sum(map(len, folders)) > MANY_IMAGES:
        say("looking at the beginning and the end of each image ...")
    check_images(*folders, workers=workers)  # now, rather than in the middle of an epoch
    folder.prepare(checkpoint=saved)
    try:
        net.to(target)
        trainer = experiment.trainer(net, train_set, test_set, target, workers, saved)
        _run(experiment, trainer, folder, len(train_set), len(test_set), target, resume)
    finally:
        folder.release()


def _run(
    experiment: Any,
    trainer: Any,
    folder: Any,
    train_images: int,
    test_images: int,
    device: Any,
    saved_in: Path | None,
) -> None:
    """Train with a progress bar, saving after each epoch, and say how it ended.

    ``saved_in`` is the checkpoint that holds the trainer's state, if there is one.
    """
    from rich.console import Console

    from minires.cli.compiling import announce_compilation
    from minires.cli.progress import TrainingProgress, duration
    from minires.models.summary import count_parameters
    from minires.training import EpochReport, TrainingError

    progress = TrainingProgress(trainer, Console())
    progress.say(
        f"{experiment.model} ({count_parameters(trainer.model):,} parameters) on {experiment.data}: {train_images:,} "
        f"training and {test_images:,} held-out images, {counted(trainer.steps, 'step')} in "
        f"{counted(trainer.epochs, 'epoch')}, {device}"
    )
    if trainer.step:
        progress.say(f"going on after step {trainer.step:,}")
    resumed_step = trainer.step

    def on_epoch(report: EpochReport) -> None:
        folder.record(trainer, report, experiment.to_json())
        progress.on_epoch(report)

    def last_saved() -> Path | None:
        return saved_in if folder.saved_step is None else folder.last

    def saved() -> str:
        if last_saved() is None:
            return "no checkpoint had been saved yet"
        step = resumed_step if folder.saved_step is None else folder.saved_step
        return f"{last_saved()} holds the state after step {step:,}"

    trainer.on_step, trainer.on_epoch, trainer.on_notice = progress.on_step, on_epoch, progress.say
    begin = time.perf_counter()
    try:
        with progress, announce_compilation(progress.say):
            last = trainer.fit()
    except KeyboardInterrupt:
        remedy = f"; go on with: minires train --resume {last_saved()}" if last_saved() is not None else ""
        say(f"minires: interrupted at step {trainer.step + 1:,}; {saved()}{remedy}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except TrainingError as error:
        raise TrainingError(f"{error}; {saved()}", error.step, error.op) from error
    except BrokenPipeError:
        raise
    except MENDABLE as error:  # a full disk, a picture that cannot be read
        raise RuntimeError(f"{described(error)}; {saved()}") from error
    if last is None:
        progress.say(f"nothing left to do: this run has all its {counted(trainer.steps, 'step')}; {saved()}")
        return
    progress.say(
        f"test accuracy {100 * last.test.accuracy:.2f} % after {counted(trainer.epochs, 'epoch')} "
        f"(best {100 * trainer.best_accuracy:.2f} %) in {duration(time.perf_counter() - begin)}"
    )
    best = f", {folder.best.name}" if folder.best.exists() else ""  # a resumed run may not come up to its best again
    progress.say(f"saved {folder.last}{best} and {folder.log.path.name}")


def _log_format_in(folder: Path) -> LogFormat:
    """Return the format of the log that a run has already."""
    return LogFormat.JSONL if (folder / "log.jsonl").exists() else LogFormat.CSV
