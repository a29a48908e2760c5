"""Plots as SVG text that fits a page of any width, light or dark, on a screen or in print.

The `<svg>` is the area between the axes. Places along it are percentages, so text keeps its size;
lines lie in a picture inside it that is stretched, and their strokes are not. Colours are classes
(`c-planner`), which the page fills in. What a mark stands for is in its `<title>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from agentkd.report.bars import distributions, rows, shares, strips
from agentkd.report.model import Kind, Plot, Series
from agentkd.report.scales import Scale, told
from agentkd.report.shapes import (
    Values,
    across,
    area,
    below,
    beside,
    classes,
    dot,
    ends_of,
    escape,
    evenly,
    numbers,
    shape,
    stretched,
    upright,
    words,
)

_HEIGHT = 220
_POINTS, _COLUMNS = 40, 400
"""The most places that are pointed at, and columns of a line that are drawn."""
_KEYED = ("lines", "strips", "shares")
"""Kinds whose colours need a key; others have their names beside them."""
_Line = tuple[Series, Values, Values]


def svg(plot: Plot) -> str:
    """Draw a plot; the same values give the same text.

    Returns:
        A key to its colours, where one is needed, and an `<svg>`; "" if there is nothing to see.
    """
    shown = tuple(each for each in plot.series if np.isfinite(numbers(each.y)).any())
    if not shown:
        return ""
    return _key(plot, shown) + _DRAWN[plot.kind](replace(plot, series=shown))


def _key(plot: Plot, shown: Sequence[Series]) -> str:
    names = plot.levels or [each.name for each in shown]
    used = set(range(len(names)))
    if plot.levels:
        codes = [each.x if plot.kind == "shares" else each.y for each in shown]
        used = {int(code) for each in codes for code in each}
    if plot.kind not in _KEYED or len(used) < 2:
        return ""
    key = (
        f'<li class="c-{colour}">{escape(name)}</li>'
        for code, (name, colour) in enumerate(zip(names, classes(names), strict=True))
        if code in used
    )
    return f'<ul class="key">{"".join(key)}</ul>'


def _lines(plot: Plot) -> str:
    lines = [(each, numbers(each.x), numbers(each.y)) for each in plot.series]
    edges = [numbers(e) for each, *_ in lines for e in (each.low, each.high) if e is not None]
    along = Scale.over(np.concatenate([x for _, x, _ in lines]), whole=True)
    up = Scale.over(np.concatenate([*(y for *_, y in lines), *edges]), log=plot.log)
    bands, drawn, dots = [], [], []
    for (series, x, y), colour in zip(
        lines, classes([each.name for each in plot.series]), strict=True
    ):
        # Two equal points are a level to compare with.
        flat = len(x) == 2 and y[0] == y[1]
        if path := _band(series, along, up):
            bands.append(shape("path", f"c-{colour} band", d=path))
        kind = f"c-{colour} {'level' if flat else 'line'}"
        drawn.append(shape("path", kind, d=_path(along, up, x, y)))
        if len(x) <= _POINTS and not flat:
            spots = (
                dot(along.place(a), _y(up, b), 2.5) for a, b in zip(x, y, strict=True) if b == b
            )
            dots.append(shape("g", f"c-{colour}", "".join(spots)))
    axes = [*beside(plot, up, _HEIGHT), *below(plot, along, _HEIGHT)]
    inside = [*axes, stretched([*bands, *drawn]), *dots, *_pointed(plot, lines, along)]
    return area(plot, _HEIGHT, inside, "both")


def _y(up: Scale, value: float) -> float:
    return _HEIGHT - _HEIGHT * up.place(float(value)) / 100


def _band(series: Series, along: Scale, up: Scale) -> str:
    """Return the path around the interval of a line; "" if it has none."""
    if series.low is None or series.high is None:
        return ""
    x, low, high = numbers(series.x), numbers(series.low), numbers(series.high)
    sound = np.isfinite(low) & np.isfinite(high)
    if not sound.any():
        return ""
    there, back = x[sound], x[sound][::-1]
    return f"{_path(along, up, np.r_[there, back], np.r_[low[sound], high[sound][::-1]])}Z"


def _path(along: Scale, up: Scale, x: Values, y: Values) -> str:
    """Return the path of a line in thousandths; where y is not a number it is interrupted."""
    parts, down = [], False
    for a, b in _thinned(x, y):
        if b != b:
            down = False
            continue
        letter = "L" if down else "M"
        parts.append(f"{letter}{10 * along.place(a):.4g} {1000 - 10 * up.place(b):.4g}")
        down = True
    return "".join(parts)


def _thinned(x: Values, y: Values) -> list[tuple[float, float]]:
    """Keep the lowest and the highest of neighbours, where there are more than can be seen."""
    if len(x) <= 4 * _COLUMNS:
        return list(zip(x.tolist(), y.tolist(), strict=True))
    kept: list[int] = []
    for part in np.array_split(np.arange(len(x)), _COLUMNS):
        known = part[np.isfinite(y[part])]
        if len(known):
            kept += sorted({int(known[y[known].argmin()]), int(known[y[known].argmax()])})
        else:
            kept.append(int(part[0]))
    return [(float(x[each]), float(y[each])) for each in kept]


def _pointed(plot: Plot, lines: Sequence[_Line], along: Scale) -> list[str]:
    """Tell all values at a place that is pointed at."""
    places = np.unique(np.concatenate([x for _, x, _ in lines]))
    places = places[np.isfinite(places)]
    places = places[evenly(len(places), _POINTS)]
    at = [along.place(each) for each in places.tolist()]
    ends = [0.0, *((a + b) / 2 for a, b in pairwise(at)), 100.0]
    out = []
    for place, middle, (left, right) in zip(places.tolist(), at, pairwise(ends), strict=True):
        said = [f"{plot.x_label} {told(place)}"]
        for series, x, y in lines:
            said.append(f"{series.name}: {told(y[int(np.nanargmin(np.abs(x - place)))])}")
        here = {"x": across(left), "width": across(right - left), "height": "100%"}
        rect = shape("rect", tip="\n".join(said), **here)
        out.append(shape("g", "spot", rect + upright(middle, 0, "100%", "rule")))
    return out


def _points(plot: Plot) -> str:
    """Draw dots with their names; a series of several joins them, or is a level."""
    lines = [(each, numbers(each.x), numbers(each.y)) for each in plot.series]
    along = Scale.over(np.concatenate([x for _, x, _ in lines]), log=plot.log)
    ends = [ends_of(each) for each in plot.series]
    up = Scale.over(np.concatenate([*(y for *_, y in lines), *ends]))
    colours = iter(classes([each.name for each in plot.series if len(each.x) == 1]))
    joined, dots = [], []
    for index, (series, x, y) in enumerate(lines):
        if len(x) == 1:
            # Neighbours on alternate sides, so that their names stay apart.
            place = along.place(float(x[0])), up, 15 if index % 2 else -7
            dots.append(_point(plot, series, next(colours), place))
            continue
        flat = bool(np.ptp(y) == 0)
        joined.append(shape("path", "level" if flat else "join", d=_path(along, up, x, y)))
        if flat:
            dots.append(words(0, _y(up, y[0]) - 5, series.name, "axis", 4))
    axes = [*beside(plot, up, _HEIGHT), *below(plot, along, _HEIGHT)]
    return area(plot, _HEIGHT, [*axes, stretched(joined), *dots], "both")


def _point(plot: Plot, series: Series, colour: str, place: tuple[float, Scale, int]) -> str:
    at, up, offset = place
    x, y, ends = float(numbers(series.x)[0]), float(numbers(series.y)[0]), ends_of(series)
    tip = f"{series.name}\n{plot.x_label} {told(x)}\n{plot.y_label} {told(y)}"
    parts = [dot(at, _y(up, y), 5)]
    if len(ends):
        tip += f" ({told(ends[0])} … {told(ends[1])})"
        parts.insert(0, upright(at, _y(up, ends[0]), _y(up, ends[1]), "bar"))
    side, aside = ("label end", -8) if at > 60 else ("label", 8)
    parts.append(words(at, _y(up, y) + offset, series.name, side, aside))
    return shape("g", f"c-{colour} spot", "".join(parts), tip=tip)


_DRAWN: Mapping[Kind, Callable[[Plot], str]] = {
    "lines": _lines,
    "rows": rows,
    "points": _points,
    "strips": strips,
    "shares": shares,
    "distributions": distributions,
}
