"""Weights on disk, and what all files go through: opened only if plain, written whole, named in short messages."""

from minires.io.files import check_plain, lock, open_plain, write_all, write_whole
from minires.io.messages import FileError, one_line, printable, reason, shown
from minires.io.tensor_file import read_tensors, write_tensors
from minires.io.weights import load, save

__all__ = [
    "FileError",
    "check_plain",
    "load",
    "lock",
    "one_line",
    "open_plain",
    "printable",
    "read_tensors",
    "reason",
    "save",
    "shown",
    "write_all",
    "write_tensors",
    "write_whole",
]
