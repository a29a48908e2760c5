"""Episodes that were lived, stepped again side by side and filmed."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from agentkd import environments
from agentkd.errors import EpisodeError
from agentkd.report.model import Film
from agentkd.report.panels import SHOWN, Panel, compose, picture

if TYPE_CHECKING:
    from PIL.Image import Image

RATE = 20
"""Frames a second at most."""
LIMIT = 1_700_000
"""Bytes of a film. In the page it is a third longer; with the plots that is below 3 MB."""
_MOST, _LEAST = 300, 24
"""Frames of an episode; the least, where the renderer is slow."""
_SECONDS = 18.0
_REST = 2000
"""Milliseconds for which the last frame stays."""
_FASTEST = 4
"""A longer episode is cut rather than shown faster than this, in multiples of its own time."""
_PATIENCE = 20.0
"""Seconds of rendering."""
_EFFORTS = ((75, 1), (45, 1), (30, 2), (15, 4))
"""Quality, and which share of the frames (1 in n): the first that fits the limit."""


@dataclass(frozen=True, slots=True)
class Take:
    """What an arm did in one episode.

    Attributes:
        name: The arm, as it is shown.
        actions: One for each tick, in the environment's units.
        who: Who decided, by `panels.SHOWN`.
        total: The return that was measured; None if the take ends before the episode did.
        rewards: What was measured at each tick.
        ends: Likewise, whether the environment terminated and truncated the episode.
    """

    name: str
    actions: Sequence[Any]
    who: Sequence[str]
    total: float | None
    rewards: Sequence[float] = ()
    ends: Sequence[tuple[bool, bool]] = ()


def renders(env: str) -> bool:
    """Return whether an environment says that it renders arrays of pixels."""
    made = environments.make(env)
    try:
        modes = (getattr(made, "metadata", None) or {}).get("render_modes") or ()
        return "rgb_array" in modes
    finally:
        made.close()


def film(
    env: str, seed: int, takes: Sequence[Take], hz: float, why: str = "", *, limit: int = LIMIT
) -> Film:
    """Step the takes again, each in an environment of its own, and film them side by side.

    Nothing decides anew: the actions are those of the takes. So rewards, ends and returns have to
    be the same.

    Args:
        env: The environment's name.
        seed: It is reset with this.
        takes: At least one, with a tick at least.
        hz: Ticks per second.
        why: Why this seed, for the caption.
        limit: Bytes of the moving picture.

    Raises:
        EpisodeError: If the environment does not render, or does not repeat itself.
        ModuleNotFoundError: If Pillow is missing.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stages = []
        for take in takes:
            stages.append(_Stage(env, seed, take))
            stack.callback(stages[-1].close)
            stages[-1].begin()
        pace = _pace(max(len(take.actions) for take in takes), hz, _most(stages))
        frames = []
        for tick in [*range(0, pace.span, pace.step), pace.span]:
            panels = [stage.panel(tick) for stage in stages]
            frames.append(compose(panels, pace.span))
        for stage in stages:
            stage.check()
    moving = _moving(frames, pace.milliseconds, limit)
    ends = ", ".join(
        f"{each.take.name} {each.total:,.1f}{' so far' if each.take.total is None else ''}"
        for each in stages
    )
    chosen = f"Seed {seed}{', ' if why else ''}{why}."
    return Film(
        moving=moving,
        still=_webp(frames[-1:], [0], 80),
        width=frames[-1].width,
        height=frames[-1].height,
        text=f"{env}, seed {seed}, side by side, with the return at the end: {ends}.",
        caption=f"{chosen} {_legend(takes)} {pace.told}",
    )


@dataclass(frozen=True, slots=True)
class _Pace:
    """How ticks become frames: every `step`th of `span` ticks, each for so many milliseconds."""

    step: int
    span: int
    milliseconds: int
    told: str


def _pace(ticks: int, hz: float, most: int) -> _Pace:
    """Choose the pace of an episode of so many ticks, in `most` frames at most."""
    plain = math.ceil(hz / RATE)
    least = math.ceil(ticks / most)
    step = max(plain, least if most < _MOST else min(least, _FASTEST * plain))
    span = min(ticks, step * most)
    count = math.ceil(span / step)
    own = 1000 * step / hz
    shown = round(max(1000 / RATE, min(own, 1000 * _SECONDS / count)))
    speed = own / shown
    times = "" if abs(speed - 1) < 0.05 else f"{speed:.2g} times "
    told = f"Shown at {times}its own speed, {hz:g} ticks per second."
    if span < ticks:
        told += f" Cut after {span:,} of {ticks:,} ticks."
    return _Pace(step, span, shown, told)


def _most(stages: Sequence[_Stage]) -> int:
    """Return how many frames the renderer makes within our patience."""
    for stage in stages:  # the first frame is slow
        stage.panel(0)
    began = time.monotonic()
    for stage in stages:
        stage.render()
    taken = max(time.monotonic() - began, 1e-9)
    return max(_LEAST, min(_MOST, int(_PATIENCE / taken)))


def _legend(takes: Sequence[Take]) -> str:
    seen = {each for take in takes for each in take.who}
    words = (f"{each.colour}: {each.word}" for name, each in SHOWN.items() if name in seen)
    return f"Who acts: {', '.join(words)}. The strip under each bar shows who acted at each tick."


@final
class _Stage:
    """A take in an environment that renders."""

    def __init__(self, env: str, seed: int, take: Take) -> None:
        self.take, self.total = take, 0.0
        self._at, self._seed = 0, seed
        self._drawn: tuple[int, Image] | None = None
        self._env = environments.make(env, render_mode="rgb_array")

    def begin(self) -> None:
        """Reset the environment, once it is sure to be closed.

        Raises:
            EpisodeError: If it does not render arrays.
        """
        mode = getattr(self._env, "render_mode", None)
        if mode != "rgb_array":
            raise EpisodeError(f"the environment renders {mode!r} instead of rgb_array.")
        self._env.reset(seed=self._seed)

    def panel(self, tick: int) -> Panel:
        """Step until a tick, or the take's end, and show it."""
        end = len(self.take.actions)
        self._step(min(tick, end))
        if self._drawn is None or self._drawn[0] != self._at:
            self._drawn = self._at, picture(self.render())
        over = tick >= end
        said = "cut at" if self.take.total is None else "over at"
        word = f"{said} tick {end:,}" if over else ""
        return Panel(self.take.name, self.take.who, self._at, self.total, self._drawn[1], word)

    def check(self) -> None:
        """Step what was cut, and compare the return with the one that was measured.

        Raises:
            EpisodeError: If they differ.
        """
        self._step(len(self.take.actions))
        measured = self.take.total
        if measured is not None and not _same(self.total, measured):
            raise EpisodeError(
                f"the environment does not repeat itself: with seed {self._seed} and the same "
                f"actions the return of {self.take.name} was {measured:g}, and {self.total:g} "
                "when they were stepped again."
            )

    def render(self) -> Any:
        """Return what the environment shows now."""
        return self._env.render()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _step(self, tick: int) -> None:
        while self._at < tick:
            # A copy: an environment may change its action.
            action = copy.deepcopy(self.take.actions[self._at])
            _, reward, terminated, truncated, _ = self._env.step(action)
            self._compare(float(reward), (bool(terminated), bool(truncated)))
            # As the loop adds it up.
            self.total += float(reward)
            self._at += 1

    def _compare(self, reward: float, ends: tuple[bool, bool]) -> None:
        """Raise EpisodeError if a tick is not as it was measured."""
        at, told = self._at, ""
        if at < len(self.take.rewards) and not _same(reward, self.take.rewards[at]):
            told = f"the reward at tick {at:,} was {self.take.rewards[at]:g}, and {reward:g}"
        elif at < len(self.take.ends) and ends != tuple(self.take.ends[at]):
            words = ("went on", "was truncated", "terminated", "terminated")
            was, now = (words[2 * each[0] + each[1]] for each in (self.take.ends[at], ends))
            told = f"the episode {was} at tick {at:,}, and {now}"
        if told:
            raise EpisodeError(
                f"the environment does not repeat itself: with seed {self._seed} and the actions "
                f"of {self.take.name} {told} when they were stepped again."
            )


def _same(here: float, there: float) -> bool:
    both = math.isnan(here) and math.isnan(there)
    return both or here == there or math.isclose(here, there, abs_tol=1e-9)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep renderers from warning, and let them work without a display."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    headless = sys.platform == "linux" and not any(map(os.environ.get, screens))
    # pygame's SDL looks for a Wayland session otherwise, and prints that there is none.
    drivers = {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"} if headless else {}
    ours = {name: driver for name, driver in drivers.items() if not os.environ.get(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]


def _moving(frames: Sequence[Image], milliseconds: int, limit: int) -> bytes:
    """Encode an animation that fits the limit: at first as it is, then coarser."""
    data = b""
    for quality, every in _EFFORTS:
        chosen = [*frames[:-1:every], frames[-1]]
        times = [every * milliseconds] * (len(chosen) - 1) + [_REST]
        data = _webp(chosen, times, quality)
        if len(data) <= limit:
            return data
    raise EpisodeError(
        f"a film of {len(data):,} bytes, at the lowest quality, is beyond {limit:,} bytes."
    )


def _webp(frames: Sequence[Image], times: Sequence[int], quality: int) -> bytes:
    out = io.BytesIO()
    first, *rest = frames
    more: dict[str, Any] = {}
    if rest:
        more = {"save_all": True, "append_images": rest, "duration": list(times), "loop": 0}
        # A player shows all frames in turn, so few need to stand alone.
        more |= {"kmin": 30, "kmax": 60}
    first.save(out, "WEBP", quality=quality, method=2, **more)
    return out.getvalue()
