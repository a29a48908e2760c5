"""The runtime: who acts at each tick, in time, while planner and distiller work."""

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
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.strategies import Rules

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
