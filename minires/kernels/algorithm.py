"""Which way convolutions are computed: the user's choice, which the compiled kernels ask for."""

from __future__ import annotations

from types import TracebackType

ALGORITHMS = ("auto", "im2col", "winograd")

_algorithm = "auto"


def chosen_algorithm() -> str:
    """Return the choice in force, one of ALGORITHMS."""
    return _algorithm


class conv_algorithm:
    """Choose how the CPU computes convolutions, from now on or, in a ``with`` statement, inside it.

    Parameters
    ----------
    name : str
        "im2col" sums products in their plain order; "winograd" takes Winograd's F(4x4, 3x3) wherever it can, 3x3
        filters at stride 1 in float32 with channels in multiples of a vector; "auto" (the default) takes it where it
        was measured to be faster. float64 always takes the plain order. Winograd's sums are two to four times less
        exact; what it may not be trusted with, NaN, infinity and numbers far from their neighbours, takes the plain
        order as well (docs/performance.md, "How exact").

    Raises
    ------
    ValueError
        If there is no such algorithm.

    Examples
    --------
    >>> with minires.conv_algorithm("im2col"):
    ...     y = F.conv2d(x, w)
    """

    def __init__(self, name: str) -> None:
        global _algorithm
        if name not in ALGORITHMS:
            raise ValueError(f"unknown convolution algorithm {name!r}: choose one of {', '.join(ALGORITHMS)}")
        self.before, _algorithm = _algorithm, name

    def __enter__(self) -> conv_algorithm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _algorithm
        _algorithm = self.before
