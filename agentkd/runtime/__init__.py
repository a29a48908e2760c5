"""The runtime: who acts at each tick, in time, while planner and distiller work.

`Runtime` is imported when it is first used: an `Agent` in a robot's own loop does not
need asyncio, which would be a sixth of what it loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkd.runtime.agent import Agent
from agentkd.runtime.clock import Clock, Tick, VirtualClock, WallClock, realtime
from agentkd.runtime.learner_port import InlineLearner, LearnerCounts, LearnerPort
from agentkd.runtime.learner_process import ProcessLearner
from agentkd.runtime.planner_port import (
    InlinePlanner,
    PlannerCounts,
    PlannerPort,
    ThreadPlanner,
)
from agentkd.runtime.planner_process import ProcessPlanner
from agentkd.runtime.process import Patience, Remote
from agentkd.runtime.result import RunResult
from agentkd.runtime.router import MODES, Mode
from agentkd.runtime.strategies import Rules

if TYPE_CHECKING:
    from agentkd.runtime.runtime import Runtime

__all__ = [
    "MODES",
    "Agent",
    "Clock",
    "InlineLearner",
    "InlinePlanner",
    "LearnerCounts",
    "LearnerPort",
    "Mode",
    "Patience",
    "PlannerCounts",
    "PlannerPort",
    "ProcessLearner",
    "ProcessPlanner",
    "Remote",
    "Rules",
    "RunResult",
    "Runtime",
    "ThreadPlanner",
    "Tick",
    "VirtualClock",
    "WallClock",
    "realtime",
]


def __getattr__(name: str) -> Any:
    """Import `Runtime` from its home."""
    if name != "Runtime":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentkd.runtime.runtime import Runtime

    return Runtime
