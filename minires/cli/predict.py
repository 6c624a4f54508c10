"""`minires predict`: what a trained model sees in images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minires.cli.data import INCOMPLETE
from minires.cli.errors import USAGE_ERROR
from minires.cli.options import Debug, Device
from minires.cli.wording import say


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint that minires train has saved.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of lines.")] = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Name the likeliest classes of images, with their probabilities.

    What is wrong with an image is said on stderr, or in JSON in place of its classes, and the others are answered for.
    The exit status is 1 if only some images have an answer, 2 if none has.
    """
    from minires.cli.compiling import announce_compilation
    from minires.training import classify, load_model

    errors: dict[int, Exception] = {}
    net, experiment = load_model(checkpoint, device, fold=True)
    with announce_compilation(lambda line: typer.echo(line, err=True)):
        ranked = classify(net, experiment, images, top, device, errors.__setitem__)
    if as_json:
        answer = [
            {"image": str(path), "error": str(errors[index])}
            if index in errors
            else {"image": str(path), "predictions": [{"class": name, "probability": p} for name, p in classes]}
            for index, (path, classes) in enumerate(zip(images, ranked, strict=True))
        ]
        typer.echo(json.dumps(answer, indent=2, allow_nan=False))
    else:
        for index, (path, classes) in enumerate(zip(images, ranked, strict=True)):
            if index in errors:
                say(f"minires: {errors[index]}", err=True)
            else:
                say(f"{path}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in classes))
    if errors:
        raise typer.Exit(USAGE_ERROR if len(errors) == len(images) else INCOMPLETE)
