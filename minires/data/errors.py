"""The one exception of the data room."""

from __future__ import annotations

from minires.io import FileError


class DataError(FileError):
    """A data file or folder is missing, damaged, or not what its name says; the message is one line and names it."""
