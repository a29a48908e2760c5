"""Parts of plots: elements of SVG whose places across are percentages, and axes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as escape_markup

import numpy as np
from numpy.typing import NDArray

from agentkd.printable import printable
from agentkd.report.model import Plot, Series
from agentkd.report.scales import Scale, short, told

Values = NDArray[np.float64]
KNOWN = {
    **dict.fromkeys(("random", "default"), "random"),
    **dict.fromkeys(("planner", "strategy"), "planner"),
    **dict.fromkeys(("with agentkd", "runtime"), "runtime"),
    **{name: name for name in ("executor", "guided", "hold")},
}
"""One colour for one thing, in every plot of every report: classes by how a name begins."""
_OTHERS = ("a", "b", "c", "d", "e", "f")


def escape(text: str) -> str:
    """Escape markup, and control characters too."""
    return escape_markup(printable(text, lines=True))


def shape(name: str, kind: str = "", inside: str = "", *, tip: str = "", **places: object) -> str:
    """Write an element.

    Args:
        name: Such as "rect".
        kind: Its classes.
        inside: What is in it, as markup.
        tip: Words that are shown where it is pointed at.
        places: Attributes, "_" for "-"; numbers that `across` wrote are percentages.
    """
    given = {"class": kind, **places} if kind else places
    words = "".join(f' {key.replace("_", "-")}="{_short(value)}"' for key, value in given.items())
    title = f"<title>{escape(tip)}</title>" if tip else ""
    whole = title + inside
    return f"<{name}{words}>{whole}</{name}>" if whole else f"<{name}{words}/>"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def across(value: float) -> str:
    """Write a place along the width, 0 to 100."""
    return f"{value:.4g}%"


def words(x: float, y: float, text: str, kind: str, dx: float = 0.0) -> str:
    """Write a text; `kind` says what it is, and "mid" or "end" where it is held."""
    places: dict[str, object] = {"x": across(x), "y": float(y)} | ({"dx": dx} if dx else {})
    return shape("text", kind, escape(text), tip="", **places)


def upright(x: float, top: float, bottom: float | str, kind: str) -> str:
    """Draw a line from top to bottom."""
    return shape("line", kind, x1=across(x), x2=across(x), y1=top, y2=bottom)


def level(x1: float, x2: float, y: float, kind: str) -> str:
    """Draw a line from left to right."""
    return shape("line", kind, x1=across(x1), x2=across(x2), y1=float(y), y2=float(y))


def dot(x: float, y: float, radius: float) -> str:
    """Draw a dot."""
    return shape("circle", cx=across(x), cy=float(y), r=radius)


def stretched(inside: Sequence[str]) -> str:
    """Draw lines in thousandths of width and height; their strokes are not stretched."""
    return (
        '<svg class="stretched" width="100%" height="100%" viewBox="0 0 1000 1000" '
        f'preserveAspectRatio="none">{"".join(inside)}</svg>'
    )


def area(plot: Plot, height: float, inside: Sequence[str], sides: str = "") -> str:
    """Draw a whole plot; its axes are outside of the area."""
    kind = " ".join(filter(None, ("area", plot.kind, sides, "marked" if plot.marks else "")))
    about = escape(plot.title)
    return (
        f'<svg class="{kind}" height="{height:g}" role="img" aria-label="{about}">'
        f"{''.join(inside)}</svg>"
    )


def below(plot: Plot, scale: Scale, height: float) -> list[str]:
    """Draw the axis below, its label, and the marks to compare with."""
    out = []
    for value in scale.marks(4 if scale.log else 5):
        at = scale.place(value)
        out += [upright(at, 0, height, "grid"), words(at, height + 16, short(value), "axis mid")]
    out.append(words(100, height + 34, plot.x_label, "axis end"))
    for index, (name, value) in enumerate(plot.marks):
        at, top = scale.place(value), -6 - 14 * index
        side, aside = ("end", -4) if at > 60 else ("", 4)
        out.append(upright(at, top - 6, height, "mark"))
        out.append(words(at, top, f"{name} {told(value)}", f"axis {side}".rstrip(), aside))
    return out


def beside(plot: Plot, scale: Scale, height: float) -> list[str]:
    """Draw the axis to the left, and its label above it."""
    out = [words(0, -12, plot.y_label, "axis", -44)]
    for value in scale.marks():
        y = height - height * scale.place(value) / 100
        out += [level(0, 100, y, "grid"), words(0, y + 4, short(value), "axis end", -8)]
    return out


def numbers(values: Sequence[float | None]) -> Values:
    """Return values as an array; None is NaN."""
    return np.array([np.nan if each is None else each for each in values], np.float64)


def ends_of(series: Series) -> Values:
    """Return the ends of a point's interval; empty if there is none."""
    if series.low is None or series.high is None:
        return np.empty(0)
    ends = np.r_[numbers(series.low), numbers(series.high)]
    return ends if np.isfinite(ends).all() else np.empty(0)


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return at most so many of `count` places, evenly spaced, the first and the last included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.intp)


def classes(names: Sequence[str]) -> list[str]:
    """Return a colour's class for each name: its own, or else a free one."""
    chosen: list[str] = []
    for index, name in enumerate(names):
        colour = next((own for word, own in KNOWN.items() if name.startswith(word)), "")
        if not colour or colour in chosen:
            free = [each for each in _OTHERS if each not in chosen]
            colour = free[0] if free else _OTHERS[index % len(_OTHERS)]
        chosen.append(colour)
    return chosen
