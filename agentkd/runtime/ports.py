"""From what a user gives as planner and distiller to the ports that an agent asks.

Only an agent that has one of them imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkd.errors import ConfigError
from agentkd.runtime.distiller import DistillerPort, InlineDistiller, ProcessDistiller
from agentkd.runtime.in_process import InlinePlanner, ThreadPlanner
from agentkd.runtime.planner import AnyPolicy, PlannerPort, ProcessPlanner
from agentkd.runtime.round_robin import Staggered
from agentkd.runtime.workers.host import Process
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from agentkd.types import DistillerLike

AnyPlanner = AnyPolicy | Process | PlannerPort
Named = str | Path | Sequence[str | Path]
"""What a planner is loaded from: one reference, path or address, or several for an ensemble."""
AnyDistiller = DistillerLike | Process | DistillerPort


def planner_port(
    planner: AnyPlanner | Named | None,
    latency_ticks: int | None = None,
    *,
    virtual: bool = False,
    period: float = 0.0,
    workers: int = 1,
    spec: Spec | None = None,
    access: Mapping[str, Any] | None = None,
) -> PlannerPort | None:
    """Choose how a planner is asked.

    Text that `load_planner` takes is loaded in a process of its own. A `Process` gets one, or is
    built here under a virtual clock. A port stays as it is. A policy is asked in this process: on
    the tick with a latency in ticks, or in a thread if it can be interrupted, as one that waits for
    a network.

    Raises:
        ConfigError: If an argument is invalid.
    """
    if planner is None:
        return None
    if isinstance(planner, str | Path | Sequence):
        known = None if spec is None else to_json(spec)
        ref: Any = str(planner) if isinstance(planner, str | Path) else list(map(str, planner))
        given = {"ref": ref, "spec": known, **(access or {})}
        planner = Process("agentkd.planners.load:open_planner", given)
    if workers > 1:
        if isinstance(planner, PlannerPort):
            raise ConfigError(
                f"{type(planner).__name__} is one port; workers={workers} needs a "
                "Process or a policy, or give Staggered([port, …])."
            )
        if hasattr(planner, "interrupt"):
            raise ConfigError(
                f"{type(planner).__name__} is one connection, which answers one question at a "
                f"time; workers={workers} needs as many. Give Staggered([ThreadPlanner(each), …]) "
                "with a planner for each."
            )
        _no_memory(planner)
    ports = [
        _one(planner, latency_ticks, virtual=virtual, period=period, alone=workers == 1)
        for _ in range(workers)
    ]
    return Staggered(ports) if workers > 1 else ports[0]


def _no_memory(planner: object) -> None:
    if hasattr(planner, "initial_state"):
        raise ConfigError(
            "A planner with a memory cannot take turns: each would miss what the "
            "others saw. Leave workers out."
        )


def _one(
    planner: AnyPlanner, latency_ticks: int | None, *, virtual: bool, period: float, alone: bool
) -> PlannerPort:
    if isinstance(planner, Process):
        if virtual:
            built = planner.build()
            if not alone:
                _no_memory(built)
            return InlinePlanner(built, latency_ticks=latency_ticks or 0)
        # Half a period early, so that it is there when its tick begins.
        late = max(0.0, (latency_ticks or 0) - 0.5) * period
        return ProcessPlanner(planner, at_least=late, alone=alone)
    if isinstance(planner, PlannerPort):
        if latency_ticks is not None:
            raise ConfigError(
                f"{type(planner).__name__} has a latency of its own; leave planner_latency out."
            )
        return planner
    if hasattr(planner, "interrupt") and not virtual:
        if latency_ticks is not None:
            raise ConfigError(
                "A planner that waits for a network is as late as it is; leave "
                "planner_latency out, or give a Process."
            )
        # It leaves the interpreter to the tick meanwhile.
        return ThreadPlanner(planner)
    return InlinePlanner(planner, latency_ticks=latency_ticks or 0)


def distiller_port(distiller: AnyDistiller | None, *, virtual: bool) -> DistillerPort | None:
    """Choose how a distiller is given labels; a port stays as it is."""
    if distiller is None or isinstance(distiller, DistillerPort):
        return distiller
    if not isinstance(distiller, Process):
        return InlineDistiller(distiller)
    return InlineDistiller(distiller.build()) if virtual else ProcessDistiller(distiller)


def unfit(
    planner: AnyPlanner | Named | None, latency_ticks: int | None, distiller: AnyDistiller | None
) -> str:
    """Say what would hold up the ticks of a wall clock; "" if nothing does."""
    beside = isinstance(planner, str | Path | Sequence | Process | PlannerPort | None)
    if latency_ticks is None and not (beside or hasattr(planner, "interrupt")):
        return (
            "A policy object would hold the tick up while it thinks. Give a Process, "
            "for a process of its own; ThreadPlanner(policy), for a thread; or "
            "planner_latency, to have it asked on the tick and held back so many ticks."
        )
    if not isinstance(distiller, Process | DistillerPort | None):
        return (
            "A distiller object would hold the tick up while it learns. Give a Process, "
            "for a process of its own, or InlineDistiller(distiller), if it may."
        )
    return ""
