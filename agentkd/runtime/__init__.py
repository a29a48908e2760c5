"""The runtime: who acts at each tick, in time, while planner and distiller work.

`Runtime` is imported when it is first used: an `Agent` in a robot's own loop does not need asyncio,
which would be a sixth of what it loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkd.runtime.agent import Agent
from agentkd.runtime.arbiter import MODES, Mode, Moment, Router
from agentkd.runtime.clock import Clock, Realtime, Tick, VirtualClock, WallClock, realtime
from agentkd.runtime.distiller import (
    DistillerCounts,
    DistillerPort,
    InlineDistiller,
    ProcessDistiller,
)
from agentkd.runtime.goals import Goals, conditioned, unconditioned
from agentkd.runtime.in_process import InlinePlanner, ThreadPlanner
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.loop import RunResult
from agentkd.runtime.planner import PlannerCounts, PlannerPort, ProcessPlanner
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.round_robin import Staggered, workers_needed
from agentkd.runtime.routers import (
    Deadline,
    Disagreement,
    Fresh,
    Guard,
    Hold,
    Shadow,
    Uncertainty,
    Unless,
    Valid,
    spread,
)
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import Seam, StrategyOptions, Trust
from agentkd.runtime.workers.host import Patience, Process

if TYPE_CHECKING:
    from agentkd.runtime.runtime import Runtime

__all__ = [
    "MODES",
    "Agent",
    "Clock",
    "Deadline",
    "DecisionLog",
    "Disagreement",
    "DistillerCounts",
    "DistillerPort",
    "Fresh",
    "Goals",
    "Guard",
    "Hold",
    "InlineDistiller",
    "InlinePlanner",
    "Mode",
    "Moment",
    "Patience",
    "PlannerCounts",
    "PlannerPort",
    "Process",
    "ProcessDistiller",
    "ProcessPlanner",
    "Realtime",
    "RollForward",
    "Rollback",
    "Router",
    "RunResult",
    "Runtime",
    "Seam",
    "Shadow",
    "Staggered",
    "StrategyOptions",
    "ThreadPlanner",
    "Tick",
    "Trust",
    "Uncertainty",
    "Unless",
    "Valid",
    "VirtualClock",
    "WallClock",
    "conditioned",
    "realtime",
    "spread",
    "unconditioned",
    "workers_needed",
]


def __getattr__(name: str) -> Any:
    if name != "Runtime":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentkd.runtime.runtime import Runtime

    return Runtime
