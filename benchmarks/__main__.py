"""The command ``python -m benchmarks``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import cases, report, results
from benchmarks.environment import available_cpus, environment
from benchmarks.measure import OURS, RIVALS, WORKERS, Settings, Workers, check_variants, measure, reach
from benchmarks.process import WorkerError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
console = Console()
if not console.is_terminal:
    console = Console(width=150)  # a table in a file is not cut to 80 columns
Rival = StrEnum("Rival", [(name, name) for name in RIVALS])
DEFAULT_RIVAL = Rival(RIVALS[0])


@app.command()
def benchmark(
    groups: Annotated[
        list[str] | None, typer.Argument(help=f"Groups to measure: {', '.join(cases.GROUPS)}.", show_default=False)
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="A case by name, or several by a pattern with wildcards; may be repeated.", metavar="NAME"),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = available_cpus(),
    rival: Annotated[Rival, typer.Option(help="Whom to run against.")] = DEFAULT_RIVAL,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help='Try only this variant of the rival where it has it, as "channels-last, eager"; may be repeated. '
            "On a GPU there are eager, which always runs, and compile.",
            metavar="NAME",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The JSON file; by default benchmarks/results/DATE-CPU-SET.json.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: training steps on a GPU, with its own cases; see benchmarks/gpu.py.")
    ] = "cpu",
    list_: Annotated[bool, typer.Option("--list", help="List the cases and stop.")] = False,
) -> None:
    """Time minires against PyTorch, in turns, each in its own process on the same threads, weights and data.

    Without arguments, all cases of training and inference run. On two cores that takes about half an hour, most of it
    in torch.compile, and up to twice that the first time. The group "ops" takes about fifteen minutes. With
    --variant "channels-last, eager" nothing is compiled: training and inference take about five minutes.
    Leave the machine alone meanwhile.
    """
    if device != "cpu":
        on_gpu(device, case or ["*"], pairs, output, compiled=variant is None or "compile" in variant)
        return
    try:
        chosen = cases.select(groups or (), case or ())
        if list_:
            for one in chosen if groups or case else cases.all_cases():
                console.print(f"{one.group:12} {one.name}", highlight=False, soft_wrap=True)
            return
        settings = Settings(pairs=pairs, threads=threads, rival=rival.value, variants=tuple(variant or ()))
        check_variants(chosen, settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    where = environment([WORKERS[OURS], WORKERS[settings.rival]], threads, sys.argv[1:])
    if where["load_average"] is not None and where["load_average"] > where["cpus"] / 4:
        console.print(
            f"others are at work here (load {where['load_average']:.1f}): figures will be off", style="yellow"
        )
    path = output or results.default_path(where, set_name(groups or [], case or [], settings.rival))
    found: dict[str, Any] = {
        "format": 1,
        "environment": where,
        "settings": asdict(settings),
        "machine_reaches": reach(settings),
        "cases": [],
    }
    with Workers(threads) as workers, console.status("") as status:
        for number, one in enumerate(chosen, 1):
            try:
                result = measure(
                    one, workers, settings, lambda line, number=number: status.update(f"{number}/{len(chosen)} {line}")
                )
            except WorkerError as error:
                result = {"name": one.name, "group": one.group, "error": str(error)}
            found["cases"].append(result)
            results.write(found, path)  # what is measured is kept if the rest is interrupted
            console.print(f"{one.name}: {outcome(result)}", markup=False, highlight=False, soft_wrap=True)
    report.show(found, console)
    console.print(f"written to {path}", markup=False, highlight=False, soft_wrap=True)
    if any("error" in result for result in found["cases"]):
        raise typer.Exit(1)


def on_gpu(device: str, patterns: list[str], pairs: int, output: Path | None, compiled: bool) -> None:
    """Measure the cases of a GPU whose names match a pattern."""
    from benchmarks import gpu
    from minires.device import module_for

    chosen = [case for case in gpu.CASES if any(fnmatchcase(case.name, pattern) for pattern in patterns)]
    if not chosen:
        raise typer.BadParameter(f"no case matches: choose from {', '.join(case.name for case in gpu.CASES)}")
    try:
        module_for(device)
    except (RuntimeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    path = gpu.run(device, chosen, pairs, output, console, compiled)
    console.print(f"written to {path}", markup=False, highlight=False, soft_wrap=True)


def outcome(result: dict[str, Any]) -> str:
    """Return a result in a few words."""
    if "error" in result:
        return f"failed: {result['error']}"
    return f"{result['ratio']['median']:.2f} times as fast as {result['rival']}, {result['variant']}"


def set_name(groups: list[str], patterns: list[str], rival: str) -> str:
    """Return the name of a selection, for the file of its results; of another rival than PyTorch it has the name."""
    chosen = [*groups, *patterns] or cases.DEFAULT_GROUPS
    return "-".join([*chosen, *([] if rival == DEFAULT_RIVAL.value else [rival])])


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
