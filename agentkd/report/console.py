"""Reports in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from agentkd.report.model import Report, Section, Table
from agentkd.report.write import write_report

if TYPE_CHECKING:
    import rich.console

_NAME = 24
"""Characters up to which a row's name stays in the table if the table does not fit."""
_ENDLESS = 10_000


def publish(console: rich.console.Console, report: Report, out: Path | None) -> None:
    """Write a report into a folder, if one is given, and show it.

    Raises:
        WriteError: If the disk refuses; an earlier report stays whole.
    """
    if out is not None:
        write_report(out, report)
    if report.lead:
        console.print(Text(report.lead, "bold"))
    shown = [each for each in report.sections if not each.detail]
    for number, section in enumerate(shown):
        if number:
            console.print(Text(section.title, "bold"))
        show(console, section)
    written = {} if out is None else {"report": str(out / "report.html")}
    for name, text in {**report.files, **written}.items():
        # Unbroken, to be copied.
        console.print(Text(f"{name:<10}{text}"), soft_wrap=True)


def show(console: rich.console.Console, section: Section) -> None:
    """Print a section without its title and plots."""
    if section.text:
        console.print(Text(section.text))
    if section.table is not None and section.table.rows:
        show_table(console, section.table)
    for note in section.notes:
        console.print(Text(note, "yellow"))


def show_table(console: rich.console.Console, table: Table) -> None:
    """Print a table.

    Where it is wider than the terminal, columns that may be spared are left out, and names of rows
    that are long, or in several columns, stand above it, each row with a number.
    """
    grid = _grid(table)
    if _is_wide(console, grid):
        table = _without_spare(table)
        grid = _grid(table)
        names = _names(table)
        longest = max(len(str(row[0])) for row in table.rows)
        if (longest > _NAME or names > 1) and _is_wide(console, grid):
            rows, more = [], [head.title for head in table.heads()[1:names]]
            for number, row in enumerate(table.rows, 1):
                told = [row[0], *map("{} {}".format, more, row[1:names])]
                console.print(Text(f"{number:>2}  {', '.join(told)}"), soft_wrap=True)
                rows.append([f"{number:>2}", *row[names:]])
            grid = _grid(Table(["", *table.columns[names:]], rows))
            grid.columns[0].min_width = 2
    console.print(grid)
    if table.caption:
        console.print(Text(table.caption, "dim"))


def _names(table: Table) -> int:
    """Return how many columns of texts come before numbers; one where there are no numbers."""
    numeric = table.numeric()
    return max(1, numeric.index(True)) if True in numeric else 1


def _is_wide(console: rich.console.Console, grid: Grid) -> bool:
    room = console.options.update(width=_ENDLESS)
    return Measurement.get(console, room, grid).maximum > console.width


def _without_spare(table: Table) -> Table:
    kept = [i for i, head in enumerate(table.heads()) if not head.spare]
    columns = [table.columns[i] for i in kept]
    return Table(columns, [[row[i] for i in kept] for row in table.rows], table.caption)


def _grid(table: Table) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head, right in zip(table.heads(), table.numeric(), strict=True):
        grid.add_column(
            Text(head.title),
            justify="right" if right else "left",
            # A number that is cut off is seen to be.
            overflow="ellipsis" if right else "fold",
            no_wrap=right,
        )
    for row in table.texts():
        grid.add_row(*map(Text, row))
    return grid
