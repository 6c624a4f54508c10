"""The log of a run: one line an epoch, CSV or JSON lines by the file's ending, on disk as soon as it is written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from minires.io import check_plain, open_plain, write_all, write_whole

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
            If the file cannot be written; it then stays as it was.
        """
        with contextlib.suppress(FileNotFoundError):
            check_plain(self.path, os.stat(self.path).st_mode)
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            line = self._csv(record, header=end == 0) if self.path.suffix == ".csv" else self._json(record)
            try:
                write_all(file, line.encode())  # at once: a killed process leaves whole lines
            except OSError as error:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                error.filename = os.fspath(self.path)
                raise

    def cut(self, step: int, most: float = math.inf) -> None:
        """Remove the records of later updates than ``step``, and a last line that is not whole.

        They are those of an epoch whose checkpoint never came to be saved. Lines without a "step" stay, and so does a
        file with more than ``most`` records.

        Raises
        ------
        OSError
            If the file cannot be read or written.
        """
        try:
            with open_plain(self.path) as file:
                content = file.read()
        except FileNotFoundError:
            return
        lines = content.decode("utf-8", "surrogateescape").split("\n")[:-1]
        if self.path.suffix == ".csv":
            names = lines[0].split(",") if lines else []
            if lines and "step" not in names:
                return
            steps = [None, *(_step_in_csv(line, names) for line in lines[1:])] if lines else []
        else:
            steps = [_step_in_json(line) for line in lines]
        if sum(its is not None for its in steps) > most:
            return
        kept = [line for line, its in zip(lines, steps, strict=True) if its is None or its <= step]
        whole = "".join(f"{line}\n" for line in kept).encode("utf-8", "surrogateescape")
        if whole != content:
            write_whole(self.path, whole)

    @staticmethod
    def _csv(record: Mapping[str, float | int | str | None], header: bool) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if header:
            writer.writerow(record.keys())
        writer.writerow(record.values())
        return text.getvalue()

    @staticmethod
    def _json(record: Mapping[str, float | int | str | None]) -> str:
        # JSON has no NaN: null stands for it.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        return json.dumps(finite, allow_nan=False) + "\n"


def _step_in_json(line: str) -> int | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if type(step) is int else None


def _step_in_csv(line: str, names: list[str]) -> int | None:
    fields = line.split(",")
    text = fields[names.index("step")] if len(fields) == len(names) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
