"""Compiled kernels on disk: in the user's cache directory, so that each is compiled once.

A folder holds the kernels of one state of the source. Its name is the version of minires and a checksum of all files of
this room, because the machine code of a kernel contains functions from others of them. A file in it holds one kernel,
for one set of types, processor, Python and Numba. It is written under another name and renamed, so processes that
compile at once write the same file one after the other, and a file whose digest is wrong counts as missing.

Numba's own cache is not used. It lies beside the source, where pip does not remove it: what is left then hides another
installation. It knows of changes in one source file only, and processes that compile at once may mix up its entries.

A compiled kernel is loaded by `pickle`, which can run anything: folders and files are read only if they belong to this
user or to root, and nobody else may write to them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
import stat
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from minires.version import __version__

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which serves as a lock
    fcntl = None  # type: ignore[assignment]

ROOM = "minires.kernels.cpu"
VARIABLE = "MINIRES_CACHE_DIR"
KEPT_VERSIONS = 4  # of the source, about 10 MB each; those in use besides
IN_USE = "in-use"  # the file in a folder of kernels that each process which uses it has open, and locked


def compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator like ``numba.njit(nogil=True, **options)`` whose compiled functions are kept on disk."""
    compile_function = numba.njit(nogil=True, **options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compile_function(function)
        if function.__module__.startswith(f"{ROOM}."):  # the checksum covers no others
            dispatcher._cache = _KernelCache(function)  # as Dispatcher.enable_caching does with Numba's own
        return dispatcher

    return decorate


class _KernelCache(NullCache):
    """The compiled versions of one function on disk."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str | None:
        """The folder, if there is one."""
        return str(folder()) if folder() else None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the function compiled for a signature, or None if it is not there."""
        target_context.refresh()
        path, key = self._place(signature, target_context.codegen())
        payload = _read(path, key) if path else None
        return None if payload is None else CompileResult._rebuild(target_context, *payload)

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function, if that can be done."""
        path, key = self._place(signature, result.codegen)
        if path and not result.library.has_dynamic_globals:  # addresses of this process
            _write(path, key, result._reduce())

    def _place(self, signature: Any, codegen: Any) -> tuple[Path | None, bytes]:
        """Return the file for a signature, and the text that tells it from all others of the folder."""
        python = sys.version_info[:2], getattr(sys, "abiflags", "")
        key = repr((self.name, signature, codegen.magic_tuple(), python, numba.__version__)).encode()
        found = folder()
        return found and found / f"{self.name}-{hashlib.sha256(key).hexdigest()[:16]}.kernel", key


def _read(path: Path, key: bytes) -> Any:
    """Return what `_write` has written; None for a file that is missing, damaged or not to be trusted."""
    try:
        with path.open("rb") as file:
            if not _is_trusted(os.fstat(file.fileno())):
                return None
            digest, data = file.read(32), file.read()
    except OSError:
        return None
    return pickle.loads(data) if digest == hashlib.sha256(key + data).digest() else None


def _write(path: Path, key: bytes, payload: Any) -> None:
    global _can_write
    if not _can_write:
        return
    data = dumps(payload)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        _make_folder(path.parent)  # removed meanwhile?
        try:
            with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
                file.write(hashlib.sha256(key + data).digest() + data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        if path.exists():  # another process has just written it; on Windows it cannot be replaced while it is read
            return
        _can_write = False
        _warn(path.parent, error, "each process compiles anew those that are not there")


_can_write = True


def _warn(path: str | Path, error: OSError, consequence: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be kept in {path} ({error.strerror or error}): {consequence}. "
        f"The environment variable {VARIABLE} may name another folder for them.",
        RuntimeWarning,
        stacklevel=2,
    )


@cache
def folder() -> Path | None:
    """Return the folder of the compiled kernels, made if it was not there; None if there can be none.

    It is in ``$MINIRES_CACHE_DIR``; without that, in a folder ``minires`` in ``$NUMBA_CACHE_DIR`` or else in the user's
    cache directory (``$XDG_CACHE_HOME`` or ``~/.cache``; macOS: ``~/Library/Caches``; Windows: ``%LOCALAPPDATA%``). If
    it cannot be there, a warning says why, and it is in a folder of the user's own among temporary files.
    """
    try:
        return _prepare(_cache_directory())
    except OSError as error:
        refusal = error
    try:
        found = _prepare(_temporary_directory())
    except OSError:
        _warn(refusal.filename, refusal, "each process compiles them anew")
        return None
    _warn(refusal.filename, refusal, f"they are in {found}")
    return found


def _cache_directory() -> Path:
    if os.environ.get(VARIABLE):
        return _absolute(os.environ[VARIABLE])
    if config.CACHE_DIR:
        return _absolute(config.CACHE_DIR) / "minires"
    if sys.platform == "win32":
        directory = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        directory = "~/Library/Caches"
    else:
        directory = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(directory):  # to be ignored then, says the standard
            directory = "~/.cache"
    return _absolute(directory) / "minires"


def _absolute(directory: str) -> Path:
    try:
        return Path(directory).expanduser().absolute()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "this user has no home directory", directory) from None


def _temporary_directory() -> Path:
    """Return this user's own folder among temporary files, where others could have put one under its name."""
    own = Path(tempfile.gettempdir(), f"minires-{os.geteuid() if hasattr(os, 'geteuid') else 'cache'}")
    with suppress(FileExistsError):
        own.mkdir(0o700)
    _check_folder(own)
    return own


def _prepare(directory: Path) -> Path:
    """Return the folder for this source, made, checked and marked as in use; remove those not used for longest."""
    kernels = directory / "kernels"
    own = kernels / f"{__version__}-{CHECKSUM}"
    is_new = not own.exists()
    _make_folder(own)
    _check_folder(own)
    with suppress(OSError):  # others fill and mark a folder that this user can only read
        descriptor = os.open(own / IN_USE, os.O_RDONLY | os.O_CREAT, 0o644)  # open until the process ends
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(own)
    if is_new:
        _remove_old_versions(kernels, own)
    return own


def _make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, for nobody else to write to."""
    if not path.exists():
        _make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir(0o755)


def _check_folder(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(path))
    if not _is_trusted(status):
        raise PermissionError(errno.EPERM, "it belongs to another user, or others may write to it", str(path))


def _is_trusted(status: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):  # Windows: what is the user's own is so by its place
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _remove_old_versions(kernels: Path, own: Path) -> None:
    """Remove the folders beside ``own`` that no process uses, but for those used last."""
    with suppress(OSError):  # another process may be doing the same
        others = [path for path in kernels.iterdir() if path != own and (path / IN_USE).is_file()]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[KEPT_VERSIONS - 1 :]:
            with suppress(OSError):
                _remove_unused(old)


def _remove_unused(path: Path) -> None:
    """Remove a folder; raise OSError if a process uses it."""
    if fcntl is None:
        (path / IN_USE).unlink()
        shutil.rmtree(path)
        return
    descriptor = os.open(path / IN_USE, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(descriptor)


def _checksum() -> str:
    """Return what tells the source files of this room from all their other versions."""
    digest = hashlib.sha256()
    for file in sorted(files(ROOM).iterdir(), key=lambda file: file.name):
        if file.name.endswith((".py", ".pyc")):  # the latter where the source is not installed
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


CHECKSUM = _checksum()  # at import: of the files that this process runs
