"""A report as one value: tables, plots and sections, and the text of each cell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

NOTHING = "–"
"""Shown for a value that is missing or not a number."""
_EMPTY = ("", NOTHING)
_NUMBER = re.compile(r"[\[(]?[-+]?\.?\d")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, with the unit of its values and a sentence on what it holds.

    Attributes:
        form: How its numbers are formatted, such as ",.1f".
        join: What stands between the numbers of a cell that holds several.
        spare: Whether a narrow terminal may leave it out.
    """

    name: str
    unit: str = ""
    form: str = ""
    help: str = ""
    join: str = " … "
    spare: bool = False

    @property
    def title(self) -> str:
        """The name with the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, value: Any) -> str:
        """Format a cell: text, a number, several numbers, or None."""
        if isinstance(value, (tuple, list)):
            known = all(each is not None and each == each for each in value)
            return self.join.join(map(self.text, value)) if known else NOTHING
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return NOTHING
        if isinstance(value, str) or not self.form:
            return str(value)
        return format(value, self.form)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under columns, with a sentence under them.

    A name stands for a column of texts. A cell is text, a number, several numbers, or None.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def heads(self) -> list[Column]:
        """Return all columns as `Column`."""
        return [each if isinstance(each, Column) else Column(each) for each in self.columns]

    def texts(self) -> list[list[str]]:
        """Return the text of each cell, row by row."""
        heads = self.heads()
        return [
            [head.text(cell) for head, cell in zip(heads, row, strict=True)] for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """Return for each column whether its cells are numbers or empty."""
        columns = zip(*self.texts(), strict=True)
        found = [
            any(cell not in _EMPTY for cell in column)
            and all(cell in _EMPTY or _is_number(cell) for cell in column)
            for column in columns
        ]
        return found or [False] * len(self.columns)


def _is_number(text: str) -> bool:
    words = sum(character.isalpha() for character in text)
    return _NUMBER.match(text.strip()) is not None and words <= 3


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot, one row of another kind, or one point.

    Attributes:
        name: In the legend, or above the row.
        x: Along the bottom; of a row, its dots; of a strip and a distribution, the edges of what
            `y` tells; of shares, their levels.
        y: Upwards, NaN leaves a gap; of a row, the one value that counts; of a strip, levels; of a
            distribution, counts; of shares, how much each is.
        low: The lower edge of the band or interval, if there is one.
        high: Its upper edge.
        notes: What each value of a strip or of shares is, in words.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    notes: Sequence[str] = ()


Kind = Literal["lines", "rows", "points", "strips", "shares", "distributions"]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over common axes, points with their names, or rows along a common axis.

    A row of `rows` is dots with an interval; of `strips`, what was when; of `shares`, a bar of
    parts; of `distributions`, how often values fell between edges, higher by the logarithm.

    Attributes:
        x_label, y_label: With the unit; rows have no `y_label`.
        note: A sentence under it.
        log: Whether the values' axis is logarithmic; of points, the one below.
        levels: Names of the levels of strips and shares, which have a colour each.
        marks: Values on the axis below to compare with, by name, such as a deadline.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    kind: Kind = "lines"
    log: bool = False
    levels: Sequence[str] = ()
    marks: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a text, a table and plots under it.

    Attributes:
        text: Paragraphs, separated by an empty line.
        plots: Shown on the page only.
        notes: Warnings: what a reader has to know to read the table rightly.
        detail: Whether the section is left out of the terminal.
    """

    title: str
    text: str = ""
    table: Table | None = None
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Film:
    """A moving picture.

    Attributes:
        moving: An animated WebP.
        still: One frame, a WebP: for print, and for readers who want no motion.
        width, height: Of both, in pixels.
        text: What is seen, for readers who do not see it.
        caption: A few sentences under it.
    """

    moving: bytes
    still: bytes
    width: int
    height: int
    text: str
    caption: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a command measured.

    Attributes:
        data: The values of report.json, under the keys of docs/reference/report.md.
        sections: The same for people, the most important first.
        files: What the command leaves and what to do next, by name, for the terminal.
        lead: What came out, in a sentence or two.
        picture: The same as a plot, under the lead.
        film: Shown under both.
    """

    data: Mapping[str, Any]
    sections: Sequence[Section] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    lead: str = ""
    picture: Plot | None = None
    film: Film | None = None
