"""The subcommands put together."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from minires.cli.data import data
from minires.cli.errors import OneLineUsageErrors, one_line_errors
from minires.cli.evaluate import evaluate
from minires.cli.predict import predict
from minires.cli.study import study
from minires.cli.summary import summary
from minires.cli.train import train
from minires.cli.verify import verify
from minires.cli.warmup import warmup
from minires.version import __version__

app = typer.Typer(
    name="minires",
    cls=OneLineUsageErrors,
    help="ResNets with hand-written backward passes: train them, use them, and verify their gradients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # --debug asks for a traceback, and a plain one is the easier to pass on
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "summary": summary,
    "verify": verify,
    "study": study,
    "data": data,
    "warmup": warmup,
}
for name, command in _COMMANDS.items():
    app.command(name)(one_line_errors(command))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"minires {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command with the arguments of the process; a warning is one line, as an error is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not have all characters of a name
    warnings.formatwarning = lambda message, *_, **__: f"minires: warning: {message}\n"
    app()
