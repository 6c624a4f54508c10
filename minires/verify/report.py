"""A result for terminals: a table of blocks, the worst entries, and what may be wrong. Rich draws it."""

from __future__ import annotations

from typing import Any

from minires.verify.result import Result
from minires.verify.verdict import ORDER, Verdict

STYLES = {Verdict.EQUAL: "green", Verdict.DIFFERENT: "bold red", Verdict.NOT_DETERMINISTIC: "bold red"}
ROWS = 20


def rendered(result: Result) -> Any:
    """Return the result as a Rich renderable; ``rich.print(result)`` shows it."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(_headline(result), style=STYLES.get(result.verdict, "yellow"))]
    if result.failure is not None:
        return Group(Text(result.failure[1], style=STYLES.get(result.verdict, "yellow")))
    table = Table("output", "input", "derivatives", "verdict")
    worst_first = sorted(result.blocks, key=lambda block: -ORDER.index(block.verdict))
    for block in worst_first[:ROWS]:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in block.counts.items())
        shapes = (f"{block.output} {list(block.output_shape)}", f"{block.input} {list(block.input_shape)}")
        style = STYLES.get(block.verdict, "yellow")
        table.add_row(*map(escape, shapes), counts, Text(str(block.verdict), style=style))
    parts.append(table)
    if len(worst_first) > ROWS:
        parts.append(Text(f"... and {len(worst_first) - ROWS} more"))
    entries = [entry for block in worst_first for entry in block.worst]
    if entries:
        table = Table("of", "by", title="worst entries")
        for heading in ("analytical", "numerical", "±"):  # a number that is cut off is another number
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict")
        for entry in entries[:ROWS]:
            numbers = (f"{entry.analytical:.8g}", f"{entry.numerical:.8g}", f"{entry.expected_error:.1g}")
            table.add_row(escape(entry.output), escape(entry.input), *numbers, str(entry.verdict))
        parts.append(table)
    for block in worst_first:
        for diagnosis in block.diagnoses:
            parts.append(Text(f"{block.output} by {block.input}: {diagnosis.text}", style="bold"))
    parts += [Text(note) for note in result.notes]
    return Group(*parts)


def _headline(result: Result) -> str:
    text = f"{result.verdict}: {sum(result.counts().values())} derivatives ({result.mode})"
    text += f", {result.evaluations} evaluations in {result.seconds:.2g} s"
    if result.redrawn or result.nudged:
        text += f"; kinks: directions redrawn {result.redrawn} times, inputs nudged {result.nudged} times"
    return text
