"""The log of a run: one line an epoch, CSV or JSON lines by the file's ending, on disk as soon as it is written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

LOG_FORMATS = ("csv", "jsonl")


class RunLog:
    """Appends records to ``path``, which ends in ``.csv`` or ``.jsonl``; a CSV file begins with the names.

    Raises
    ------
    ValueError
        If the ending is another.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.suffix not in [f".{ending}" for ending in LOG_FORMATS]:
            raise ValueError(f"{self.path}: a log ends in .{' or .'.join(LOG_FORMATS)}")

    def write(self, record: Mapping[str, float | int | str | None]) -> None:
        """Append one record; every record of a file has the same names.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        line = self._csv(record) if self.path.suffix == ".csv" else self._json(record)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)  # a single write: a killed process leaves whole lines

    def _csv(self, record: Mapping[str, float | int | str | None]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.path.exists() or self.path.stat().st_size == 0:
            writer.writerow(record.keys())
        writer.writerow(record.values())
        return text.getvalue()

    @staticmethod
    def _json(record: Mapping[str, float | int | str | None]) -> str:
        # JSON has no NaN: null stands for it.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        return json.dumps(finite, allow_nan=False) + "\n"
