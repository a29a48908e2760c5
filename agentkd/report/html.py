"""A report as one page that needs nothing but a browser, not even a network."""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from agentkd.report.model import NOTHING, Column, Film, Plot, Report, Section, Table
from agentkd.report.plots import svg
from agentkd.report.shapes import escape


def beside(name: str) -> str:
    """Read a template that lies beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_PAGE = Template(beside("page.html"))
"""Nothing in it is fetched and no script runs, whatever a name in a report holds."""
STYLE = beside("style.css")
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


def _table(table: Table, name: str) -> str:
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
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f"<table>{caption}<thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(each)}</p>" for each in section.text.split("\n\n") if each.strip()]
    parts += [f'<p class="note">{escape(each)}</p>' for each in section.notes]
    if section.table is not None:
        parts.append(_table(section.table, section.title))
    parts += map(_figure, section.plots)
    parts.append("</section>")
    return "\n".join(parts)


def _figure(plot: Plot | None) -> str:
    drawn = "" if plot is None else svg(plot)
    if plot is None or not drawn:
        return ""
    title = f'<p class="title">{escape(plot.title)}</p>' if plot.title else ""
    note = f"<figcaption>{escape(plot.note)}</figcaption>" if plot.note else ""
    return f"<figure>{title}{drawn}{note}</figure>"


def _heading(title: str, lead: str) -> str:
    """Put what came out first, and what it is about above it in small."""
    if not lead:
        return f"<h1>{escape(title)}</h1>"
    # A minus that is seen, where a hyphen stands for one.
    first, rest = first_sentence(re.sub(r"(?<!\S)-(?=\d)", "−", lead))
    more = f'<p class="more">{escape(rest)}</p>' if rest else ""
    return f'<p class="kicker">{escape(title)}</p><h1>{escape(first)}</h1>{more}'


def first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence of a text, and the rest; points within numbers end none."""
    first, _, rest = re.sub(r"([.!?])\s+", r"\1\n", text, count=1).partition("\n")
    return first, rest


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


def _film(film: Film | None) -> str:
    """Show the moving picture, or the still: in print, and for readers who want no motion.

    The box swaps them; it needs no script.
    """
    if film is None:
        return ""
    common = f'alt="{escape(film.text)}" width="{film.width}" height="{film.height}"'
    pictures = "".join(
        f'<img class="{name}" src="data:image/webp;base64,{b64encode(data).decode()}" {common}>'
        for name, data in (("moving", film.moving), ("still", film.still))
    )
    return (
        '<figure class="film"><input type="checkbox" id="swap">'
        '<label for="swap">stop or play</label>'
        f"{pictures}<figcaption>{escape(film.caption)}</figcaption></figure>"
    )


def page(data: Mapping[str, Any], report: Report) -> str:
    """Return the page as HTML: what came out, headline figures, sections, how to get it again.

    Every text in it is escaped. `data` is what report.json holds.
    """
    words = ("agentkd", data.get("command"), data.get("env"))
    title = " ".join(str(word) for word in words if word)
    return _PAGE.substitute(
        title=escape(title),
        style=STYLE,
        heading=_heading(title, report.lead),
        subtitle=escape(_subtitle(data)),
        picture=_figure(report.picture),
        film=_film(report.film),
        cards=_cards(data),
        body="\n".join(map(_section, report.sections)),
        footer=_footer(data),
    )
