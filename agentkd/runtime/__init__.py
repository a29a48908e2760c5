"""The runtime: who acts at each tick, in time, while planner and distiller work.

Names are imported when they are first used: an executor alone needs neither asyncio nor the ports
of planner and distiller, which would be a third of what it loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkd.lazy import lazily

if TYPE_CHECKING:
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
    from agentkd.runtime.runtime import Runtime
    from agentkd.runtime.scores import Rollback
    from agentkd.runtime.strategies import Seam, StrategyOptions, Trust
    from agentkd.runtime.workers.host import Patience, Process

_HOMES = {
    "Agent": "agentkd.runtime.agent",
    "Clock": "agentkd.runtime.clock",
    "Deadline": "agentkd.runtime.routers",
    "DecisionLog": "agentkd.runtime.log",
    "Disagreement": "agentkd.runtime.routers",
    "DistillerCounts": "agentkd.runtime.distiller",
    "DistillerPort": "agentkd.runtime.distiller",
    "Fresh": "agentkd.runtime.routers",
    "Goals": "agentkd.runtime.goals",
    "Guard": "agentkd.runtime.routers",
    "Hold": "agentkd.runtime.routers",
    "InlineDistiller": "agentkd.runtime.distiller",
    "InlinePlanner": "agentkd.runtime.in_process",
    "MODES": "agentkd.runtime.arbiter",
    "Mode": "agentkd.runtime.arbiter",
    "Moment": "agentkd.runtime.arbiter",
    "Patience": "agentkd.runtime.workers.host",
    "PlannerCounts": "agentkd.runtime.planner",
    "PlannerPort": "agentkd.runtime.planner",
    "Process": "agentkd.runtime.workers.host",
    "ProcessDistiller": "agentkd.runtime.distiller",
    "ProcessPlanner": "agentkd.runtime.planner",
    "Realtime": "agentkd.runtime.clock",
    "RollForward": "agentkd.runtime.rollforward",
    "Rollback": "agentkd.runtime.scores",
    "Router": "agentkd.runtime.arbiter",
    "RunResult": "agentkd.runtime.loop",
    "Runtime": "agentkd.runtime.runtime",
    "Seam": "agentkd.runtime.strategies",
    "Shadow": "agentkd.runtime.routers",
    "Staggered": "agentkd.runtime.round_robin",
    "StrategyOptions": "agentkd.runtime.strategies",
    "ThreadPlanner": "agentkd.runtime.in_process",
    "Tick": "agentkd.runtime.clock",
    "Trust": "agentkd.runtime.strategies",
    "Uncertainty": "agentkd.runtime.routers",
    "Unless": "agentkd.runtime.routers",
    "Valid": "agentkd.runtime.routers",
    "VirtualClock": "agentkd.runtime.clock",
    "WallClock": "agentkd.runtime.clock",
    "conditioned": "agentkd.runtime.goals",
    "realtime": "agentkd.runtime.clock",
    "spread": "agentkd.runtime.routers",
    "unconditioned": "agentkd.runtime.goals",
    "workers_needed": "agentkd.runtime.round_robin",
}

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

__getattr__, __dir__ = lazily(__name__, _HOMES)
