"""Drawing a layered graph as SVG: each node below all that lead to it, long arrows in arcs beside the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

ROW, HEIGHT, GAP, MARGIN = 84, 34, 40, 16  # pixels
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
    centres = _centres(rows, widths, caption_widths)
    places = [(centres[number], MARGIN + rows[number] * ROW) for number in range(len(nodes))]
    parts: list[str] = []
    captions: list[str] = []  # drawn last, with a white edge, where arcs cross them
    left, right = 0.0, 0.0
    lanes: dict[int, int] = defaultdict(int)
    for source, target, label in arrows:
        (x1, y1), (x2, y2) = places[source], places[target]
        y1 += HEIGHT
        if rows[target] - rows[source] == 1:
            path = f"M{x1:.0f},{y1} C{x1:.0f},{y1 + 20} {x2:.0f},{y2 - 20} {x2:.0f},{y2 - 6}"
            if x1 == x2:
                x, y = x2 + 6, (y1 + y2) / 2 + 4
            elif heads[target] == 1:  # beside the head, or else where several heads meet beside the tail
                x, y = x2 + 6, y2 - 14
            else:
                x, y = x1 + 6, y1 + 22
        else:
            widest = max(
                abs(places[n][0]) + widths[n] / 2 for n in range(len(nodes)) if rows[source] < rows[n] < rows[target]
            )
            bulge = widest + GAP + 120 * (1 + lanes[source])
            lanes[source] += 1
            path = f"M{x1:.0f},{y1} C{bulge:.0f},{y1 + 30} {bulge:.0f},{y2 - 30} {x2 + 14:.0f},{y2 - 6}"
            x, y = 0.75 * bulge + 0.125 * (x1 + x2) + 6, (y1 + y2) / 2 + 4
        parts.append(f'<path d="{path}" fill="none" stroke="#444" stroke-width="1.2" marker-end="url(#head)"/>')
        captions.append(
            f'<text x="{x:.0f}" y="{y:.0f}" font-size="11" fill="#333" stroke="#fff" stroke-width="4" '
            f'paint-order="stroke">{escape(label)}</text>'
        )
        right = max(right, x + _caption_width(label))
    for (label, kind), (x, y), width in zip(nodes, places, widths, strict=True):
        radius = HEIGHT / 2 if kind in ("input", "output") else 4
        parts.append(
            f'<rect x="{x - width / 2:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="{radius:.0f}" '
            f'fill="{_FILL[kind]}" stroke="#444"/>'
        )
        parts.append(
            f'<text x="{x:.0f}" y="{y + 21}" text-anchor="middle" font-size="13" fill="#111">{escape(label)}</text>'
        )
        left, right = min(left, x - width / 2), max(right, x + width / 2)
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


def _centres(rows: Sequence[int], widths: Sequence[float], caption_widths: Sequence[float]) -> list[float]:
    """Return the horizontal centre of each node: those of one row side by side around 0, with room for captions."""
    members = defaultdict(list)
    for number, row in enumerate(rows):
        members[row].append(number)
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
