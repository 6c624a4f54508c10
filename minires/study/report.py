"""The report: text, figures and numbers as one HTML file that needs nothing else, with CSV files beside it."""

from __future__ import annotations

import base64
import csv
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.study.errors import StudyError

if TYPE_CHECKING:
    from jinja2 import Template

ROWS_SHOWN = 60  # of a table, in the page; its CSV file has them all


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text, and ``alt``, what it shows to those who cannot see it."""

    svg: str
    alt: str

    @property
    def source(self) -> str:
        """The figure as the data URI of an image: ids inside it cannot clash with those of another."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


@dataclass(frozen=True)
class Table:
    """Numbers behind a section; ``rows`` are records with the same names each."""

    name: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> list[str]:
        """The names of the records."""
        return list(self.rows[0]) if self.rows else []

    @property
    def shown(self) -> list[list[str]]:
        """The cells of the first rows, as the page has them."""
        return [[_cell(value) for value in row.values()] for row in self.rows[:ROWS_SHOWN]]

    @property
    def file_name(self) -> str:
        """The name of the CSV file."""
        return f"{self.name}.csv"


@dataclass(frozen=True)
class Section:
    """One instrument's part of the report.

    Attributes
    ----------
    key : short name, for links and files
    title : heading
    text : paragraphs: what is shown and how to read it
    findings : sentences with this run's numbers
    problem : why there is nothing to show, or ""
    """

    key: str
    title: str
    text: Sequence[str]
    findings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """A whole report; ``facts`` says how it was made, the command first."""

    title: str
    summary: str
    command: str
    facts: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder if there is none, and try whether a file can be written into it.

    Raises
    ------
    StudyError
        If that fails, or there is no room for the page.
    """
    path = Path(folder)
    page = path / "report.html"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if page.exists() and not page.is_file():
            raise StudyError(f"{page}: is in the way of the report, and is no file: choose another folder")
        with page.open("ab") if page.exists() else tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write_report(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` and a CSV file for each table into ``folder``; return the path of the page.

    Raises
    ------
    ImportError
        If Jinja2 is not installed.
    StudyError
        If the folder cannot be written to.
    """
    page = render(report)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for section in report.sections:
            for table in section.tables:
                _write_csv(table, path / table.file_name)
        (path / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error
    return path / "report.html"


def _unwritable(path: Path, error: OSError) -> StudyError:
    return StudyError(f"{path}: cannot be written to: {(error.strerror or str(error)).lower()}")


def render(report: Report) -> str:
    """Return the page of a report.

    Raises
    ------
    ImportError
        If Jinja2 is not installed.
    """
    return template().render(report=report, rows_shown=ROWS_SHOWN)


def template() -> Template:
    """Return the template of the page.

    Raises
    ------
    ImportError
        If Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("reports need Jinja2: pip install 'minires[study]'") from error
    environment = Environment(
        loader=PackageLoader("minires.study", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _write_csv(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
