"""What a delay costs: one planner, several ways to live with it, the same seeds.

A delay of d ticks means that a decision about the observation of tick t is there at tick t + d. As
in Riemer et al. (2025, arXiv 2412.14355) and Ramstedt and Pal (2019):

* async: a decision every tick, each about what was observed d ticks before, as d + 1 staggered
  planners would give them; the default action until the first one.
* sequential: the next question is put when the answer is there, so that there is one decision in d
  + 1 ticks. Meanwhile the last action goes on (repeat), or the default (noop).
* runtime: the planner is d ticks late and the executor acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, EpisodeError
from agentkd.executors.acting import default_action
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate_random
from agentkd.measure.live import Setting, live
from agentkd.measure.lockstep import Lockstep
from agentkd.spec import Spec
from agentkd.types import Actions, Floats, Policy

Way = Literal["async", "repeat", "noop", "runtime"]
WAYS: tuple[Way, ...] = ("async", "repeat", "noop", "runtime")
MEANING = {
    "async": "a decision every tick, d ticks old",
    "repeat": "one decision in d + 1 ticks, repeated meanwhile",
    "noop": "one decision in d + 1 ticks, the default meanwhile",
    "runtime": "the planner d ticks late, the executor acting",
}
_MAX_STEPS = 100_000
_COPIES = 32


@dataclass(frozen=True, slots=True)
class Case:
    """A planner, where it acts, and the executor distilled from it.

    Attributes:
        env: The environment's name.
        name: What the planner is called.
        policy: The planner.
        executor: The executor.
        spec: The environment's.
    """

    env: str
    name: str
    policy: Any
    executor: Executor
    spec: Spec


@final
class _Delayed:
    """Chooses as a planner does whose decisions come late."""

    def __init__(self, policy: Policy, lockstep: Lockstep, delay: int, way: Way) -> None:
        self._policy, self._lockstep = policy, lockstep
        self._delay, self._way = delay, way
        action = lockstep.spec.action
        self._default = np.asarray(default_action(action))
        rows = len(lockstep.rows)
        size = lockstep.spec.obs.size
        self._past = np.zeros((rows, delay + 1, size), np.float32)
        self._tick = [0] * rows
        self._last: list[Any] = [self._default] * rows

    def begin(self, row: int) -> None:
        """Forget, where an episode begins."""
        self._tick[row] = 0
        self._last[row] = self._default

    def __call__(self, obs: Floats, live: list[int]) -> Actions | Sequence[Any]:
        """Give the actions of the rows that are alive."""
        due, about = [], []
        for place, row in enumerate(live):
            tick = self._tick[row]
            self._past[row, tick % (self._delay + 1)] = obs[place]
            self._tick[row] = tick + 1
            seen = self._about(tick)
            if seen is not None:
                due.append(row)
                about.append(self._past[row, seen % (self._delay + 1)])
        decided: dict[int, Any] = {}
        if due:
            answer = self._policy(np.stack(about))
            dists.check(answer, self._lockstep.spec.action, len(due))
            actions = dists.mode(answer, self._lockstep.spec.action)
            decided = dict(zip(due, actions, strict=True))
        return [self._action(row, decided) for row in live]

    def _about(self, tick: int) -> int | None:
        """The tick whose observation is decided on now, None for none."""
        if tick < self._delay:
            return None
        if self._way == "async" or (tick + 1) % (self._delay + 1) == 0:
            return tick - self._delay
        return None

    def _action(self, row: int, decided: dict[int, Any]) -> Any:
        if row in decided:
            self._last[row] = decided[row]
            return decided[row]
        return self._default if self._way == "noop" else self._last[row]


def delayed(
    case: Case,
    way: Way,
    delay: int,
    *,
    episodes: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[float, ...]:
    """Live some episodes with a delay; gives their returns.

    Args:
        case: Who acts where.
        way: How the delay is lived with.
        delay: In ticks.
        episodes: How many.
        seed: Episode i is reset with seed + i.
        progress: Told the episodes done.

    Raises:
        ConfigError: If the way is unknown, or a planner with a memory is to be asked about part of
            what it sees.
        EpisodeError: If the environment raises.
    """
    if way not in WAYS or delay < 0:
        raise ConfigError(f"No way {way!r} with a delay of {delay}.")
    if hasattr(case.policy, "initial_state"):
        raise ConfigError(f"{case.name} has a memory; the delay table is for planners without one.")
    if way == "runtime":
        return _lived(case, delay, episodes=episodes, seed=seed, progress=progress)
    copies = min(_COPIES, episodes)
    with Lockstep(case.env, episodes, seed, case.spec, _MAX_STEPS, copies) as lockstep:
        chooser = _Delayed(case.policy, lockstep, delay, way)

        def watch(done: int, _all: int, _mean: float) -> None:
            if progress is not None:
                progress(done)

        return lockstep.run(chooser, watch, None).returns


def _lived(
    case: Case, delay: int, *, episodes: int, seed: int, progress: Callable[[int], None] | None
) -> tuple[float, ...]:
    setting = Setting(
        env=case.env,
        hz=50.0,
        clock="virtual",
        latency=delay,
        budget=0.0,
        ticks=None,
        seconds=None,
        episodes=episodes,
        seed=seed,
    )

    def watch(look: Any) -> None:
        if progress is not None:
            progress(len(look.returns))

    found = asyncio.run(live(setting, "runtime", case.executor, case.policy, watch=watch))
    if found.fault:
        raise EpisodeError(found.fault)
    if found.interrupted:
        raise KeyboardInterrupt
    return found.result.returns


def random_returns(case: Case, *, episodes: int, seed: int) -> tuple[float, ...]:
    """What chance gets on the same seeds."""
    return evaluate_random(case.env, episodes=episodes, seed=seed).returns
