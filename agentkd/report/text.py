"""Reports as Markdown, and their first table as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from agentkd.printable import printable
from agentkd.report.model import Report, Table


def markdown(report: Report) -> str:
    """Write the sections with their tables, without plots."""
    parts = []
    for section in report.sections:
        parts.append(f"## {_inline(section.title)}")
        texts = (section.text, *section.notes)
        parts += [_inline(each, lines=True) for each in texts if each]
        if section.table is not None and section.table.rows:
            parts.append(_table(section.table))
            parts += [_inline(each) for each in [section.table.caption] if each]
    return "\n\n".join(parts) + "\n"


def _inline(text: str, *, lines: bool = False) -> str:
    escaped = printable(text, lines=lines).replace("\\", "\\\\").replace("<", "&lt;")
    return escaped.replace("|", "\\|")


def _table(table: Table) -> str:
    sides = ["--:" if right else ":--" for right in table.numeric()]
    rows = [[head.title for head in table.heads()], *table.texts()]
    lines = [f"| {' | '.join(map(_inline, row))} |" for row in rows]
    return "\n".join([lines[0], f"| {' | '.join(sides)} |", *lines[1:]])


def comma_separated(table: Table) -> str:
    """Write a table's values, unrounded."""

    def plain(cell: Any) -> Any:
        if isinstance(cell, (list, tuple)):
            return " … ".join(map(str, cell))
        if isinstance(cell, str):
            return printable(cell)
        return "" if cell is None or cell != cell else cell

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([printable(head.title) for head in table.heads()])
    writer.writerows([plain(cell) for cell in row] for row in table.rows)
    return out.getvalue()
