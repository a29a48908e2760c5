"""The same seeds, lived by several arms: planner alone, executor alone, runtime."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, final

import numpy as np

from agentkd import environments
from agentkd.errors import ConfigError, EpisodeError, WorkerError
from agentkd.executors.executor import Executor
from agentkd.runtime.arbiter import Mode, Router
from agentkd.runtime.clock import Realtime
from agentkd.runtime.live.page import LivePage
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.loop import COLUMNS, RunResult
from agentkd.runtime.ports import AnyDistiller, AnyPlanner
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.strategies import StrategyOptions
from agentkd.types import Decision

_LOOK = 0.1
_INTERRUPTED = 130
_NO_SIGNALS = (NotImplementedError, RuntimeError, ValueError)
"""What a loop raises that cannot take signals."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms have in common; more in `Runtime` and its `run`.

    Attributes:
        latency: Ticks by which the planner is late, None for as late as it is.
        ticks: The end in ticks, or None; so are `seconds` and `episodes`.
        seed: Episode i is reset with seed + i.
        routers: Makes the routers of an arm; they have a state.
        episode_ticks: Ticks after which an episode is truncated, besides the environment's own end.
        kept: Decisions of an arm, from its first on, that `Lived.acts` keeps.
        live: A page that shows the arm.
        renders: Whether the environment renders frames for it.
    """

    env: str
    hz: float
    clock: Literal["wall", "virtual"]
    latency: int | None
    budget: float
    ticks: int | None
    seconds: float | None
    episodes: int | None
    seed: int
    routers: Callable[[], Sequence[Router]] = tuple
    strategies: StrategyOptions | None = None
    workers: int = 1
    realtime: Realtime | None = None
    episode_ticks: int | None = None
    kept: int = 0
    live: LivePage | None = None
    renders: bool = False


@dataclass(frozen=True, slots=True)
class Acts:
    """What was done at the ticks of an arm, from its first tick on.

    Attributes:
        actions: In the environment's units, as they were before its step.
        who: Who decided: the source, or "guided", an executor that had a goal.
        rewards: What came of it.
        ends: Whether the environment itself terminated and truncated the episode.
        why: Why that one decided, in a word.
    """

    actions: list[Any] = field(default_factory=list)
    who: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    def note(self, decision: Decision) -> None:
        """Keep who decided, and why."""
        guided = decision.source == "executor" and decision.reason == "guided"
        self.who.append("guided" if guided else decision.source)
        self.why.append(decision.reason)

    def level(self) -> None:
        """Drop ticks of which not all is known: a run may end between a step and its decision."""
        every = self.actions, self.who, self.rewards, self.ends, self.why
        known = min(map(len, every))
        for each in every:
            del each[known:]


@dataclass(frozen=True, slots=True)
class ArmLook:
    """One look at an arm that runs.

    Attributes:
        returns: Of the episodes that ended so far.
        current: The return of the episode at hand.
        done: The share of the arm that is over, 0 to 1.
    """

    returns: tuple[float, ...]
    current: float
    ticks: int
    done: float
    decision: Decision
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lived:
    """An arm that has ended.

    Attributes:
        executor: The executor at the end.
        learning: While it learnt, (ticks, return) of each episode that ended.
        interrupted: Whether it was ended before its limit.
        fault: What the environment raised, "" if nothing.
        acts: What was done at its first ticks; nothing where decisions were missed.
    """

    result: RunResult
    executor: Executor
    learning: tuple[tuple[int, float], ...]
    interrupted: bool
    fault: str = ""
    acts: Acts = field(default_factory=Acts)


@final
class Scored:
    """An environment that keeps the score of its own episodes, of `most` ticks at most.

    The first `kept` steps are noted in `acts`.
    """

    def __init__(self, env: Any, most: int | None, acts: Acts, kept: int) -> None:
        self._env, self._most, self._began = env, most, 0
        self._acts, self._kept = acts, kept
        self.scores: list[tuple[int, float]] = []
        self.current = 0.0
        self.ticks = 0

    @property
    def render_mode(self) -> str | None:
        """What `render` gives."""
        mode: str | None = getattr(self._env, "render_mode", None)
        return mode

    def render(self) -> Any:
        """Return what the environment shows now."""
        return self._env.render()

    def reset(self, *, seed: int | None = None) -> Any:
        """Begin an episode.

        Raises:
            EpisodeError: If the environment raises.
        """
        self.current, self._began = 0.0, self.ticks
        return self._env.reset(seed=seed)

    def step(self, action: Any) -> Any:
        """Do a tick.

        Raises:
            EpisodeError: If the environment raises.
        """
        keeps = self.ticks < self._kept
        # A copy: an environment may change its action.
        own = copy.deepcopy(action) if keeps else None
        obs, reward, terminated, truncated, info = self._env.step(action)
        if keeps:
            self._acts.actions.append(own)
            self._acts.rewards.append(float(reward))
            self._acts.ends.append((bool(terminated), bool(truncated)))
        self.ticks += 1
        self.current += reward
        if self._most is not None and self.ticks - self._began >= self._most:
            truncated = True
        if terminated or truncated:
            self.scores.append((self.ticks, self.current))
        return obs, reward, terminated, truncated, info


@final
class Interrupt:
    """Ctrl-C as something that a run asks about; a second one ends the process.

    Use it in a `with` block inside the event loop, around everything that is to end
    with a report.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def __enter__(self) -> Self:
        """Take Ctrl-C over, where the main thread's loop can."""
        with contextlib.suppress(*_NO_SIGNALS):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        """Give Ctrl-C back."""
        with contextlib.suppress(*_NO_SIGNALS):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _press(self) -> None:
        if self.asked.is_set():
            # Workers end with this process: the pipe to them closes.
            os._exit(_INTERRUPTED)
        self.asked.set()


async def live(
    setting: Setting,
    mode: Mode,
    executor: Executor,
    planner: AnyPlanner | None,
    distiller: AnyDistiller | None = None,
    watch: Callable[[ArmLook], None] | None = None,
    interrupt: Interrupt | None = None,
    log: DecisionLog | None = None,
    began: Callable[[Runtime], None] | None = None,
) -> Lived:
    """Run one arm to its end, or until Ctrl-C; nothing measured is lost.

    `mode` is the arm. `watch` is shown it now and then, and `began` is told of its runtime before
    that starts. An environment that raises ends the arm, and its words are in `Lived.fault`.
    """
    how: dict[str, Any] = {"render_mode": "rgb_array"} if setting.renders else {}
    env = environments.make(setting.env, **how)
    fault, acts = "", Acts()
    scored = Scored(env, setting.episode_ticks, acts, setting.kept)
    runtime = Runtime(
        executor,
        planner=planner,
        distiller=distiller,
        hz=setting.hz,
        clock=setting.clock,
        planner_latency=setting.latency if planner is not None else None,
        mode=mode,
        routers=setting.routers(),
        strategies=setting.strategies,
        workers=setting.workers if planner is not None else 1,
        budget=setting.budget,
        log=log,
        realtime=setting.realtime,
        live=setting.live,
        # Arms are compared from their first tick on.
        wait=True,
    )
    if began is not None:
        began(runtime)
    whole = asyncio.ensure_future(_whole(runtime, scored, setting, acts, watch))
    pressed = asyncio.ensure_future((interrupt or Interrupt()).asked.wait())
    try:
        await asyncio.wait({whole, pressed}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            whole.cancel()
        await whole
    except asyncio.CancelledError:
        if not pressed.done():
            raise
    except (EpisodeError, WorkerError) as error:
        if isinstance(error, WorkerError) and not pressed.done():
            raise
        fault = str(error)
    finally:
        pressed.cancel()
        env.close()
    result = _result(runtime)
    acts.level()
    return Lived(
        result=result,
        executor=runtime.agent.executor,
        learning=tuple(scored.scores),
        interrupted=pressed.done() and not pressed.cancelled(),
        fault=fault,
        # Which ones were missed is not known.
        acts=Acts() if result.metrics.get("views_dropped_total") else acts,
    )


def _result(runtime: Runtime) -> RunResult:
    """What was measured; nothing, where the run was ended before it began."""
    try:
        return runtime.result
    except ConfigError:
        metrics = runtime.agent.metrics()
        columns = {name: np.empty(0) for name in COLUMNS}
        return RunResult((), (), 0.0, 0, 0, 0.0, metrics, columns)


async def _whole(
    runtime: Runtime,
    scored: Scored,
    setting: Setting,
    acts: Acts,
    watch: Callable[[ArmLook], None] | None,
) -> None:
    """Run to the end, keep the first decisions, and show the arm now and then."""
    looked = 0.0
    ends: dict[str, Any] = {
        "ticks": setting.ticks,
        "seconds": setting.seconds,
        "episodes": setting.episodes,
    }
    async with runtime:
        async for decision in runtime.run(scored, seed=setting.seed, **ends):
            if len(acts.who) < setting.kept:
                acts.note(decision)
            now = time.monotonic()
            if watch is None or now - looked <= _LOOK:
                continue
            looked, ticks = now, scored.ticks  # once: the environment steps in a thread
            reached = {
                "ticks": ticks,
                "seconds": ticks / setting.hz,
                "episodes": len(scored.scores),
            }
            shares = [reached[name] / end for name, end in ends.items() if end]
            look = ArmLook(
                returns=tuple(score for _, score in scored.scores),
                current=scored.current,
                ticks=ticks,
                done=min(1.0, max(shares, default=0.0)),
                decision=decision,
                metrics=runtime.agent.metrics(),
            )
            watch(look)
