"""Frames of a film: arms side by side, each with a bar that says who acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agentkd.errors import EpisodeError

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH = 256
"""Pixels of a panel. Three of them are legible on a telephone."""
_TALLEST = 320
_GAP, _LINE, _STRIP, _SIZE = 8, 34, 10, 24
_GROUND, _TEXT, _IDLE = "#1b1f24", "#ffffff", "#3d444d"


@dataclass(frozen=True, slots=True)
class Who:
    """A word for who acts, and its colour with the colour's name."""

    word: str
    colour: str
    rgb: str


SHOWN: Mapping[str, Who] = {
    "strategy": Who("planner's strategy", "blue", "#56b4e9"),
    "executor": Who("executor", "orange", "#e69f00"),
    "guided": Who("executor with a goal", "yellow", "#f0e442"),
    "hold": Who("hold last action", "pink", "#cc79a7"),
    "default": Who("default action", "white", "#e6e9ee"),
}
"""By source, in the colours of Okabe and Ito (2008), which the colour-blind tell apart. Black on
each has a contrast of at least 6:1."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One arm at one moment.

    Attributes:
        name: The arm.
        who: Who acted at its ticks, by `SHOWN`: those until now, and those to come.
        at: Ticks until now.
        total: The return until now.
        frame: What the environment shows.
        end: Shown instead of who acts once the episode is over; "" before.
    """

    name: str
    who: Sequence[str]
    at: int
    total: float
    frame: Image
    end: str = ""


def picture(frame: Any) -> Image:
    """Return what an environment rendered as a picture that fits a panel.

    Raises:
        EpisodeError: If it is not (height, width, 3 or 4) of uint8.
    """
    from PIL import Image

    array = np.asarray(frame)
    good = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not good or not array.size:
        told = f"{array.dtype} of shape {array.shape}" if array.size else "nothing"
        raise EpisodeError(
            f"render returned {told}. A film needs uint8 of shape (height, width, 3)."
        )
    made = Image.fromarray(np.ascontiguousarray(array[..., :3]))
    factor = min(WIDTH / made.width, _TALLEST / made.height)
    size = max(1, round(made.width * factor)), max(1, round(made.height * factor))
    # The pixels of a small grid stay sharp.
    way = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.BILINEAR
    return made.resize(size, way, reducing_gap=2.0 if factor < 1 else None)


def compose(panels: Sequence[Panel], span: int) -> Image:
    """Draw panels side by side; the strip under each is `span` ticks long."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_SIZE)
    high = max(panel.frame.height for panel in panels)
    width = len(panels) * (WIDTH + _GAP) + _GAP
    height = 2 * _LINE + high + _STRIP + 2 * _GAP
    out = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(out)
    for place, panel in enumerate(panels):
        left, top = _GAP + place * (WIDTH + _GAP), _GAP
        right, middle = left + WIDTH, top + _LINE // 2
        draw.text((left, middle), panel.name, _TEXT, font, anchor="lm")
        draw.text((right, middle), short(panel.total), _TEXT, font, anchor="rm")
        top += _LINE
        frame = panel.frame
        out.paste(frame, (left + (WIDTH - frame.width) // 2, top + (high - frame.height) // 2))
        top += high
        box, middle = (left, top, right - 1, top + _LINE - 1), top + _LINE // 2
        who = SHOWN[panel.who[max(0, panel.at - 1)]] if panel.who else None
        if panel.end or who is None:
            draw.rectangle(box, _IDLE)
            draw.text((left + _GAP, middle), panel.end, _TEXT, font, anchor="lm")
        else:
            draw.rectangle(box, who.rgb)
            draw.text((left + _GAP, middle), who.word, "#000000", font, anchor="lm")
        _strip(draw, panel, (left, top + _LINE), span)
    return out


def short(value: float) -> str:
    """Write a return in at most seven characters, which fit beside an arm's name."""
    size = abs(value)
    if size >= 99_999.5:
        return f"{value / 1000:,.0f}k" if size < 9_999_500 else f"{value:.0e}"
    return f"{value:,.{0 if size >= 1000 else 1 if size >= 10 else 2}f}"


def _strip(draw: Any, panel: Panel, corner: tuple[int, int], span: int) -> None:
    """Draw who acted at each tick until now, in runs of one colour."""
    left, top = corner
    known = panel.who[: panel.at]
    ticks = np.arange(WIDTH) * span // WIDTH
    columns = [known[tick] for tick in ticks.tolist() if tick < len(known)]
    begin = 0
    for at in range(1, len(columns) + 1):
        if at == len(columns) or columns[at] != columns[begin]:
            box = left + begin, top + 2, left + at - 1, top + _STRIP - 1
            draw.rectangle(box, SHOWN[columns[begin]].rgb)
            begin = at
