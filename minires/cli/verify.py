"""`minires verify`: whether the gradients of a model or of a function are right."""

from __future__ import annotations

import json
import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minires.cli.errors import MENDABLE, USAGE_ERROR
from minires.cli.options import MODEL_HELP, Debug
from minires.cli.wording import counted

if TYPE_CHECKING:
    from minires.verify import GradientCheck, Result

WRONG = 1


class Mode(StrEnum):
    """The ways to compare the derivatives of a function."""

    FULL = "full"
    DIRECTIONS = "directions"


class Against(StrEnum):
    """What else to compare with."""

    TORCH = "torch"
    NOTHING = "nothing"


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|MODULE:CALLABLE",
            help=f"A model by name, or a function or class of your own, which returns a Module, (function, inputs), or "
            f"(function, vjp, inputs) for NumPy arrays. Models: {MODEL_HELP}",
            show_default=False,
        ),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 2,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the images.", show_default="16 or 64, by the model")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many parameters to list, the worst first.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the images and the directions.")] = 0,
    against: Annotated[
        Against | None,
        typer.Option(help="Compare a model with PyTorch as well, or not.", show_default="torch if it is installed"),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="Of a function: compare every derivative, or along a few random directions.", show_default="full"
        ),
    ] = None,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Compare the second derivatives of a function too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check gradients in float64: a model's by every parameter, a function's by every input.

    The exit status is 1 if a gradient is wrong, or could not be shown to be right; 2 if nothing could be checked.
    """
    from minires.cli.compiling import announce_compilation
    from minires.device import manual_seed

    manual_seed(seed)
    try:
        with announce_compilation(lambda line: typer.echo(line, err=True)):
            found = _checked(target, batch_size, image_size, seed, against, mode, second_order)
    except MENDABLE:
        raise
    except Exception:  # of the user's own code, who needs the traceback; status 1 would say that a gradient is wrong
        traceback.print_exc()
        raise typer.Exit(USAGE_ERROR) from None
    if isinstance(found, list):
        passed = all(check.passed for check in found)
        data = {"passed": passed, "parameters": [check.to_dict() for check in found]}
    else:
        passed, data = bool(found), found.to_dict()
    if as_json:
        typer.echo(json.dumps({"target": target, **data}, indent=2))
    elif isinstance(found, list):
        _print_parameters(target, found, rows)
    else:
        from rich.console import Console

        Console().print(found)
    if not passed:
        raise typer.Exit(WRONG)


def _checked(
    target: str,
    batch_size: int,
    image_size: int | None,
    seed: int,
    against: Against | None,
    mode: Mode | None,
    second_order: bool,
) -> list[GradientCheck] | Result:
    import importlib.util

    from minires.models import get_model
    from minires.nn import Module
    from minires.verify import gradcheck, gradcheck_numpy, gradgradcheck, verify_model
    from minires.verify.model import verify_module
    from minires.verify.target import Target, load_target

    found = load_target(target) if ":" in target else Target(get_model(target))
    subject, inputs = found.subject, found.inputs
    if not isinstance(subject, Module):
        if against is Against.TORCH:
            raise ValueError("--against torch compares models: a function is compared with finite differences only")
        options: dict[str, Any] = {"mode": str(mode or Mode.FULL), "seed": seed, "raise_exception": False}
        if found.vjp is not None:
            if second_order:
                raise ValueError("--second-order is for functions of Tensors: check the vjp as a function of its own")
            return gradcheck_numpy(subject, found.vjp, inputs or (), **options)
        result = gradcheck(subject, inputs or (), **options)
        if second_order and result:
            result = gradgradcheck(subject, inputs or (), **options)
        return result
    if mode is not None or second_order:
        raise ValueError(
            "--mode and --second-order are for functions: a model's parameters are checked along directions"
        )
    if inputs is not None:
        if against is Against.TORCH:
            raise ValueError("--against torch needs a model of images: return the Module alone")
        return verify_module(subject, inputs, seed)
    torch = importlib.util.find_spec("torch") is not None if against is None else against is Against.TORCH
    images, labels = _data(subject, batch_size, image_size, seed)
    return verify_model(subject, images, labels, torch, seed)


def _data(model: Any, batch_size: int, image_size: int | None, seed: int) -> tuple[Any, Any]:
    import numpy as np

    from minires.models.summary import usual_image_size

    size = image_size or {32: 16, 224: 64}[usual_image_size(model)]
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch_size, 3, size, size)), rng.integers(0, 10, batch_size)


def _print_parameters(target: str, checks: list[GradientCheck], rows: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{target}: relative errors of gradients, the worst first", title_justify="left")
    table.add_column("parameter", overflow="fold")
    table.add_column("shape", justify="right", overflow="fold")
    for heading in ("norm", "differences", "expected", "PyTorch"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", justify="right")
    for check in checks[:rows]:
        shape = "x".join(map(str, check.shape))
        theirs = "-" if check.torch_error is None else f"{check.torch_error:.1e}"
        errors = (f"{check.finite_difference_error:.1e}", f"{check.expected_error:.1e}", theirs)
        verdict = "ok" if check.passed else str(check.verdict) if check.verdict != "equal" else "not as PyTorch"
        table.add_row(check.name, shape, f"{check.gradient_norm:.2e}", *errors, verdict)
    Console().print(table)
    wrong = sum(not check.passed for check in checks)
    redrawn = sum(check.redrawn for check in checks)
    kinks = f", {counted(redrawn, 'direction')} redrawn because of kinks" if redrawn else ""
    typer.echo(f"{counted(len(checks), 'parameter')} checked, {wrong} wrong{kinks}")
