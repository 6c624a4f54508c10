"""Opening plain files only, and writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: files are written whole there, too, but by one process at a time
    fcntl = None

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
Buffer = bytes | bytearray | memoryview


def open_plain(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a plain file for reading. FIFOs, sockets and devices, which could wait or go on for ever, are not opened.

    Raises
    ------
    OSError
        If it is missing, cannot be read, or is no plain file.
    """
    check_plain(path, os.stat(path).st_mode)
    # Should a FIFO have come into its place meanwhile, it is not waited for.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _DO_NOT_WAIT))  # noqa: SIM115
    try:
        check_plain(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def check_plain(path: str | os.PathLike[str], mode: int) -> None:
    """Raise OSError if ``mode``, from the status of ``path``, is not that of a plain file."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise OSError(errno.EINVAL, f"a plain file was expected here, but this is {kind}", os.fspath(path))


def write_whole(path: Path, data: Buffer | Iterable[Buffer]) -> None:
    """Write beside ``path``, make sure it is on disk, then rename: a reader sees the old file or the new one.

    A symbolic link stays, and the file that it leads to is replaced. Of several writers, each waits for the one before.

    Raises
    ------
    OSError
        If the file cannot be written, or something other than a plain file stands there; what stood there before
        stands. It names the path.
    """
    target = os.path.realpath(path)
    with contextlib.suppress(FileNotFoundError):
        check_plain(path, os.stat(target).st_mode)
    # A fixed name: what a killed process leaves behind is overwritten by the next save.
    partial = f"{target}.partial"
    try:
        with _opened_alone(partial) as file:
            try:
                file.truncate(0)
                for part in (data,) if isinstance(data, Buffer) else data:
                    write_all(file, part)
                os.fsync(file.fileno())
                if fcntl is None:
                    file.close()  # Windows renames no open files
                os.replace(partial, target)
            except BaseException:  # Ctrl-C as well
                with contextlib.suppress(OSError):
                    os.unlink(partial)
                raise
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)  # a full disk names none
            del error.filename2  # which renaming has, and None would be printed
        raise


def lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file or folder, until it is closed or the process ends; return False if somebody else holds it.

    Where there are no locks, as on some network file systems, the answer is True.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _opened_alone(path: str) -> io.FileIO:
    """Open a file for writing and lock it."""
    flags = os.O_WRONLY | os.O_CREAT | _DO_NOT_WAIT | _NO_LINK
    while True:
        file = io.FileIO(path, "w", opener=lambda name, _: os.open(name, flags, 0o666))
        try:
            lock(file.fileno(), wait=True)
            # Whoever held the lock before may have renamed or removed the file that was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return file
            file.close()
        except BaseException:
            file.close()
            raise


def write_all(file: io.FileIO, part: Buffer) -> None:
    """Write to an unbuffered file, which may take a part at a time; an OSError if it takes no more."""
    rest = memoryview(part).cast("B")
    while rest:
        rest = rest[file.write(rest) :]
