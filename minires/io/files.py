"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside ``path``, make sure it is on disk, then rename: a reader sees the old file or the new one.

    Raises
    ------
    OSError
        If the file cannot be written; what stood there before stands.
    """
    # A fixed name: what a killed process leaves behind is overwritten by the next save.
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:  # Ctrl-C as well
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
