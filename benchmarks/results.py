"""The JSON file of a benchmark run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.environment import slug

FOLDER = Path(__file__).resolve().parent / "results"


def default_path(environment: dict[str, Any], set_name: str) -> Path:
    """Return results/DATE-CPU-SET.json; a second run on the same day replaces the first."""
    return FOLDER / f"{environment['date'][:10]}-{slug(environment['cpu'])}-{slug(set_name)[:80]}.json"


def write(results: dict[str, Any], path: Path) -> None:
    """Write results whole or not at all: beside ``path`` first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
