"""`minires eval`: how good a trained model is on held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minires.cli.options import DATA_NAMES, DataName, Debug, Device, Root, Workers
from minires.cli.wording import counted


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint that minires train has saved.", show_default=False)],
    data: Annotated[
        DataName | None,
        typer.Option(metavar="NAME", help=f"One of {DATA_NAMES}.", show_default="the one it was trained on"),
    ] = None,
    root: Root = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 128,
    device: Device = "cpu",
    workers: Workers = 1,
    debug: Debug = False,
) -> None:
    """Evaluate a checkpoint on the held-out images of a data set."""
    from minires.cli.compiling import announce_compilation
    from minires.data import DataLoader
    from minires.training import evaluate as evaluate_model
    from minires.training import load_model, open_test_set

    net, experiment = load_model(checkpoint, device, fold=True)
    name = data or experiment.data
    test_set = open_test_set(experiment, str(name), root)
    loader = DataLoader(test_set, batch_size, num_workers=workers)
    with announce_compilation(lambda line: typer.echo(line, err=True)):
        result = evaluate_model(net, loader, device)
    typer.echo(
        f"{experiment.model} on {name}: accuracy {100 * result.accuracy:.2f} %, loss {result.loss:.4f} "
        f"on {counted(result.images, 'held-out image')} ({result.images_per_second:,.0f} images/s)"
    )
