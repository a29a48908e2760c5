"""From what a caller has to the ports that an agent needs."""

from __future__ import annotations

from agentkd.errors import ConfigError
from agentkd.runtime.distiller_port import DistillerPort, InlineDistiller
from agentkd.runtime.distiller_process import ProcessDistiller
from agentkd.runtime.planner_port import AnyPolicy, InlinePlanner, PlannerPort, ThreadPlanner
from agentkd.runtime.planner_process import ProcessPlanner
from agentkd.runtime.process import Process
from agentkd.runtime.staggered import Staggered
from agentkd.spec import Spec, to_json
from agentkd.types import DistillerLike

AnyPlanner = AnyPolicy | Process | PlannerPort
AnyDistiller = DistillerLike | Process | DistillerPort


def planner_port(
    planner: AnyPlanner | str | None,
    latency_ticks: int | None = None,
    *,
    virtual: bool = False,
    period: float = 0.0,
    workers: int = 1,
    spec: Spec | None = None,
) -> PlannerPort | None:
    """Choose how a planner is asked.

    Args:
        planner: Text that `load_planner` takes, loaded in a process of its own; a port as it is; a
            `Process` in a process of its own, or in this one under a virtual clock; a policy in
            this process, with a latency in ticks, or in a thread if it can be interrupted, as one
            that waits for a network.
        latency_ticks: How late each answer is, None for as late as it is.
        virtual: Whether ticks take no time.
        period: Seconds from tick to tick, where they do.
        workers: How many planners are asked in turn.
        spec: The environment, for a planner that is named by text.

    Raises:
        ConfigError: If a policy would have to be waited for on the tick.
    """
    if latency_ticks is not None and latency_ticks < 0:
        raise ConfigError(f"A planner's latency of {latency_ticks} ticks cannot be.")
    if workers < 1:
        raise ConfigError(f"workers is {workers}; at least 1 is needed.")
    if planner is None:
        return None
    if isinstance(planner, str):
        known = None if spec is None else to_json(spec)
        planner = Process("agentkd.planners.spawn:open_planner", {"ref": planner, "spec": known})
    if workers > 1:
        if isinstance(planner, PlannerPort):
            raise ConfigError(
                f"{type(planner).__name__} is one port; workers={workers} needs a "
                "Process or a policy, or give Staggered([port, …])."
            )
        if hasattr(planner, "interrupt"):
            raise ConfigError(
                f"{type(planner).__name__} is one connection, which answers one "
                f"question at a time; workers={workers} needs as many. Give "
                "Staggered([ThreadPlanner(each), …]) with a planner for each."
            )
        _no_memory(planner)
        return Staggered(
            [
                _one(planner, latency_ticks, virtual=virtual, period=period, alone=False)
                for _ in range(workers)
            ]
        )
    return _one(planner, latency_ticks, virtual=virtual, period=period, alone=True)


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
    if latency_ticks is None and not virtual:
        if hasattr(planner, "interrupt"):
            # It waits for a network and leaves the interpreter to the tick meanwhile.
            return ThreadPlanner(planner)
        raise ConfigError(
            "A policy object would hold the tick up while it thinks. Give a Process, "
            "for a process of its own; ThreadPlanner(policy), for a thread; or "
            "planner_latency, to have it asked on the tick and held back so many ticks."
        )
    if hasattr(planner, "interrupt") and not virtual:
        raise ConfigError(
            "A planner that waits for a network is as late as it is; leave "
            "planner_latency out, or give a Process."
        )
    return InlinePlanner(planner, latency_ticks=latency_ticks or 0)


def distiller_port(
    distiller: AnyDistiller | None, *, virtual: bool = False
) -> DistillerPort | None:
    """Choose where a distiller learns.

    Args:
        distiller: A port as it is; a `Process` in a process of its own, or in this one under a
            virtual clock; a distiller itself under a virtual clock only.
        virtual: Whether ticks take no time.

    Raises:
        ConfigError: If a distiller would have to be waited for on the tick.
    """
    if distiller is None:
        return None
    if isinstance(distiller, Process):
        return InlineDistiller(distiller.build()) if virtual else ProcessDistiller(distiller)
    if isinstance(distiller, DistillerPort):
        return distiller
    if not virtual:
        raise ConfigError(
            "A distiller object would hold the tick up while it learns. Give a Process, "
            "for a process of its own, or InlineDistiller(distiller), if it may."
        )
    return InlineDistiller(distiller)
