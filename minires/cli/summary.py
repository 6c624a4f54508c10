"""`minires summary`: the parts of a model, their shapes, parameters and multiply-adds."""

from __future__ import annotations

from typing import Annotated

import typer

from minires.cli.options import MODEL_HELP, Debug


def summary(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP, show_default="print all names")] = None,
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the image.", show_default="32 or 224, by the model")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes.", show_default="10 or 1000, by the model")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show what a model is made of: output shapes, parameters, and the multiply-adds of its convolutions and fc."""
    from minires.models import get_model, list_models
    from minires.models.summary import summarize, usual_image_size

    if model is None:
        typer.echo("\n".join(list_models()))
        return
    net = get_model(model, **({} if num_classes is None else {"num_classes": num_classes}))
    size = input_size or usual_image_size(net)

    from rich.console import Console
    from rich.table import Table

    from minires.cli.compiling import announce_compilation

    with announce_compilation(lambda line: typer.echo(line, err=True)):
        result = summarize(net, (3, size, size))
    table = Table(title=f"{model}, one image of 3 x {size} x {size}", title_justify="left")
    table.add_column("part")
    table.add_column("type")
    for heading in ("output", "parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
    for part in result.parts:
        shape = " x ".join(map(str, part.output_shape[1:])) if part.output_shape else ""
        table.add_row(part.name, part.type, shape, f"{part.parameters:,}", f"{part.macs:,}")
    table.add_section()
    table.add_row("total", "", "", f"{result.parameters:,}", f"{result.macs:,}")
    Console().print(table)
