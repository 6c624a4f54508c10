"""Opening files from outside: found or not, a plain file or not, and the checksum of what is in it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from minires.data.errors import DataError
from minires.io import check_plain, open_plain, reason


def file_size(path: Path) -> int:
    """Return the size in bytes of a plain file.

    Raises
    ------
    DataError
        If it is missing, cannot be reached, or is a folder, a FIFO, a socket or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}; check the path, or fetch it again") from error
    try:
        check_plain(path, status.st_mode)
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}; a data file was expected here") from error
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
    content = read_bytes(path)
    if len(content) != size:
        raise DataError(f"{path}: truncated: it became shorter while it was read")
    return content


def read_bytes(path: Path) -> bytes:
    """Return the whole content of a file, whose size the caller has checked; a DataError if it cannot be read."""
    try:
        with open_plain(path) as file:
            return file.read(os.fstat(file.fileno()).st_size)  # and no more, should it grow
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal ``"md5"`` or ``"sha256"`` of a file; a DataError if it cannot be read."""
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
