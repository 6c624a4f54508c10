"""Opening files from outside: found or not, a plain file or not, and the checksum of what is in it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from minires.data.errors import DataError


def file_size(path: Path) -> int:
    """Return the size in bytes of a plain file.

    Raises
    ------
    DataError
        If it is missing, cannot be reached, or is a folder or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: {(error.strerror or str(error)).lower()}; check the path, or fetch it again"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: a data file was expected here, but this is a folder or a device")
    return status.st_size


def read_exactly(path: Path, size: int, holds: str) -> bytes:
    """Return the content of a file that must have ``size`` bytes because of what it ``holds``.

    Raises
    ------
    DataError
        If it has another size, or cannot be read.
    """
    found = file_size(path)
    if found != size:
        verdict = "truncated" if found < size else "too long"
        raise DataError(f"{path}: {verdict}: {found:,} bytes, but {holds} take {size:,}; fetch it again")
    return read_bytes(path)


def read_bytes(path: Path) -> bytes:
    """Return the whole content of a file, whose size the caller has checked; a DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal ``"md5"`` or ``"sha256"`` of a file; a DataError if it cannot be read."""
    file_size(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
