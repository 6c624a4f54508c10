"""`minires study`: what the skip connections of a net do to its gradient, as a report."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from minires.cli.options import DATA_NAMES, DataName, Debug, Device, Root

INSTRUMENT_NAMES = (
    "graph", "flow", "decomposition", "paths", "lesions", "shattering", "jacobian", "hessian", "landscape",
    "degradation", "variants",
)  # fmt: skip
QUICK_NAMES = INSTRUMENT_NAMES[:-2]


def study(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model as minires summary names it, or KIND-DEPTH with one of residual, plain, highway, zero-init "
            "and fixup: plain-56.",
            show_default="resnet20",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Study a model that minires train has saved, instead of training one.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=8, help="Study the residual CIFAR net of this depth, 6n + 2.", show_default="20")
    ] = None,
    data: Annotated[DataName, typer.Option(metavar="NAME", help=f"One of {DATA_NAMES}.")] = DataName.SHAPES,
    root: Root = None,
    instruments: Annotated[
        str | None,
        typer.Option(
            help=f"Which, with commas: {', '.join(INSTRUMENT_NAMES)}; or all. The last two train nets of their own.",
            show_default="all but the last two",
        ),
    ] = None,
    depths: Annotated[str, typer.Option(help="Of the nets that degradation compares; variants takes the first.")] = (
        "20,56"
    ),
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Average the images down to this height and width.",
            show_default="16, or for a checkpoint no averaging",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 4000,
    test_images: Annotated[int, typer.Option(min=1, help="Held-out images.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Updates of each training.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in an update.")] = 64,
    gradient_batch: Annotated[int, typer.Option(min=1, help="Images whose gradients are looked at.")] = 16,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the images and the directions.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/study"),
    debug: Debug = False,
) -> None:
    """Look at a net's gradients with and without its skips, and write a report.

    Trains the net and the same net without skips for a short while, unless a checkpoint is given, runs the instruments,
    and writes report.html with CSV files beside it.
    """
    given = [name for name, value in {"MODEL": model, "--checkpoint": checkpoint, "--depth": depth}.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} each say what to study: give one of them")
    chosen = _chosen(instruments)

    from minires.cli.compiling import announce_compilation
    from minires.device import as_device, module_for
    from minires.io import printable
    from minires.study.figure import new_figure
    from minires.study.report import check_folder, template, write_report
    from minires.study.subject import Subject, SurveyOptions
    from minires.study.survey import survey

    new_figure()  # what is not installed or cannot be written is an error now, not after the trainings
    template()
    module_for(as_device(device))
    options = SurveyOptions(
        model=model or (f"residual-{depth}" if depth else "resnet20"),
        checkpoint=checkpoint,
        data=str(data),
        root=root,
        image_size=image_size,
        images=images,
        test_images=test_images,
        steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        depths=_depths(depths),
        gradient_batch=gradient_batch,
        seed=seed,
        device=device,
    )
    check_folder(out)
    command = shlex.join(["minires", *sys.argv[1:]])

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from minires.cli.progress import duration

    console = Console()
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=console,
        transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    begin = time.perf_counter()

    def say(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    with bar, announce_compilation(say):
        task = bar.add_task("", total=len(chosen))

        def on_section(title: str, findings: list[str]) -> None:
            bar.advance(task)
            say(title)
            for finding in findings:
                say(f"  {finding}")

        subject = Subject(options, progress=lambda text: bar.update(task, description=text))
        report = survey(subject, chosen, command, on_section)
    path = write_report(report, out)
    say(f"wrote {path} in {duration(time.perf_counter() - begin)}")


def _chosen(instruments: str | None) -> list[str]:
    if instruments is None:
        return list(QUICK_NAMES)
    if instruments.strip() == "all":
        return list(INSTRUMENT_NAMES)
    names = [name.strip() for name in instruments.split(",") if name.strip()]
    unknown = [name for name in names if name not in INSTRUMENT_NAMES]
    if unknown or not names:
        raise ValueError(
            f"--instruments: {unknown[0] if unknown else 'nothing'!r} is none of {', '.join(INSTRUMENT_NAMES)}"
        )
    return names


def _depths(text: str) -> tuple[int, ...]:
    try:
        depths = tuple(int(depth) for depth in text.split(","))
    except ValueError:
        raise ValueError(f"--depths: whole numbers with commas between them, got {text!r}") from None
    return depths
