"""A slow planner thinks; a tiny executor, distilled from it as it lives, acts in time.

Names are imported when they are first used, so that a robot's loop never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkd.lazy import lazily

if TYPE_CHECKING:
    from agentkd.deploy.bundle import Bundle, load, read_bundle, write_bundle
    from agentkd.distillation.front import distill
    from agentkd.distillation.loop import Distilled
    from agentkd.errors import AgentkdError
    from agentkd.executors.architecture import initial
    from agentkd.executors.executor import Executor
    from agentkd.planners import Planner, load_planner
    from agentkd.runtime.agent import Agent
    from agentkd.runtime.runtime import Runtime
    from agentkd.runtime.workers.host import Process
    from agentkd.spec import Spec, env_spec
    from agentkd.types import Decision, Policy, Strategy

_HOMES = {
    "Agent": "agentkd.runtime.agent",
    "AgentkdError": "agentkd.errors",
    "Bundle": "agentkd.deploy.bundle",
    "Decision": "agentkd.types",
    "Distilled": "agentkd.distillation.loop",
    "Executor": "agentkd.executors.executor",
    "Planner": "agentkd.planners",
    "Policy": "agentkd.types",
    "Process": "agentkd.runtime.workers.host",
    "Runtime": "agentkd.runtime.runtime",
    "Spec": "agentkd.spec",
    "Strategy": "agentkd.types",
    "distill": "agentkd.distillation.front",
    "env_spec": "agentkd.spec",
    "initial": "agentkd.executors.architecture",
    "load": "agentkd.deploy.bundle",
    "load_planner": "agentkd.planners",
    "read_bundle": "agentkd.deploy.bundle",
    "write_bundle": "agentkd.deploy.bundle",
}

__all__ = [
    "Agent",
    "AgentkdError",
    "Bundle",
    "Decision",
    "Distilled",
    "Executor",
    "Planner",
    "Policy",
    "Process",
    "Runtime",
    "Spec",
    "Strategy",
    "distill",
    "env_spec",
    "initial",
    "load",
    "load_planner",
    "read_bundle",
    "write_bundle",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
