"""Where and with what a benchmark ran."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT, Worker


def environment(worker_modules: list[str], threads: int, command: list[str]) -> dict[str, Any]:
    """Return date, command, machine, versions of each side's libraries and the commit.

    The load average tells a reader whether others were at work on the machine.
    """
    versions = {"python": platform.python_version()}
    for module in worker_modules:
        with Worker(module, threads) as worker:
            versions |= worker.ask("hello")
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *command]),
        "cpu": cpu_name(),
        "cpus": available_cpus(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "commit": commit(),
    }


def cpu_name() -> str:
    """Return the CPU's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if asked.returncode == 0:
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str | None:
    """Return the commit of this checkout, with "+" where minires/ or benchmarks/ differ from it; None outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--", "minires", "benchmarks/*.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def slug(name: str) -> str:
    """Return a name in lower case with dashes, fit for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
