"""All that is to be found out on a GPU, in one command within a time: tests, sanitizer and benchmark.

    python -m benchmarks.on_a_gpu check FOLDER
    python -m benchmarks.on_a_gpu cifar --root DIR

The first does what matters most first, and writes what it finds to the folder as it goes: a log of each stage, the
benchmark's JSON, and summary.json. The second is the whole run of ResNet-20 on CIFAR-10; its log goes to results/.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import gpu, results
from benchmarks.environment import slug

HERE = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider")
BENCHMARK = (sys.executable, "-m", "benchmarks", "--device", "cuda")
MINUTES = 8.8
LEAST_SECONDS = 5.0  # a stage that had less would show nothing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Stage:
    """A command and the most seconds it may take."""

    name: str
    command: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "passed", "failed" with the exit status, "stopped" at its limit, or "left out"."""

    name: str
    outcome: str
    status: int | None
    seconds: float
    last_line: str


def stages(folder: Path) -> list[Stage]:
    """Return what `check` does, in its order: its usual time is enough for the first five, whatever they need."""
    quick = (*BENCHMARK, "--variant", "eager", "--pairs", "3", "--output")
    return [
        Stage("device", ("nvidia-smi", "-q", "-d", "MEMORY,CLOCK,ECC,POWER"), 20),
        Stage("test-gpu", (*PYTEST, "-n", "0", "tests/test_gpu.py"), 170),
        Stage("benchmark-resnet20", (*quick, str(folder / "resnet20.json"), "--case", "resnet20-*"), 60),
        Stage("benchmark-resnet50", (*quick, str(folder / "resnet50.json"), "--case", "resnet50-batch64-*"), 80),
        Stage("test-tables", (*PYTEST, "-n", "4", "--deselect", "tests/test_gpu.py"), 190),
        Stage("train", (*train_command(folder / "shapes", "shapes", None, "cuda"), "--steps", "750"), 60),
        Stage("sanitize", ("bash", "tests/sanitize_cuda.sh"), 240),
        Stage("benchmark-all", (*BENCHMARK, "--pairs", "3", "--output", str(folder / "all.json")), 600),
    ]


def run_stages(
    chosen: list[Stage], folder: Path, seconds: float, say: Callable[[str], None] = lambda line: None
) -> list[Outcome]:
    """Run stages one after another within ``seconds``; each writes NAME.log, and summary.json is renewed after each."""
    folder.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + seconds, []
    for stage in chosen:
        limit = min(stage.seconds, end - time.monotonic())
        if limit < min(LEAST_SECONDS, stage.seconds):
            outcome = Outcome(stage.name, "left out", None, 0.0, "no time was left")
        else:
            outcome = run_stage(stage, folder / f"{stage.name}.log", limit)
        outcomes.append(outcome)
        results.write({"format": 1, "stages": [asdict(one) for one in outcomes]}, folder / "summary.json")
        say(f"{outcome.name:20} {outcome.outcome:9} {outcome.seconds:6.1f} s  {outcome.last_line}")
    return outcomes


def run_stage(stage: Stage, log: Path, limit: float) -> Outcome:
    """Run a command for ``limit`` seconds at most, its output in ``log``."""
    begin = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                stage.command, cwd=HERE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return Outcome(stage.name, "failed", None, 0.0, f"{stage.command[0]}: {error.strerror}")
        try:
            status = process.wait(limit)
            outcome = "passed" if status == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with the processes that it has started
            status, outcome = process.wait(), "stopped"
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Outcome(stage.name, outcome, status, round(time.monotonic() - begin, 1), last[:200])


def train_command(folder: Path, data: str, root: Path | None, device: str) -> tuple[str, ...]:
    """Return the command that trains a ResNet-20 and leaves its log in a folder."""
    where = () if root is None else ("--root", str(root))
    command = (sys.executable, "-m", "minires.cli", "train", "--data", data, *where, "--model", "resnet20")
    return (*command, "--device", device, "--workers", "2", "--out", str(folder))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Where the findings go.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="How long it may take in all.")] = MINUTES,
) -> None:
    """Run the tests for a GPU, the benchmark and the sanitizer, what matters most first."""
    folder = folder.resolve()
    outcomes = run_stages(stages(folder), folder, 60 * minutes, lambda line: typer.echo(line))
    typer.echo(f"written to {folder}")
    if any(outcome.outcome == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def cifar(
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    amp: Annotated[str | None, typer.Option(help="float16 or bfloat16: train in mixed precision.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer updates than the paper's 64,000.")] = None,
    data: Annotated[str, typer.Option(help="Another data set.")] = "cifar10",
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the command out.")] = "cuda",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; must hold no run.")] = Path("runs/on-a-gpu"),
    output: Annotated[Path, typer.Option(help="Folder for the log.")] = results.FOLDER,
) -> None:
    """Train ResNet-20 by the paper's recipe and keep its log: DATE-DEVICE-resnet20-DATA.csv, with a .json beside it."""
    command = [*train_command(work, data, root, device), "--recipe", "paper"]
    command += [] if amp is None else ["--amp", amp]
    command += [] if steps is None else ["--steps", str(steps)]
    environment = gpu.describe(device)
    begin = time.perf_counter()
    status = subprocess.run(command, check=False).returncode
    if status:
        raise typer.Exit(status)
    name = "-".join([environment["date"][:10], slug(environment["device"]), "resnet20", data, *([amp] if amp else [])])
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / "log.csv", output / f"{name}.csv")
    found = {"format": 1, "environment": environment, "seconds": round(time.perf_counter() - begin, 1)}
    results.write({**found, **last_epoch(work / "log.csv")}, output / f"{name}.json")
    typer.echo(f"written to {output / name}.csv")


def last_epoch(log: Path) -> dict[str, Any]:
    """Return the step and the accuracy that a run ended with, and its best accuracy."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    accuracies = [float(row["test_accuracy"]) for row in rows]
    return {"step": int(rows[-1]["step"]), "test_accuracy": accuracies[-1], "best_test_accuracy": max(accuracies)}


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.on_a_gpu")
