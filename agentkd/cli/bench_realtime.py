"""What the commands of `agentkd bench realtime` share: tables, reports, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.report.model import Report, Section, Table
from agentkd.report.write import prepare_out, write_report


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the results go."""

    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""
    json: bool = False
    """Print the results as JSON instead of the table."""

    def prepare(self) -> None:
        """Make the folder, before anything is measured."""
        if self.out is not None:
            prepare_out(self.out, overwrite=self.overwrite)

    def console(self) -> Console:
        """Where progress is shown: apart from the JSON, if that is wanted."""
        return Console(stderr=self.json)

    def deliver(self, data: Mapping[str, Any], sections: Sequence[Section], verdict: str) -> None:
        """Print the tables or the JSON, and write the report."""
        if self.json:
            sys.stdout.write(json.dumps(_plain(data), indent=1) + "\n")
        else:
            console = Console()
            for section in sections:
                console.print(Text(section.title, "bold"))
                if section.table is not None:
                    console.print(grid(section.table))
                    if section.table.caption:
                        console.print(Text(section.table.caption, "dim"))
            if verdict:
                console.print(verdict, highlight=False)
        if self.out is not None:
            write_report(self.out, Report(data, sections))
            where = self.out / "report.html"
            Console(stderr=self.json).print(f"report    {where}")


def grid(table: Table) -> Grid:
    """Lay a table out for a terminal: texts to the left, figures to the right."""
    out = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, head in enumerate(table.heads()):
        side: Any = "left" if _is_text(table.rows, index) else "right"
        out.add_column(head.title, justify=side, no_wrap=True)
    for row in table.rows:
        out.add_row(*(str(cell) for cell in row))
    return out


def _is_text(rows: Sequence[Sequence[Any]], index: int) -> bool:
    return any(str(row[index])[:1].isalpha() for row in rows)


def _plain(value: Any) -> Any:
    """Numbers that JSON knows: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def whole(text: str, what: str, least: float) -> tuple[float, ...]:
    """Read numbers separated by commas.

    Raises:
        ConfigError: If one is none, or below the least.
    """
    from agentkd.errors import ConfigError

    try:
        found = tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise ConfigError(f"{what} {text!r}: numbers, separated by commas.") from error
    if not found or any(not least <= each < float("inf") for each in found):
        raise ConfigError(f"{what} {text!r}: at least one, none below {least:g}.")
    return found
