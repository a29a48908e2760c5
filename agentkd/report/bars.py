"""Plots of rows: each has its name above its track, so that names take no width."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from agentkd.report.model import Plot, Series
from agentkd.report.scales import Scale, told
from agentkd.report.shapes import (
    Values,
    across,
    area,
    below,
    classes,
    dot,
    ends_of,
    evenly,
    level,
    numbers,
    shape,
    words,
)

_ROW, _TRACK = 46, 30
"""Of a row: its height, and where its track is."""
_BAR = 22
_DISTRIBUTION, _TALLEST = 76, 46
"""Of a distribution: the height of its row, and of its tallest bar."""
_DOTS, _MOST_DOTS, _COLUMNS, _BINS = 200, 2000, 400, 48
"""The most of each that is drawn: dots of a row and of all rows, columns of a strip, bars of a
distribution."""
_WIDE = 24
"""A part that is so wide, in per cent, holds its name."""


def rows(plot: Plot) -> str:
    """Draw dots with their mean and its interval, row by row."""
    series = plot.series
    every = np.concatenate([np.r_[numbers(e.x), numbers(e.y), ends_of(e)] for e in series])
    scale = Scale.over([*every, *(value for _, value in plot.marks)], log=plot.log)
    height = _ROW * len(series)
    out = below(plot, scale, height)
    for index, (each, colour) in enumerate(
        zip(series, classes([e.name for e in series]), strict=True)
    ):
        out.append(_row(each, colour, scale, _ROW * index, min(_DOTS, _MOST_DOTS // len(series))))
    return area(plot, height, out)


def _row(series: Series, colour: str, scale: Scale, top: int, most: int) -> str:
    value, ends, track = float(numbers(series.y)[0]), ends_of(series), top + _TRACK
    found = np.sort(numbers(series.x))
    found = found[np.isfinite(found)]
    tip = f"{series.name}: {told(value)}"
    marks = [shape("rect", y=top, width="100%", height=_ROW)]
    if len(ends):
        tip += f" ({told(ends[0])} … {told(ends[1])})"
    if len(found) > 1:
        tip += f"\n{len(found)} values, {told(found[0])} to {told(found[-1])}"
        few = found[evenly(len(found), max(2, most))]
        marks += [dot(scale.place(each), track, 3) for each in few.tolist()]
    if len(ends):
        marks.append(level(scale.place(ends[0]), scale.place(ends[1]), track, "bar"))
    diamond = shape("path", "middle", d="M-7 0L0-7 7 0 0 7Z")
    marks.append(shape("svg", "stretched", diamond, x=across(scale.place(value)), y=track))
    marks.append(words(0, top + 14, series.name, "label"))
    marks.append(words(100, top + 14, told(value), "value end"))
    return shape("g", f"c-{colour} spot", "".join(marks), tip=tip)


def strips(plot: Plot) -> str:
    """Draw what was when: bars along a common axis, coloured by their level."""
    edges = [numbers(each.x) for each in plot.series]
    scale = Scale.over(np.concatenate(edges), whole=True)
    colours, height = classes(plot.levels), _ROW * len(plot.series)
    out = below(plot, scale, height)
    for index, (each, ends) in enumerate(zip(plot.series, edges, strict=True)):
        out.append(words(0, _ROW * index + 14, each.name, "label"))
        for start, end, code, note in _spans(each, ends):
            left, right = scale.place(start), scale.place(end)
            out.append(
                shape(
                    "rect",
                    f"c-{colours[code]} part",
                    tip=f"{plot.x_label} {start:,.0f} to {end:,.0f}: {note or plot.levels[code]}",
                    x=across(left),
                    width=across(right - left),
                    y=_ROW * index + 20,
                    height=_BAR,
                )
            )
    return area(plot, height, out)


def _spans(series: Series, edges: Values) -> list[tuple[float, float, int, str]]:
    """Return what a strip shows: one column's first value for each, where there are too many."""
    codes, notes = np.asarray(series.y, int), series.notes
    chosen = np.arange(len(codes))
    if len(codes) > _COLUMNS:
        columns = np.linspace(edges[0], edges[-1], _COLUMNS, endpoint=False)
        chosen = np.unique(np.searchsorted(edges, columns, "right") - 1)
    ends = np.r_[edges[chosen[1:]], edges[-1]]
    return [
        (float(edges[at]), end, int(codes[at]), notes[at] if notes else "")
        for at, end in zip(chosen.tolist(), ends.tolist(), strict=True)
    ]


def shares(plot: Plot) -> str:
    """Draw bars of parts, each of which is a level's."""
    colours, height = classes(plot.levels), _ROW * len(plot.series)
    out = []
    for index, each in enumerate(plot.series):
        top, left, total = _ROW * index, 0.0, float(sum(each.y))
        out.append(words(0, top + 14, each.name, "label"))
        for place, size, note in zip(each.x, each.y, each.notes, strict=True):
            code, share = int(place), 100 * size / total if total else 0.0
            bar = shape(
                *("rect", "part"), x=across(left), width=across(share), y=top + 20, height=_BAR
            )
            if share >= _WIDE:
                bar += words(left + share / 2, top + 35, f"{note} {share:.0f} %", "on mid")
            tip = f"{each.name}: {plot.levels[code]}, {note}, {share:.3g} % ({size:,.0f})"
            out.append(shape("g", f"c-{colours[code]} spot", bar, tip=tip))
            left += share
    return area(plot, height, out)


def distributions(plot: Plot) -> str:
    """Draw how often values fell between edges; both axes are logarithmic."""
    shown = [_binned(each) for each in plot.series]
    every = [edge for edges, _ in shown for edge in edges]
    scale = Scale.over([*every, *(value for _, value in plot.marks)], log=True)
    height = _DISTRIBUTION * len(shown)
    out = below(plot, scale, height)
    colours = classes([each.name for each in plot.series])
    for index, (series, colour) in enumerate(zip(plot.series, colours, strict=True)):
        base, total = _DISTRIBUTION * (index + 1) - 4, sum(shown[index][1])
        parts = [level(0, 100, base, "base")]
        tallest = math.log10(1 + max(shown[index][1]))
        for (low, high), count in zip(pairwise(shown[index][0]), shown[index][1], strict=True):
            if count:
                size, left = _TALLEST * math.log10(1 + count) / tallest, scale.place(low)
                share = f"{count:,} of {total:,} ({100 * count / total:.2g} %)"
                parts.append(
                    shape(
                        "rect",
                        "part",
                        tip=f"{series.name}, {told(low)} to {told(high)} {plot.x_label}: {share}",
                        x=across(left),
                        width=across(scale.place(high) - left),
                        y=base - size,
                        height=size,
                    )
                )
        parts.append(words(0, base - _TALLEST - 8, series.name, "label"))
        out.append(shape("g", f"c-{colour}", "".join(parts)))
    return area(plot, height, out)


def _binned(series: Series) -> tuple[list[float], list[int]]:
    """Return edges above 0, and counts; neighbours are joined where there are too many."""
    edges, counts = np.maximum(numbers(series.x), 1e-3), np.asarray(series.y, int)
    if len(counts) <= _BINS:
        return edges.tolist(), counts.tolist()
    cuts = np.arange(0, len(counts), -(-len(counts) // _BINS))
    return edges[[*cuts, -1]].tolist(), np.add.reduceat(counts, cuts).tolist()
