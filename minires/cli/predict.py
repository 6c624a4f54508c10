"""`minires predict`: what a trained model sees in images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minires.cli.options import Debug, Device


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint that minires train has saved.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of lines.")] = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Name the likeliest classes of images, with their probabilities."""
    from minires.cli.compiling import announce_compilation
    from minires.training import classify, load_model

    net, experiment = load_model(checkpoint, device, fold=True)
    with announce_compilation(lambda line: typer.echo(line, err=True)):
        ranked = classify(net, experiment, images, top, device)
    if as_json:
        answer = [
            {"image": str(path), "predictions": [{"class": name, "probability": p} for name, p in classes]}
            for path, classes in zip(images, ranked, strict=True)
        ]
        typer.echo(json.dumps(answer, indent=2))
        return
    for path, classes in zip(images, ranked, strict=True):
        typer.echo(f"{path}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in classes))
