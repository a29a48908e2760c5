"""Plots as SVG text, drawn by Matplotlib without a display."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from agentkd.printable import printable
from agentkd.report.model import Plot, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Line = tuple[Series, str, NDArray[np.float64], NDArray[np.float64]]

# One colour for one thing, in every plot of every report.
_KNOWN = {"random": "#868e96", "planner": "#6741d9", "executor": "#0b7285", "runtime": "#d9480f"}
_OTHERS = ("#1971c2", "#c2255c", "#5c940d", "#e8890c", "#364fc7", "#087f5b")
_WIDTH = 8.4
_LONGEST = 40
_SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": "#adb5bd",
    "axes.labelcolor": "#495057",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": "#212529",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "system-ui", "sans-serif"],
    "font.size": 9,
    # Names of files and policies are text, not formulas.
    "text.parse_math": False,
    # Text stays text: it can be searched, read aloud and copied.
    "svg.fonttype": "none",
    "xtick.color": "#495057",
    "ytick.color": "#495057",
}


def svg(plot: Plot) -> str:
    """Draw a plot; the same values give the same text.

    Returns:
        An `<svg>` element without an outside reference, "" if there is nothing to see.
    """
    shown = [each for each in plot.series if np.isfinite(_floats(each.y)).any()]
    if not shown:
        return ""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    title, below, beside, *levels = map(
        printable, (plot.title, plot.x_label, plot.y_label, *plot.levels)
    )
    shown = [replace(each, name=printable(each.name)) for each in shown]
    lines = [
        (each, colour, _floats(each.x), _floats(each.y))
        for each, colour in zip(shown, _colours(shown), strict=True)
    ]
    rows = plot.kind == "rows"
    # Ids come from this salt instead of chance.
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": title}):
        places = len(shown) if rows else len(levels)
        height = 1.2 + 0.42 * places if places else 3.4
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.add_subplot()
        if rows:
            _rows(axes, lines)
        elif plot.kind == "points":
            _points(axes, lines)
        elif levels:
            _dots(axes, lines, levels)
        else:
            _lines(axes, lines)
        axes.grid(visible=True, axis="x" if rows else "both", color="#dee2e6", linewidth=0.6)
        axes.set_axisbelow(True)
        if plot.log:
            name = "y" if plot.kind == "lines" else "x"
            axes.set(**{f"{name}scale": "log"})
            # Plain numbers: the usual powers are formulas.
            axis = getattr(axes, f"{name}axis")
            axis.set_major_formatter(lambda value, _: f"{value:,g}")
            axis.set_minor_formatter(lambda _, __: "")
        axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
        axes.set(xlabel=below, ylabel="" if rows else beside)
        out = io.StringIO()
        figure.savefig(out, format="svg")
    return _embedded(out.getvalue(), title)


def _floats(values: Any) -> NDArray[np.float64]:
    return np.array([np.nan if each is None else each for each in values], float)


def _ends(series: Series) -> list[float]:
    """Return the ends of a point's interval; empty if there is none."""
    if series.low is None or series.high is None:
        return []
    ends = [*_floats(series.low), *_floats(series.high)]
    return ends if np.isfinite(ends).all() else []


def _colours(shown: list[Series]) -> list[str]:
    """Return a colour for each series: that of its name, or else a free one."""
    chosen: list[str] = []
    for index, series in enumerate(shown):
        known = (own for name, own in _KNOWN.items() if series.name.startswith(name))
        colour = next(known, "")
        if not colour or colour in chosen:
            free = [each for each in _OTHERS if each not in chosen]
            colour = free[0] if free else _OTHERS[index % len(_OTHERS)]
        chosen.append(colour)
    return chosen


def _lines(axes: Any, lines: list[_Line]) -> None:
    for series, colour, x, y in lines:
        # Two points are a level to compare with.
        level = len(x) == 2
        axes.plot(
            x,
            y,
            label=series.name,
            color=colour,
            linewidth=1.2 if level else 1.6,
            linestyle="--" if level else "-",
            marker="o" if len(x) <= 60 and not level else None,
            markersize=3,
        )
        if series.low is not None and series.high is not None:
            low, high = _floats(series.low), _floats(series.high)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if all((x % 1 == 0).all() for _, _, x, _ in lines):
        # Episodes and ticks are counted: there is no half of one.
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(lines) > 1:
        # Beside the axes it never hides a line.
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _dots(axes: Any, lines: list[_Line], levels: Sequence[str]) -> None:
    for series, colour, x, y in lines:
        axes.plot(x, y, "|", color=colour, markersize=9, alpha=0.6, label=series.name)
    axes.set_yticks(range(len(levels)), levels)
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _points(axes: Any, lines: list[_Line]) -> None:
    """Dots with their names; a series of several joins them, or is a level."""
    for index, (series, colour, x, y) in enumerate(lines):
        name = partial(axes.annotate, series.name, (x[0], y[0]), textcoords="offset points")
        if len(x) > 1:
            level = bool(np.ptp(y) == 0)
            axes.plot(x, y, "--" if level else "-", color="#adb5bd", linewidth=1, zorder=1)
            if level:
                name(xytext=(0, 3), color="#868e96")
            continue
        if ends := _ends(series):
            axes.plot([x[0], x[0]], ends, color=colour, linewidth=2, alpha=0.5)
        axes.plot(x, y, "o", color=colour, markersize=6)
        # Neighbours on alternate sides, so that their names stay apart.
        name(xytext=(5, -12 if index % 2 else 7), fontsize=8, color="#495057")
    axes.margins(x=0.12, y=0.12)


def _rows(axes: Any, lines: list[_Line]) -> None:
    for place, (series, colour, x, y) in enumerate(reversed(lines)):
        axes.plot(x, np.full(len(x), place), "o", color=colour, alpha=0.35, markersize=4)
        if ends := _ends(series):
            axes.plot(ends, [place, place], color=colour, linewidth=3)
        axes.plot(y, [place], "D", color=colour, markersize=6)
    names = [_short(each.name) for each, *_ in reversed(lines)]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.tick_params(axis="y", length=0)


def _short(name: str) -> str:
    """Keep the end of a long name: of a path, that is what tells them apart."""
    return name if len(name) <= _LONGEST else f"…{name[-_LONGEST + 1 :]}"


def _embedded(text: str, title: str) -> str:
    """Return the `<svg>` element, with ids that no other plot of a page has."""
    element = text[text.index("<svg") :]
    # Its metadata holds the date, and addresses of vocabularies.
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    mark = "p" + hashlib.sha256(title.encode()).hexdigest()[:8]
    element = re.sub(r'\bid="', f'id="{mark}-', element)
    element = re.sub(r"url\(#", f"url(#{mark}-", element)
    element = re.sub(r'href="#', f'href="#{mark}-', element)
    return element.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
