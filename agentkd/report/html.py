"""A report as one page that needs nothing but a browser, not even a network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape as escape_markup
from typing import Any

from agentkd.printable import printable
from agentkd.report.model import NOTHING, Column, Section, Table
from agentkd.report.plots import svg

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5c6670; --line: #d8dde3;
  --page: #fff; --card: #f6f8fa; --accent: #0b7285; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #98a2ae;
  --line: #333a44; --page: #14171b; --card: #1c2026; --accent: #66d9e8; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .2rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem; }
.sub, figcaption, caption, footer { color: var(--dim); font-size: .85rem; }
.cards { display: grid; gap: .8rem; margin: 1.4rem 0;
  grid-template-columns: repeat(auto-fill, minmax(9.6rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .7rem 1rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.3; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card span, .card small { display: block; font-size: .85rem; line-height: 1.35; }
.card small { color: var(--dim); font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; }
th, td { text-align: left; padding: .35rem 1rem .35rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: .9rem; }
th.number, td.number { text-align: right; } td.number { white-space: nowrap; }
tbody tr:hover { background: var(--card); }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .6rem; padding: .5rem; }
figcaption { margin-top: .3rem; }
.note { border-left: .2rem solid var(--accent); padding-left: .6rem; }
code { overflow-wrap: anywhere; font-size: .85rem; }
footer { margin: 3rem 0 1rem; border-top: 1px solid var(--line);
  padding-top: .8rem; }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
  margin: 0; } footer dd { margin: 0; }
@media print { body { margin: 0; max-width: none; } figure { break-inside: avoid; } }
"""

# Nothing is fetched and no script runs, whatever a name in a report holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_CARDS: tuple[tuple[str, str, str], ...] = (
    ("retention", "retention", ".3f"),
    ("executor_return", "executor's return", ",.1f"),
    ("runtime_return", "runtime's return", ",.1f"),
    ("planner_return", "planner's return", ",.1f"),
    ("random_return", "return of random actions", ",.1f"),
    ("executor_parameters", "executor's parameters", ",.0f"),
    ("planner_parameters", "planner's parameters", ",.0f"),
    ("labels", "labels", ",.0f"),
    ("deadline_miss_total", "deadlines missed", ",.0f"),
)


def escape(text: str) -> str:
    """Escape markup, and control characters too."""
    return escape_markup(printable(text, lines=True))


def _cards(data: Mapping[str, Any]) -> str:
    cards = []
    for key, label, form in _CARDS:
        if isinstance(data.get(key), (int, float)):
            column, pair = Column(label, form=form), data.get(f"{key}_interval")
            small = column.text(pair) if pair and None not in pair else ""
            cards.append((column.text(data[key]), label, small))
    latency = data.get("decision_latency_us")
    if isinstance(latency, Mapping) and latency.get("p50") is not None:
        tail = latency.get("p99")
        small = "" if tail is None else f"p99 {tail:.1f} µs"
        cards.append((f"{latency['p50']:.1f} µs", "one decision, p50", small))
    inside = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span>'
        f"<small>{escape(small)}</small></div>"
        for value, label, small in cards
    )
    return f'<div class="cards">{inside}</div>' if cards else ""


def _table(table: Table) -> str:
    heads = table.heads()
    sides = [' class="number"' if right else "" for right in table.numeric()]
    helps = [f' title="{escape(head.help)}"' if head.help else "" for head in heads]
    head = "".join(
        f"<th{side}{told}>{escape(each.title)}</th>"
        for each, side, told in zip(heads, sides, helps, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{side}>{escape(cell)}</td>" for cell, side in zip(row, sides, strict=True))
        + "</tr>"
        for row in table.texts()
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    paragraphs = [each for each in section.text.split("\n\n") if each.strip()]
    parts += [f"<p>{escape(each)}</p>" for each in paragraphs]
    parts += [f'<p class="note">{escape(each)}</p>' for each in section.notes]
    if section.table is not None:
        parts.append(_table(section.table))
    for plot in section.plots:
        try:
            drawn = svg(plot)
        except ModuleNotFoundError as error:
            parts.append(
                f"<p class=sub>{escape(plot.title)}: plots need the package "
                f"{escape(str(error.name))}.</p>"
            )
            continue
        if not drawn:
            continue
        note = f"<figcaption>{escape(plot.note)}</figcaption>" if plot.note else ""
        parts.append(f"<figure>{drawn}{note}</figure>")
    parts.append("</section>")
    return "\n".join(parts)


def _subtitle(data: Mapping[str, Any]) -> str:
    known = {
        "planner": data.get("planner_name"),
        "executor": data.get("architecture"),
        "episodes": data.get("episodes"),
        "seed": data.get("seed"),
    }
    return ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)


def _footer(data: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in data["versions"].items())
    rows = {
        "command": f"<code>{escape(shlex.join(map(str, data['argv'])))}</code>",
        "seed": escape(str(data.get("seed", NOTHING))),
        "date": escape(str(data["date"])),
        "machine": escape(str(data["platform"])),
        "versions": escape(versions),
        "schema": escape(str(data["schema"])),
    }
    inside = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())
    return f"<footer><dl>{inside}</dl></footer>"


def page(data: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """Make the page: headline figures, the sections, and how to get them again.

    Args:
        data: What report.json holds.
        sections: What is shown below the headline figures.

    Returns:
        The HTML; every text in it is escaped.
    """
    words = ("agentkd", data.get("command"), data.get("env"))
    title = " ".join(str(word) for word in words if word)
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="sub">{escape(_subtitle(data))}</p>
{_cards(data)}
{body}
{_footer(data)}
</body>
</html>
"""
