"""What the instruments raise."""

from __future__ import annotations


class StudyError(ValueError):
    """A model or a batch cannot be studied in this way; the message says why and what to do, in one sentence."""
