"""The one place where errors become a line on stderr and an exit status."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Let ``command`` end with one line and status 2 where it raises what a user can mend; Ctrl-C gives 130.

    The command has a parameter ``debug``, which lets errors through with their traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # Exit and Abort are RuntimeErrors themselves
            raise
        except KeyboardInterrupt:
            typer.echo("minires: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
            if options.get("debug"):
                raise
            typer.echo(f"minires: {one_line(error)}", err=True)
            raise typer.Exit(USAGE_ERROR) from None

    return run


def one_line(error: BaseException) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error}): try a smaller --batch-size" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
