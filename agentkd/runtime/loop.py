"""The tick thread: observe, decide, step the environment, tick after tick."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import check_range
from agentkd.runtime.chores import Chore, Chores
from agentkd.runtime.clock import Clock, Realtime, Ticker, VirtualClock, realtime
from agentkd.runtime.metrics import Metrics
from agentkd.types import Decision

if TYPE_CHECKING:
    from agentkd.runtime.live.page import LivePage

_COLLECT, _COLLECT_ALL = 0.1, 16.0
"""Seconds between two looks for garbage, among what is new and among all."""
_CALL = 0.05
"""Seconds between two calls of a consumer."""
_FRAMES, _FRAME_EVERY = 0.5, 0.2
"""The share of a period that a frame may take, and seconds between two."""

COLUMNS = ("tick", "source", "lateness_us", "latency_us", "version", "reward")
SOURCES = ("strategy", "executor", "hold", "default")
"""What the numbers in the timeline's column "source" mean."""


@final
class Timeline:
    """Samples of the ticks for plots: every tick at first, then ever fewer.

    Of `most` samples every other one goes; from then on half as many are taken.
    """

    def __init__(self, most: int = 8192) -> None:
        self.stride = 1
        self._most = max(2, most)
        self._rows: list[tuple[float, ...]] = []

    def note(self, decision: Decision, lateness: float, reward: float) -> None:
        """Take a tick, if it is one of those to keep."""
        tick, source = decision.tick, SOURCES.index(decision.source)
        if tick % self.stride:
            return
        if len(self._rows) >= self._most:
            self.stride *= 2
            self._rows = [row for row in self._rows if not row[0] % self.stride]
            if tick % self.stride:
                return
        latency = decision.latency * 1e6
        self._rows.append((tick, source, lateness * 1e6, latency, decision.version, reward))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the samples by `COLUMNS`, each (samples,)."""
        table = np.asarray(self._rows, np.float64).reshape(-1, len(COLUMNS))
        return dict(zip(COLUMNS, table.T, strict=True))


@dataclass(frozen=True, slots=True)
class RunResult:
    """What was measured in a run, however it ended.

    Attributes:
        returns: Of the episodes that ended.
        lengths: Their ticks.
        unfinished_return: Of the episode that was cut off, 0.0 if none was.
        seconds: Of the run's own clock.
        metrics: What `Agent.metrics` gave at the end.
        timeline: Samples of the ticks by `COLUMNS`.
        latencies: How many decisions took how long: edges in µs, (n + 1), and counts, (n).
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    unfinished_return: float
    unfinished_length: int
    ticks: int
    seconds: float
    metrics: Mapping[str, Any]
    timeline: Mapping[str, NDArray[np.float64]]
    latencies: tuple[list[float], list[int]] = field(default_factory=lambda: ([], []))


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends: after ticks, seconds of its clock, or episodes that ended."""

    ticks: int | None = None
    seconds: float | None = None
    episodes: int | None = None

    def __post_init__(self) -> None:
        for name in ("ticks", "seconds", "episodes"):
            check_range(name, getattr(self, name), above=0, whole=name != "seconds")


class _Agent(Protocol):
    """What a loop needs of an `Agent`, which imports this module."""

    @property
    def counters(self) -> Metrics: ...
    def metrics(self) -> dict[str, Any]: ...
    def decide(self, obs: Any, *, lateness: float = 0.0) -> Decision: ...
    def score(self, score: float) -> None: ...
    def reset(self) -> None: ...
    @property
    def chores(self) -> Chores: ...
    @property
    def closing(self) -> bool: ...
    @property
    def live(self) -> LivePage | None: ...
    def relieve(self) -> None: ...


@final
class Loop:
    """One run of an agent in an environment: by `run`, or in `thread` once that is started.

    `call` is called in `thread` now and then while decisions wait for the consumer.
    Episode i is reset with seed + i. At most `views` decisions wait for the consumer (0 for none):
    a wall clock drops and counts more, a virtual clock waits.
    """

    def __init__(
        self,
        agent: _Agent,
        clock: Clock,
        env: Any,
        limits: Limits,
        seed: int | None,
        views: int,
        realtime: Realtime | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.views: deque[Decision] = deque()
        self.views_dropped = 0
        self.error: BaseException | None = None
        self._agent, self._clock, self._env = agent, clock, env
        self._limits, self._seed, self._most = limits, seed, views
        self._realtime, self._granted = realtime, dict[str, str]()
        self._virtual = isinstance(clock, VirtualClock)
        self._stop = stop or threading.Event()
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._return, self._length, self._ticks = 0.0, 0, 0
        self._seconds = 0.0
        self._timeline, self._ticker = Timeline(), Ticker()
        self.call: Callable[[], object] = lambda: None
        self.thread = threading.Thread(target=self._run, name="ticks", daemon=True)

    def run(self) -> None:
        """Run in the caller's thread, and raise what ended it."""
        self._run()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Let it end after the tick at hand."""
        self._stop.set()

    def result(self) -> RunResult:
        """Return what was measured so far."""
        metrics = self._agent.metrics()
        metrics["views_dropped_total"] = self.views_dropped
        metrics["realtime"] = dict(self._granted)
        return RunResult(
            returns=tuple(self._returns),
            lengths=tuple(self._lengths),
            unfinished_return=self._return,
            unfinished_length=self._length,
            ticks=self._ticks,
            seconds=self._seconds,
            metrics=metrics,
            timeline=self._timeline.columns(),
            latencies=self._agent.counters.latencies(),
        )

    def _run(self) -> None:
        where = "reset"
        try:
            chores = self._chores()
            obs = self._reset()
            if self._agent.live is not None:
                self._show_on(self._agent.live, chores)
            quiet = nullcontext(dict[str, str]()) if self._virtual else None
            collecting = gc.isenabled()
            with quiet or realtime(self._realtime) as self._granted:
                if collecting and not gc.isenabled():
                    # What lived before the run is frozen, so there is little to look through.
                    chores.add(Chore("garbage", partial(_collect, 0), _COLLECT))
                    chores.add(Chore("old garbage", partial(_collect, 2), _COLLECT_ALL))
                self._clock.start()
                while not self._over():
                    tick = self._ticker.wait(self._clock, self._agent.counters, chores)
                    where = "decision"
                    decision = self._agent.decide(obs, lateness=tick.lateness)
                    where = "step"
                    obs = self._step(decision, tick.lateness)
                    self._show(decision)
                    self._seconds = self._clock.now()
        except BaseException as error:
            error.add_note(
                f"This ended the run in the {where} of tick {self._ticks}, episode "
                f"{len(self._returns)}."
            )
            self.error = error
        self.call()

    def _chores(self) -> Chores:
        """Return what is to be done between ticks, with what a run adds."""
        chores = self._agent.chores
        if self._virtual:
            self._agent.relieve()
        elif self._most:
            chores.add(Chore("views", self._call, _CALL))
        return chores

    def _show_on(self, page: LivePage, chores: Chores) -> None:
        """Let a live page hold a virtual clock, and show frames where there is time for them."""
        taken = page.look_at(self._env)
        if self._virtual:
            chores.add(Chore("live page", partial(page.hold, self._ending), 0.0))
        elif taken > _FRAMES * self._clock.period:
            page.without_frames(f"No frames: one takes {1000 * taken:.1f} ms, too long for a tick.")
        elif taken == taken:
            chores.expect("frame: render", taken)
            chores.add(Chore("frame", page.framing, _FRAME_EVERY, patient=True))

    def _ending(self) -> bool:
        return self._stop.is_set() or self._agent.closing

    def _call(self) -> None:
        """Call the consumer, who wakes while the tick's thread sleeps."""
        if self.views:
            self.call()

    def _over(self) -> bool:
        limits = self._limits
        return (
            self._stop.is_set()
            or (limits.ticks is not None and self._ticks >= limits.ticks)
            or (limits.seconds is not None and self._clock.now() >= limits.seconds)
            or (limits.episodes is not None and len(self._returns) >= limits.episodes)
        )

    def _reset(self) -> Any:
        seed = None if self._seed is None else self._seed + len(self._returns)
        return self._env.reset(seed=seed)[0]

    def _step(self, decision: Decision, lateness: float) -> Any:
        obs, reward, terminated, truncated, _ = self._env.step(decision.action)
        self._ticks += 1
        self._return += float(reward)
        self._length += 1
        self._timeline.note(decision, lateness, float(reward))
        if math.isfinite(reward):
            self._agent.score(float(reward))
        if terminated or truncated:
            self._returns.append(self._return)
            self._lengths.append(self._length)
            self._return, self._length = 0.0, 0
            if not self._over():
                self._agent.reset()
                obs = self._reset()
        return obs

    def _show(self, decision: Decision) -> None:
        if not self._most:
            return
        while self._virtual and len(self.views) >= self._most:
            if self._stop.is_set():
                return
            time.sleep(0.0005)
        if len(self.views) >= self._most:
            self.views_dropped += 1
        else:
            self.views.append(decision)


def _collect(generation: int) -> None:
    gc.collect(generation)
