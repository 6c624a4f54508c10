"""The words of the command: on one line, short, and without characters that steer a terminal."""

from __future__ import annotations

import typer

from minires.io import one_line, printable


def say(line: str, err: bool = False) -> None:
    """Print a line: an answer as long as it is, an error (``err``) cut where it is too long."""
    typer.echo(one_line(line) if err else printable(line), err=err)


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return "1 epoch", "2 epochs", "1,000 epochs"; ``many`` is the plural where an s is not all it takes."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
