"""The safetensors format: named arrays in one file that runs no code, and texts to go with them.

Eight bytes give the length of a JSON header, which says of each array its dtype, its shape and where its bytes lie; the
bytes follow, one array after the other without gaps. The header is checked against the file before anything is
allocated. Reading takes the arrays' memory and at most 30 times that of the header, which may have `LONGEST_HEADER`
bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minires.io.files import Buffer, open_plain, write_whole
from minires.io.messages import FileError, shown

LONGEST_HEADER = 16 * 2**20
MOST_AXES = 32
METADATA = "__metadata__"

_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_CODES = {name: code for code, name in _NAMES.items()}


class _Entry(NamedTuple):
    """An array as the header describes it; ``begin`` counts from the end of the header."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def end(self) -> int:
        return self.begin + math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays on the CPU, whole or not at all.

    Raises
    ------
    TypeError
        If the format has no such dtype.
    ValueError
        If an array has the one name that the format keeps for itself, or one that is no Unicode text.
    OSError
        If the file cannot be written.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    contents: list[Buffer] = []
    end = 0
    # Those of large elements first: each then begins where its elements may be read at once.
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if name == METADATA:
            raise ValueError(f"a tensor cannot be saved as {METADATA!r}: safetensors keeps that name for itself")
        if array.dtype.name not in _CODES:
            raise TypeError(
                f"{shown(name)} is of {array.dtype.name}, which safetensors does not hold: convert it first, for "
                "instance with .float()"
            )
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        contents.append(values.reshape(-1).view(np.uint8).data)
        begin, end = end, end + values.nbytes
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": array.shape, "data_offsets": (begin, end)}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a name or text cannot be saved: it is no Unicode text ({error.reason})") from error
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"the names and texts take {len(text):,} bytes, more than the {LONGEST_HEADER:,} of a header")
    write_whole(path, [len(text).to_bytes(8, "little"), text, *contents])


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays of a safetensors file, each in memory of its own, and its metadata.

    Raises
    ------
    FileError
        If it is no safetensors file, or a damaged or truncated one.
    ImportError
        If it holds a dtype that NumPy lacks, and ml_dtypes is not installed.
    OSError
        If it cannot be read, or is no plain file.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(path, f"{size:,} bytes" if size else "it is empty")
        if length > LONGEST_HEADER:
            raise _damaged(path, f"a header of {length:,} bytes")
        try:
            entries, metadata = _parse(file.read(length))
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(path, f"its header: {error}") from error
        end = entries[-1].end if entries else 0
        if end != size - 8 - length:
            raise _damaged(path, f"{size - 8 - length:,} bytes where its header promises {end:,}")
        arrays = {}
        for entry in entries:
            array = arrays[entry.name] = np.empty(entry.shape, entry.dtype)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise _damaged(path, "it became shorter while it was read")
    return arrays, metadata


def _damaged(path: str | os.PathLike[str], verdict: str) -> FileError:
    return FileError(f"{os.fspath(path)}: no safetensors file, or a damaged or truncated one ({verdict})")


def _parse(header: bytes) -> tuple[list[_Entry], dict[str, str]]:
    """Return the arrays in the order of their bytes, which leave no gaps, and the metadata; ValueError if not so."""
    content = json.loads(header.decode(), object_pairs_hook=_without_repetition)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"its {METADATA} are no texts")
    entries = sorted((_entry(name, described) for name, described in content.items()), key=lambda e: (e.begin, e.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise ValueError(f"{shown(entry.name)} begins at byte {entry.begin:,} instead of {position:,}")
        position = entry.end
    return entries, metadata


def _entry(name: str, described: Any) -> _Entry:
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown(name)} has not just a dtype, a shape and data_offsets")
    code, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(code, str) or code not in _NAMES:
        raise ValueError(f"{shown(name)} has the dtype {shown(code)}, which minires does not know")
    if not _are_lengths(shape) or not _are_lengths(offsets) or len(shape) > MOST_AXES or len(offsets) != 2:
        raise ValueError(f"{shown(name)} has the shape {shown(shape)} and the offsets {shown(offsets)}")
    entry = _Entry(name, _dtype(code), tuple(shape), offsets[0])
    if entry.end != offsets[1]:
        raise ValueError(f"{shown(name)} takes {entry.end - entry.begin:,} bytes, not those of its offsets")
    return entry


def _are_lengths(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _dtype(code: str) -> np.dtype:
    name = _NAMES[code]
    if not hasattr(np, name):
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(f"{name} needs ml_dtypes: install it with pip install 'minires[bfloat16]'") from error
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name comes twice")
    return content
