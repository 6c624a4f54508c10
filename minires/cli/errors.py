"""The one place where errors become a line on stderr and an exit status."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from minires.cli.wording import say
from minires.io import reason

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
MENDABLE = (ValueError, RuntimeError, OSError, ImportError, MemoryError)

_BadArguments: Any = typer.BadParameter.__mro__[1]  # UsageError: Typer gives the class itself no public name


class OneLineUsageErrors(TyperGroup):
    """Subcommands whose arguments, where they cannot be understood, give one line too, and the same status."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Read the arguments before the subcommand; without any at all, Typer shows the help."""
        if not args:
            return super().make_context(info_name, args, *rest, **extra)
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except _BadArguments as error:
            raise _usage_error(error) from None

    def invoke(self, ctx: Any) -> Any:
        """Find the subcommand, read its arguments and run it."""
        try:
            return super().invoke(ctx)
        except _BadArguments as error:
            raise _usage_error(error) from None


def _usage_error(error: Any) -> typer.Exit:
    message = " ".join(error.format_message().split())
    for wrong in getattr(error.__context__, "errors", list)():  # of Pydantic, which Typer has check values
        message = message.replace("Value error, ", "").replace("Input should", f"{wrong['input']!r:.50} should")
    if "unexpected extra argument" in message and error.ctx is not None and error.ctx.info_name == "train":
        message += ": a checkpoint to go on from is given by --resume"
    if unknown := re.search(r"'([^']*)' is not one of (.+)\.$", message):
        near = get_close_matches(unknown[1].lower(), re.findall(r"'([^']+)'", unknown[2]), cutoff=0.5)
        message = f"{message[:-1]}: did you mean {' or '.join(near)}?" if near else message
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
    say(f"minires: {message[:1].lower()}{message[1:]}{hint}", err=True)
    return typer.Exit(USAGE_ERROR)


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Let ``command`` end with one line and status 2 where it raises what a user can mend; Ctrl-C gives 130.

    The command has a parameter ``debug``, which lets errors through with their traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        warnings.filterwarnings("ignore", module="PIL")  # of files that it reads or refuses all the same
        try:
            command(*args, **options)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # Exit and Abort are RuntimeErrors themselves
            raise
        except KeyboardInterrupt:
            typer.echo("minires: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except MENDABLE as error:
            if options.get("debug"):
                raise
            say(f"minires: {described(error)}", err=True)
            raise typer.Exit(USAGE_ERROR) from None

    return run


def described(error: BaseException) -> str:
    """Return what went wrong, in words."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error}): try a smaller --batch-size" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {reason(error)}" if error.filename else reason(error)
    return str(error) or type(error).__name__
