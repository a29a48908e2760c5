"""A report as one page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from agentkd.bench.plots import svg

if TYPE_CHECKING:
    from agentkd.bench.report import Section, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667; --line: #d8dde3;
  --page: #fff; --card: #f6f8fa; --accent: #0b66c3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #98a2ae;
  --line: #333a44; --page: #14171b; --card: #1c2026; --accent: #6cb2ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
.sub, figcaption, caption, footer { color: var(--dim); font-size: .85rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem 1rem; min-width: 9rem; }
.card b { display: block; font-size: 1.5rem; color: var(--accent);
  font-variant-numeric: tabular-nums; } .card span { font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .6rem; }
code { overflow-wrap: anywhere; } footer { margin: 3rem 0 1rem;
  border-top: 1px solid var(--line); padding-top: .8rem; }
"""

_CARDS: tuple[tuple[str, str, str], ...] = (
    ("retention", "retention", "{:.3f}"),
    ("executor_return", "executor's return", "{:,.1f}"),
    ("runtime_return", "runtime's return", "{:,.1f}"),
    ("planner_return", "planner's return", "{:,.1f}"),
    ("executor_parameters", "executor's parameters", "{:,.0f}"),
    ("planner_parameters", "planner's parameters", "{:,.0f}"),
    ("labels", "labels", "{:,.0f}"),
)


def _cards(data: Mapping[str, Any]) -> str:
    cards = [
        f'<div class="card"><b>{escape(form.format(data[key]))}</b>'
        f"<span>{escape(label)}</span></div>"
        for key, label, form in _CARDS
        if isinstance(data.get(key), (int, float))
    ]
    latency = data.get("decision_latency_us")
    if isinstance(latency, Mapping) and isinstance(latency.get("p50"), (int, float)):
        cards.append(
            f'<div class="card"><b>{latency["p50"]:.1f} µs</b>'
            "<span>one decision, p50</span></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.table is not None:
        parts.append(_table(section.table))
    for plot in section.plots:
        note = f"<figcaption>{escape(plot.note)}</figcaption>" if plot.note else ""
        parts.append(f"<figure>{svg(plot)}{note}</figure>")
    return "\n".join(parts)


def page(data: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """Make the page: headline figures, the sections, and how to get them again."""
    title = f"agentkd {data.get('command', '')}: {data.get('env', '')}"
    versions = ", ".join(f"{name} {v}" for name, v in data["versions"].items())
    command = " ".join(str(word) for word in data["argv"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="sub">planner {escape(str(data.get("planner_name", "–")))} → executor
{escape(str(data.get("architecture", "–")))}, seed {escape(str(data.get("seed", "–")))}</p>
{_cards(data)}
{chr(10).join(_section(section) for section in sections)}
<footer><code>{escape(command)}</code><br>{escape(str(data["date"]))} ·
{escape(str(data["platform"]))} · {escape(versions)} · report schema
{escape(str(data["schema"]))}</footer>
</body>
</html>
"""
