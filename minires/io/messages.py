"""Text from files and file names in messages: short, on one line, and without characters that steer a terminal."""

from __future__ import annotations

import reprlib
import unicodedata
from typing import Any

LONGEST_MESSAGE = 800

_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 60
_VALUES.maxlevel = 2


class FileError(ValueError):
    """A file is missing, damaged, or not what its name says; the message is one line (see `one_line`) and names it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Return ``text`` as one printable line; of one longer than `LONGEST_MESSAGE` the middle is left out."""
    if len(text) > 2 * LONGEST_MESSAGE:  # not to walk through megabytes
        text = f"{text[:LONGEST_MESSAGE]}\n{text[-LONGEST_MESSAGE:]}"
    line = printable(" ".join(part.strip() for part in text.splitlines() if part.strip()))
    if len(line) <= LONGEST_MESSAGE:
        return line
    half = (LONGEST_MESSAGE - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def printable(text: str) -> str:
    r"""Return ``text`` with ``\x1b`` and the like for control characters and for bytes of a name that are not UTF-8."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode()
        for char in text
    )


def shown(value: Any) -> str:
    """Return the repr of a value out of a file, cut to about sixty characters."""
    return _VALUES.repr(value)


def reason(error: OSError) -> str:
    """Return why the system refused something, as part of a sentence."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
