"""The runtime: who acts at each tick, in time, while planner and distiller work.

`Runtime` is imported when it is first used: an `Agent` in a robot's own loop does not need asyncio,
which would be a sixth of what it loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkd.runtime.agent import Agent
from agentkd.runtime.clock import Clock, Tick, VirtualClock, WallClock
from agentkd.runtime.distiller_port import DistillerCounts, DistillerPort, InlineDistiller
from agentkd.runtime.distiller_process import ProcessDistiller
from agentkd.runtime.goals import Goals, conditioned, unconditioned
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.planner_port import InlinePlanner, PlannerCounts, PlannerPort, ThreadPlanner
from agentkd.runtime.planner_process import ProcessPlanner
from agentkd.runtime.process import Patience, Process
from agentkd.runtime.result import RunResult
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.router import MODES, Mode, Moment, Router
from agentkd.runtime.routers import (
    Deadline,
    Disagreement,
    Fresh,
    Guard,
    Hold,
    Only,
    Shadow,
    Uncertainty,
    Unless,
    Valid,
    spread,
)
from agentkd.runtime.scheduling import Realtime, realtime
from agentkd.runtime.scores import Rollback
from agentkd.runtime.seams import Seam
from agentkd.runtime.staggered import Staggered, workers_needed
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.trust import Trust

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
    "Only",
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
    """Import `Runtime` from its home."""
    if name != "Runtime":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentkd.runtime.runtime import Runtime

    return Runtime
