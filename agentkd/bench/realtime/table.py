"""A table over a planner's latency: planner alone, executor alone, runtime."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkd.executors.executor import Executor
from agentkd.measure.live import ArmLook, Interrupt, Lived, Setting, live
from agentkd.runtime.arbiter import Mode
from agentkd.runtime.connect import AnyPlanner


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to live with a planner that is late.

    Attributes:
        name: What it is called.
        mode: Who takes part.
        guarded: Whether the routers are asked.
        ahead: Whether the planner is asked about the state its answer will meet.
    """

    name: str
    mode: Mode
    guarded: bool = True
    ahead: bool = True


ARMS = (
    Arm("planner", "planner", guarded=False, ahead=False),
    Arm("executor", "executor"),
    Arm("runtime", "runtime"),
)
ABLATIONS = (
    Arm("planner, routers and roll-forward", "planner"),
    Arm("executor, no routers", "executor", guarded=False),
    Arm("runtime, no routers", "runtime", guarded=False),
    Arm("runtime, no roll-forward", "runtime", ahead=False),
)
MEANING = {
    "planner": "acts when its answer arrives, row by row, and then holds",
    "executor": "acts alone, under the routers",
    "runtime": "strategies that are in time and hold, else the executor",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm in one environment at one latency.

    Attributes:
        env: The environment's name.
        arm: The arm's name.
        latency: In ticks; None for as late as the planner is.
        returns: Of the episodes that ended.
        total: All reward, that of an episode cut off as well.
        by_episodes: Whether the arm was to live episodes, not ticks or seconds.
        metrics: What the agent counted.
        fault: What the environment raised, "" if nothing.
    """

    env: str
    arm: str
    latency: int | None
    returns: tuple[float, ...]
    total: float
    by_episodes: bool
    metrics: dict[str, Any]
    fault: str = ""

    @property
    def mean(self) -> float:
        """The mean return, NaN where no episode ended; of a span of time all reward."""
        if not self.by_episodes:
            return self.total
        return sum(self.returns) / len(self.returns) if self.returns else math.nan


def cell(
    arm: Arm,
    setting: Setting,
    executor: Executor,
    planner: AnyPlanner,
    watch: Callable[[ArmLook], None] | None = None,
) -> Cell:
    """Let an arm live.

    Args:
        arm: Which.
        setting: The environment, the latency, the routers and how strategies are asked for; an arm
            may do without some of it.
        executor: The executor.
        planner: The planner.
        watch: Shown the arm now and then.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
    """
    options = setting.strategies
    if options is not None and not arm.ahead:
        options = replace(options, roll_forward=None)
    own = replace(setting, strategies=options, routers=setting.routers if arm.guarded else tuple)

    async def run() -> Lived:
        with Interrupt() as interrupt:
            return await live(own, arm.mode, executor, planner, None, watch, interrupt)

    found = asyncio.run(run())
    if found.interrupted:
        raise KeyboardInterrupt
    return Cell(
        env=setting.env,
        arm=arm.name,
        latency=setting.latency,
        returns=found.result.returns,
        total=sum(found.result.returns) + found.result.unfinished_return,
        by_episodes=setting.episodes is not None,
        metrics=dict(found.result.metrics),
        fault=found.fault,
    )


def best_at_all(cells: Sequence[Cell]) -> list[str]:
    """Where the runtime is below planner alone or executor alone, in words."""
    out = []
    by_place: dict[tuple[str, int | None], dict[str, float]] = {}
    for each in cells:
        by_place.setdefault((each.env, each.latency), {})[each.arm] = each.mean
    for (env, latency), means in by_place.items():
        mine = means.get("runtime")
        for other in ("planner", "executor"):
            theirs = means.get(other)
            if mine is not None and theirs is not None and not mine >= theirs - 1e-9:
                late = "real" if latency is None else latency
                out.append(f"{env} at {late}: {mine:.3f} below {other}'s {theirs:.3f}")
    return out
