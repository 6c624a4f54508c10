"""`minires verify`: whether the gradients of a named model are right."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from minires.cli.options import MODEL_HELP, Debug
from minires.cli.wording import counted

WRONG = 1


def verify(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 2,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the images.", show_default="16 or 64, by the model")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many parameters to list, the worst first.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the images and the directions.")] = 0,
    torch: Annotated[
        bool | None, typer.Option("--torch/--no-torch", help="Compare with PyTorch.", show_default="if it is installed")
    ] = None,
    debug: Debug = False,
) -> None:
    """Check a model's gradients in float64, by finite differences and against PyTorch.

    The exit status is 1 if a gradient is wrong.
    """
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from minires.cli.compiling import announce_compilation
    from minires.device import manual_seed
    from minires.models import get_model
    from minires.models.summary import usual_image_size
    from minires.verify import verify_model

    manual_seed(seed)
    net = get_model(model)
    size = image_size or {32: 16, 224: 64}[usual_image_size(net)]
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((batch_size, 3, size, size)), rng.integers(0, 10, batch_size)
    against_torch = importlib.util.find_spec("torch") is not None if torch is None else torch
    with announce_compilation(lambda line: typer.echo(line, err=True)):
        checks = verify_model(net, images, labels, against_torch, seed)

    table = Table(title=f"{model}: relative errors of gradients, the worst first", title_justify="left")
    table.add_column("parameter", no_wrap=True)
    for heading in ("shape", "norm", "differences", "PyTorch", ""):
        table.add_column(heading, justify="right")
    for check in checks[:rows]:
        shape = "x".join(map(str, check.shape))
        theirs = "-" if check.torch_error is None else f"{check.torch_error:.1e}"
        verdict = "ok" if check.passed else "WRONG"
        table.add_row(
            check.name, shape, f"{check.gradient_norm:.2e}", f"{check.finite_difference_error:.1e}", theirs, verdict
        )
    Console().print(table)
    wrong = sum(not check.passed for check in checks)
    typer.echo(f"{counted(len(checks), 'parameter')} checked, {wrong} wrong")
    if wrong:
        raise typer.Exit(WRONG)
