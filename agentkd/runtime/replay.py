"""Decides again what a log says was decided, and names the first difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd.errors import AgentkdError, ConfigError, SpecError
from agentkd.executors.acting import form
from agentkd.executors.executor import Executor
from agentkd.files import loading
from agentkd.runtime.arbiter import Router, check_mode
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.decider import Decider
from agentkd.runtime.logfile import Decided, Gap, Heard, LogFile, Reset, Swapped
from agentkd.runtime.planner import PlannerPort
from agentkd.runtime.query import Demands
from agentkd.runtime.recorder import Recorder
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.workers.channels import LabelRing
from agentkd.spec import BoxSpec, Spec


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay went another way: source, reason and action of the log, and of the replay."""

    tick: int
    episode: int
    logged: str
    replayed: str


@dataclass(slots=True)
class Replay:
    """How a replay went.

    Attributes:
        ticks: Ticks that were decided again.
        skipped: Ticks that could not be: before the first episode that begins in the log where its
            own beginning is gone, or after records that were lost.
        differing: Ticks at which it decided something else.
        first: The first of them, None if there is none.
    """

    ticks: int = 0
    skipped: int = 0
    differing: int = 0
    first: Difference | None = None


@final
class _Answers(PlannerPort):
    """A planner that answers what was logged, when it was."""

    def __init__(self) -> None:
        self.waiting: list[Answer] = []

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Do nothing."""

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Do nothing: the answer is known."""

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Return what was heard at this tick."""
        out, self.waiting = self.waiting, []
        return out


@final
class _Clock(Recorder):
    """Gives the replay as much time as there was."""

    ns = 0

    def left(self, _ns: int) -> int:
        """Return the time that was left."""
        return self.ns


def replay(
    log: LogFile,
    executor: Executor | None = None,
    routers: Sequence[Router] = (),
    *,
    tolerance: float = 1e-5,
) -> Replay:
    """Decide again what was decided.

    Args:
        log: The log.
        executor: Another executor than those that acted, to see what it would have done on the same
            observations; None for the same.
        routers: Routers as the run had them.
        tolerance: How far numbers of an action may be apart, relative to 1 + |x|.

    Raises:
        ConfigError: If the run had routers, and not as many are given.
        SpecError: If the executor does not fit the log.
        LoadError: If the log is damaged.
    """
    named = log.header.get("routers", [])
    if len(named) != len(routers):
        raise ConfigError(
            f"The run had {len(named)} routers ({', '.join(named) or 'none'}); "
            f"{len(routers)} are given. Give those of the run."
        )
    again = _Again(log, routers, tolerance)
    with loading(log.path, keep=(AgentkdError,)):
        for event in log.events():
            match event:
                case Swapped(acts):
                    again.swap(executor or acts)
                case Reset(episode):
                    again.reset(episode)
                case Gap(_):
                    again.synchronous = False
                case Heard(_, answer):
                    again.answers.waiting.append(answer)
                case Decided():
                    again.decide(event)
    return again.found


@final
class _Again:
    """A decider that is shown what a log holds."""

    def __init__(self, log: LogFile, routers: Sequence[Router], tolerance: float) -> None:
        self.found, self.answers = Replay(), _Answers()
        # Where the beginning is gone, nobody knows what was held or under way.
        self.synchronous = log.whole
        self._log, self._routers, self._tolerance = log, routers, tolerance
        self._boxes = isinstance(log.spec.action, BoxSpec)
        self._clock = _Clock()
        self._decider: Decider | None = None

    def swap(self, executor: Executor) -> None:
        """Let an executor act from here on."""
        if self._decider is not None:
            if executor is not self._decider.form.executor:
                self._decider.form = form(executor)
            return
        header, spec = self._log.header, self._log.spec
        default = header.get("default")
        if default is not None and self._boxes:
            default = np.asarray(default, np.float32)
        decider = Decider(
            form(executor),
            self.answers if header.get("planner", True) else None,
            check_mode(header.get("mode", "runtime")),
            self._routers,
            default,
            None,
            0,
            StrategyOptions.from_json(header.get("strategies", {})),
            self._clock,
        )
        if decider.spec.obs.size != spec.obs.size or decider.spec.action != spec.action:
            raise SpecError(f"The executor is for {decider.spec}, the log of {spec}.")
        decider.take_flat()
        self._decider = decider

    def reset(self, episode: int) -> None:
        """Begin an episode."""
        if self._decider is not None:
            self._decider.reset()
            self._decider.resume(None, episode)
        self.answers.waiting.clear()
        self.synchronous = True

    def decide(self, logged: Decided) -> None:
        """Decide again, and compare."""
        decider, found = self._decider, self.found
        if decider is None or not self.synchronous:
            found.skipped += 1
            self.answers.waiting.clear()
            return
        decider.resume(logged.tick, logged.episode)
        self._clock.ns = round(logged.left * 1e9)
        action, source, reason, _, _, _ = decider.decide(logged.obs)
        found.ticks += 1
        same = (source, reason) == (logged.source, logged.reason)
        if same and self._alike(action, logged.action):
            return
        found.differing += 1
        if found.first is None:
            theirs = _told(logged.source, logged.reason, logged.action)
            mine = _told(source, reason, action)
            found.first = Difference(logged.tick, logged.episode, theirs, mine)

    def _alike(self, mine: Any, theirs: Any) -> bool:
        if not self._boxes:
            return bool(np.array_equal(mine, theirs))
        apart = np.abs(np.asarray(mine) - theirs) / (1.0 + np.abs(theirs))
        return bool((apart <= self._tolerance).all())


def _told(source: str, reason: str, action: Any) -> str:
    array = np.asarray(action)
    text = np.array2string(array, precision=6) if array.ndim else str(action)
    return f"{source} ({reason}) {text}"
