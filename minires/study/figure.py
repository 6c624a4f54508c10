"""Figures: Matplotlib's, made without its global state, in one look that the report shares."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minires.study.errors import StudyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart by colour-blind readers too. The lighter ones of the eight are left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4A8C", "#5A5A5A", "#8C6D00")
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 5.4  # inches: text of 11 points can still be read where a phone shows the figure at 350 pixels
_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "path",
    "svg.hashsalt": "minires",
}


def new_figure(panels: int = 1, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``panels`` axes below one another, each ``height`` inches high.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need Matplotlib: pip install 'minires[study]'") from error
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height * panels), layout="constrained")
        axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
    return figure, list(axes)


def svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file, the same text for the same figure."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def line_style(index: int) -> dict[str, Any]:
    """Return the colour and the marker of the ``index``-th curve of a figure."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 4}


def legend_above(figure: Figure, axes: Axes) -> None:
    """Write the legend of ``axes`` above all panels: never over a curve, and no search for an empty place."""
    handles, labels = axes.get_legend_handles_labels()
    # At 9 points a character is about 4.8 points wide, a handle with the space around it 43.
    columns = int(72 * WIDTH / (4.8 * max(map(len, labels)) + 43))
    figure.legend(handles, labels, loc="outside upper center", fontsize=9, ncols=max(1, min(columns, len(labels))))


def label_ticks(axes: Axes, names: list[str], most: int = 14) -> None:
    """Write names along the horizontal axis, leaving some out where there are many."""
    step = max(1, -(-len(names) // most))
    places = list(range(0, len(names), step))
    axes.set_xticks(places, [names[place] for place in places], rotation=60, ha="right", fontsize=9)


def whole_ticks(axes: Axes) -> None:
    """Put the ticks of the horizontal axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def check_results(results: Mapping[str, Any]) -> None:
    """Raise StudyError if there is nothing to draw."""
    if not results:
        raise StudyError("there is nothing to draw: give at least one result, as {'residual': result}")
