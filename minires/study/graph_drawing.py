"""Drawing a layered graph as SVG: each node below all that lead to it, long arrows to the right of all else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

ROW, HEIGHT, GAP, MARGIN, BEND = 84, 34, 40, 16, 10  # pixels
CHARACTER = 7.4  # width of a character of 13 pixels, on the safe side
_FILL = {"input": "#e8f1f8", "output": "#e8f1f8", "operation": "#ffffff", "module": "#f3f0e6"}


def to_svg(nodes: Sequence[tuple[str, str]], arrows: Sequence[tuple[int, int, str]]) -> str:
    """Return the SVG text of a graph without cycles.

    Parameters
    ----------
    nodes : (label, kind), sources before targets
    arrows : (source, target, label)
    """
    rows = _rows(len(nodes), arrows)
    widths = [CHARACTER * len(label) + 24 for label, _ in nodes]
    short = [(source, target, label) for source, target, label in arrows if rows[target] - rows[source] == 1]
    heads = Counter(target for _, target, _ in short)
    caption_widths = [0.0] * len(nodes)
    for source, target, label in short:
        node = target if heads[target] == 1 else source
        caption_widths[node] = max(caption_widths[node], _caption_width(label))
    long = [arrow for arrow in arrows if rows[arrow[1]] - rows[arrow[0]] > 1]
    aside = [0.0] * len(nodes)  # how much each node, and less so what leads to it, wants to be where long arrows run
    for source, target, _ in long:
        aside[source], aside[target] = aside[source] + 1, aside[target] + 1
    for source, target, _ in reversed(short):
        aside[source] = max(aside[source], aside[target] / 2)
    centres = _centres(rows, widths, caption_widths, aside)
    places = [(centres[number], MARGIN + rows[number] * ROW) for number in range(len(nodes))]
    parts: list[str] = []
    captions: list[str] = []  # drawn last, with a white edge, where curves cross them
    reach = [0.0] * (2 * max(rows) + 1)  # how far to the right each row, and each gap below one, is taken

    def draw(path: str, x: float, y: int, label: str) -> None:
        parts.append(f'<path d="{path}" fill="none" stroke="#444" stroke-width="1.2" marker-end="url(#head)"/>')
        captions.append(
            f'<text x="{x:.0f}" y="{y}" font-size="11" fill="#333" stroke="#fff" stroke-width="4" '
            f'paint-order="stroke">{escape(label)}</text>'
        )

    for number, (x, _) in enumerate(places):
        reach[2 * rows[number]] = max(reach[2 * rows[number]], x + widths[number] / 2)
    for source, target, label in short:
        (x1, y1), (x2, y2) = places[source], places[target]
        y1 += HEIGHT
        if x1 == x2:
            path, x, y = f"M{x1:.0f},{y1} V{y2 - 6}", x2 + 6, (y1 + y2) // 2 + 4
        elif heads[target] == 1:  # aside at the tail, and the caption beside the head
            path = f"M{x1:.0f},{y1} C{x1:.0f},{y1 + 22} {x2:.0f},{y1 + 4} {x2:.0f},{y1 + 26} V{y2 - 6}"
            x, y = x2 + 6, y2 - 10
        else:  # where several heads meet, aside there, and the caption beside the tail
            path = f"M{x1:.0f},{y1} V{y2 - 28} C{x1:.0f},{y2 - 6} {x2:.0f},{y2 - 26} {x2:.0f},{y2 - 6}"
            x, y = x1 + 6, y1 + 15
        draw(path, x, y, label)
        below = 2 * rows[source] + 1
        reach[below] = max(reach[below], x + _caption_width(label), x1, x2)
    for source, target, label in sorted(long, key=lambda arrow: rows[arrow[1]] - rows[arrow[0]]):
        (x1, y1), (x2, y2) = places[source], places[target]
        x1, x2 = x1 + widths[source] / 2, x2 + widths[target] / 2
        y1, y2 = y1 + HEIGHT - 10, y2 + 10
        first, last = 2 * rows[source], 2 * rows[target]
        lane = max(reach[first : last + 1]) + GAP / 2
        path = (
            f"M{x1:.0f},{y1} H{lane - BEND:.0f} q{BEND},0 {BEND},{BEND} V{y2 - BEND} q0,{BEND} -{BEND},{BEND} "
            f"H{x2 + 6:.0f}"
        )
        gap = (rows[source] + rows[target] - 1) // 2  # in the middle, and where no long arrow leaves or arrives
        draw(path, lane + 6, MARGIN + gap * ROW + (HEIGHT + ROW) // 2 + 4, label)
        reach[first + 1 : last] = [lane + 6 + _caption_width(label)] * (last - first - 1)
    left, right = 0.0, max(reach)
    for (label, kind), (x, y), width in zip(nodes, places, widths, strict=True):
        radius = HEIGHT / 2 if kind in ("input", "output") else 4
        parts.append(
            f'<rect x="{x - width / 2:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="{radius:.0f}" '
            f'fill="{_FILL[kind]}" stroke="#444"/>'
        )
        parts.append(
            f'<text x="{x:.0f}" y="{y + 21}" text-anchor="middle" font-size="13" fill="#111">{escape(label)}</text>'
        )
        left = min(left, x - width / 2)
    width, height = right - left + 2 * MARGIN, (max(rows) + 1) * ROW - ROW + HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{left - MARGIN:.0f} 0 {width:.0f} {height:.0f}" font-family="sans-serif">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#444"/></marker></defs>' + "".join(parts + captions) + "</svg>"
    )


def _rows(count: int, arrows: Sequence[tuple[int, int, str]]) -> list[int]:
    """Return the row of each node: one below the lowest of those that lead to it."""
    sources = defaultdict(list)
    for source, target, _ in arrows:
        sources[target].append(source)
    rows: list[int] = []
    for number in range(count):
        rows.append(max((rows[source] + 1 for source in sources[number]), default=0))
    return rows


def _centres(
    rows: Sequence[int], widths: Sequence[float], caption_widths: Sequence[float], aside: Sequence[float]
) -> list[float]:
    """Return the horizontal centre of each node: those of one row side by side around 0, with room for captions.

    The larger a node's ``aside``, the further to the right it stands.
    """
    members = defaultdict(list)
    for number in sorted(range(len(rows)), key=lambda number: aside[number]):
        members[rows[number]].append(number)
    centres = [0.0] * len(rows)
    for side_by_side in members.values():
        for left, right in pairwise(side_by_side):
            apart = max((widths[left] + widths[right]) / 2 + GAP, caption_widths[left] + GAP / 2)
            centres[right] = centres[left] + apart
        first, last = side_by_side[0], side_by_side[-1]
        middle = (centres[first] - widths[first] / 2 + centres[last] + widths[last] / 2) / 2
        for number in side_by_side:
            centres[number] -= middle
    return centres


def _caption_width(label: str) -> float:
    return 0.85 * CHARACTER * len(label)
