"""`minires warmup`: compiling ahead, so that the first training step need not."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from minires.cli.options import Debug


class DtypeName(StrEnum):
    """What kernels can be compiled for."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BOTH = "both"


def warmup(
    dtype: Annotated[
        DtypeName, typer.Option(help="float32 is what nets are trained in, float64 what gradients are verified in.")
    ] = DtypeName.FLOAT32,
    debug: Debug = False,
) -> None:
    """Compile all CPU kernels ahead; they are kept on disk, and what is there already is not compiled again.

    The environment variable MINIRES_CACHE_DIR names a folder for them instead of one in the user's cache directory.
    """
    if importlib.util.find_spec("numba") is None:
        typer.echo("Numba is not installed: nothing to compile, the readable kernels run as they are")
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from minires.cli.compiling import announce_compilation
    from minires.cli.progress import duration
    from minires.kernels.cpu.warmup import state, steps, warm_up

    begin = time.perf_counter()
    dtypes = [DtypeName.FLOAT32, DtypeName.FLOAT64] if dtype is DtypeName.BOTH else [dtype]
    console = Console(stderr=True)
    columns = TextColumn("compiling for {task.description}"), BarColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    say: Callable[[str], None] = (lambda line: None) if console.is_terminal else console.print
    with bar, announce_compilation(say):
        for name in dtypes:
            task = bar.add_task(name, total=len(steps(name)))
            for done, step in enumerate(warm_up(name)):
                bar.update(task, completed=done, description=f"{name}: {step}")
            bar.update(task, completed=len(steps(name)), description=name)
    now = state()
    typer.echo(
        f"{now.kernels} kernels for {' and '.join(dtypes)} ready in {duration(time.perf_counter() - begin)}, "
        f"{now.compiled} of them compiled now; {f'kept in {now.folder}' if now.folder else 'kept nowhere'}"
    )
