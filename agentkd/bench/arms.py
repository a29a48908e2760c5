"""The same seeds, lived by several arms: planner alone, executor alone, runtime."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

from agentkd import environments
from agentkd.executors.frozen import Frozen
from agentkd.runtime.ports import AnyLearner, AnyPlanner
from agentkd.runtime.result import RunResult
from agentkd.runtime.router import Mode
from agentkd.runtime.runtime import Runtime
from agentkd.types import Decision

_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms have in common.

    Attributes:
        env: The environment's name.
        hz: Ticks per second.
        clock: Whether ticks take time.
        latency: Ticks by which the planner is late, None for as late as it is.
        budget: Seconds that a decision may wait for the planner.
        ticks: The end in ticks, or None.
        seconds: The end in seconds of the clock, or None.
        episodes: The end in episodes, or None.
        seed: Episode i is reset with seed + i.
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


@dataclass(frozen=True, slots=True)
class ArmLook:
    """One look at an arm that runs.

    Attributes:
        returns: Of the episodes that ended so far.
        current: Of the episode at hand.
        ticks: So far.
        done: The share of the arm that is over, 0 to 1.
        seconds: Of wall time so far.
        decision: The last one.
        metrics: The agent's.
    """

    returns: tuple[float, ...]
    current: float
    ticks: int
    done: float
    seconds: float
    decision: Decision
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lived:
    """An arm that has ended.

    Attributes:
        result: What was measured.
        executor: The executor at the end.
        learning: While it learnt, (ticks, return) of each episode that ended.
        interrupted: Whether it was ended before its limit.
        fault: What the environment raised, "" if nothing.
    """

    result: RunResult
    executor: Frozen
    learning: tuple[tuple[int, float], ...]
    interrupted: bool
    fault: str = ""


@final
class Scored:
    """An environment that keeps the score of its own episodes."""

    def __init__(self, env: Any) -> None:
        """Wrap an environment."""
        self._env = env
        self.scores: list[tuple[int, float]] = []
        self.current = 0.0
        self.ticks = 0

    def reset(self, *, seed: int | None = None) -> Any:
        """Begin an episode."""
        self.current = 0.0
        return self._env.reset(seed=seed)

    def step(self, action: Any) -> Any:
        """Do a tick."""
        obs, reward, terminated, truncated, info = self._env.step(action)
        self.ticks += 1
        self.current += float(reward)
        if terminated or truncated:
            self.scores.append((self.ticks, self.current))
        return obs, reward, terminated, truncated, info


async def live(
    setting: Setting,
    mode: Mode,
    executor: Frozen,
    planner: AnyPlanner | None,
    learner: AnyLearner | None = None,
    watch: Callable[[ArmLook], None] | None = None,
) -> Lived:
    """Run one arm to its end, or until Ctrl-C; nothing measured is lost.

    An environment that raises ends the arm, and its words are in `Lived.fault`.
    """
    env = environments.make(setting.env)
    scored = Scored(env)
    interrupted, fault = False, ""
    try:
        async with Runtime(
            executor,
            planner=planner,
            learner=learner,
            hz=setting.hz,
            clock=setting.clock,
            planner_latency=setting.latency if planner is not None else None,
            mode=mode,
            budget=setting.budget,
        ) as runtime:
            with _on_interrupt() as asked:
                interrupted, fault = await _follow(
                    runtime, scored, setting, asked, watch
                )
    finally:
        env.close()
    return Lived(
        result=runtime.result,
        executor=runtime.agent.executor,
        learning=tuple(scored.scores),
        interrupted=interrupted,
        fault=fault,
    )


async def _follow(
    runtime: Runtime,
    scored: Scored,
    setting: Setting,
    asked: asyncio.Event,
    watch: Callable[[ArmLook], None] | None,
) -> tuple[bool, str]:
    begin, looked = time.monotonic(), 0.0
    run = runtime.run(
        scored,
        ticks=setting.ticks,
        seconds=setting.seconds,
        episodes=setting.episodes,
        seed=setting.seed,
    )
    try:
        async for decision in run:
            if asked.is_set():
                await runtime.stop()
                return True, ""
            now = time.monotonic()
            if watch is not None and now - looked > _LOOK:
                looked = now
                watch(_look(runtime, scored, setting, decision, now - begin))
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", []))
        return False, f"{type(error).__name__}: {error}. {notes}".strip()
    return False, ""


def _look(
    runtime: Runtime,
    scored: Scored,
    setting: Setting,
    decision: Decision,
    seconds: float,
) -> ArmLook:
    ticks = scored.ticks
    shares = [0.0]
    if setting.ticks:
        shares.append(ticks / setting.ticks)
    if setting.seconds:
        shares.append(ticks / setting.hz / setting.seconds)
    if setting.episodes:
        shares.append(len(scored.scores) / setting.episodes)
    return ArmLook(
        returns=tuple(score for _, score in scored.scores),
        current=scored.current,
        ticks=ticks,
        done=min(1.0, max(shares)),
        seconds=seconds,
        decision=decision,
        metrics=runtime.agent.metrics(),
    )


@contextlib.contextmanager
def _on_interrupt() -> Iterator[asyncio.Event]:
    """Turn Ctrl-C into an event, where the main thread's loop can."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, asked.set)
    except (NotImplementedError, RuntimeError, ValueError):
        yield asked
        return
    try:
        yield asked
    finally:
        loop.remove_signal_handler(signal.SIGINT)
