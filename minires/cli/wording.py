"""How the command counts things."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return "1 epoch", "2 epochs", "1,000 epochs"; ``many`` is the plural where an s is not all it takes."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
