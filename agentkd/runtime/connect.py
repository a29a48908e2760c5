"""From an agent's arguments to its ports, and from the ports to its metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict

from agentkd.errors import ConfigError
from agentkd.runtime.arbiter import Mode, Router, check_mode
from agentkd.runtime.decider import Decider
from agentkd.runtime.distiller import (
    DistillerCounts,
    DistillerPort,
    InlineDistiller,
    ProcessDistiller,
)
from agentkd.runtime.in_process import InlinePlanner, ThreadPlanner
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.planner import AnyPolicy, PlannerCounts, PlannerPort, ProcessPlanner
from agentkd.runtime.round_robin import Staggered
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.workers.channels import Health
from agentkd.runtime.workers.host import Process
from agentkd.spec import Spec, to_json
from agentkd.types import DistillerLike

AnyPlanner = AnyPolicy | Process | PlannerPort
Named = str | Path | Sequence[str | Path]
"""What a planner is loaded from: one reference, path or address, or several for an ensemble."""
AnyDistiller = DistillerLike | Process | DistillerPort


class AgentOptions(TypedDict, total=False):
    """The arguments that `Agent` and `Runtime` have in common; see `Agent`."""

    planner: AnyPlanner | Named | None
    distiller: AnyDistiller | None
    learn: bool
    mode: Mode
    routers: Sequence[Router]
    strategies: StrategyOptions | None
    planner_latency: int | None
    workers: int
    budget: float
    default: Any
    log: DecisionLog | str | Path | None
    native: bool
    watch: bool
    rollback: Rollback | None


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "strategies": ((StrategyOptions, type(None)), "StrategyOptions(…) or None"),
    "rollback": ((Rollback, type(None)), "Rollback(…) or None"),
    "log": ((DecisionLog, str, Path, type(None)), "a path, a DecisionLog or None"),
    "planner_latency": ((Integral, type(None)), "a number of ticks or None"),
    "workers": ((Integral,), "a number of planners"),
    "period": ((Real, type(None)), "seconds or None"),
    "budget": ((Real,), "seconds"),
    "native": ((bool,), "True or False"),
    "watch": ((bool,), "True or False"),
    "learn": ((bool,), "True or False"),
}


def check_arguments(given: Mapping[str, Any]) -> None:
    """Check the arguments of an agent, by name; raise ConfigError if one is wrong."""
    check_mode(given["mode"])
    for name, (kinds, words) in _KINDS.items():
        value = given[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) != (kinds == (bool,))):
            raise ConfigError(f"{name} is {value!r}; give {words}.")
    routers = given["routers"]
    if not isinstance(routers, Sequence) or not all(isinstance(each, Router) for each in routers):
        raise ConfigError(f"routers is {routers!r}; give a list of routers.")
    period, budget = given["period"], given["budget"]
    if not 0 <= budget < math.inf or (period is not None and not 0 < period < math.inf):
        raise ConfigError(f"budget={budget}, period={period}: seconds, at least 0 and above 0.")
    if given["mode"] == "planner" and given["planner"] is None:
        raise ConfigError('mode="planner" needs a planner.')
    if given["learn"] and given["distiller"] is not None:
        raise ConfigError("learn=True starts a distiller; leave it or distiller out.")
    if given["learn"] and given["planner"] is None:
        raise ConfigError("learn=True learns from a planner's answers: give a planner.")


class UnfitError(ConfigError):
    """A planner or a distiller that suits a virtual clock only."""


def connect(
    planner: AnyPlanner | Named | None,
    latency_ticks: int | None,
    workers: int,
    distiller: AnyDistiller | None,
    spec: Spec,
    *,
    virtual: bool,
    period: float,
) -> tuple[PlannerPort | None, DistillerPort | None, UnfitError | None]:
    """Choose both ports, and tell what does not suit the wall clock.

    Such a planner or distiller gets a port as under a virtual clock, so that the agent can be made;
    its start raises the error unless the clock is virtual then.

    Raises:
        ConfigError: If an argument is invalid.
    """
    unfit: UnfitError | None = None
    port: PlannerPort | None
    learning: DistillerPort | None
    try:
        port = planner_port(
            planner, latency_ticks, virtual=virtual, period=period, workers=workers, spec=spec
        )
    except UnfitError as error:
        port, unfit = planner_port(planner, 0, virtual=True, workers=workers, spec=spec), error
    try:
        learning = distiller_port(distiller, virtual=virtual)
    except UnfitError as error:
        learning, unfit = distiller_port(distiller, virtual=True), unfit or error
    return port, learning, unfit


def planner_port(
    planner: AnyPlanner | Named | None,
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
        raise ConfigError(f"planner_latency is {latency_ticks} ticks; it has to be at least 0.")
    if workers < 1:
        raise ConfigError(f"workers is {workers}; at least 1 is needed.")
    if planner is None:
        return None
    if isinstance(planner, str | Path | Sequence):
        known = None if spec is None else to_json(spec)
        ref: Any = str(planner) if isinstance(planner, str | Path) else list(map(str, planner))
        planner = Process("agentkd.planners.load:open_planner", {"ref": ref, "spec": known})
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
        raise UnfitError(
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

    A `Process` gets a process, or learns here under a virtual clock. A distiller itself needs a
    virtual clock.

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
        raise UnfitError(
            "A distiller object would hold the tick up while it learns. Give a Process, "
            "for a process of its own, or InlineDistiller(distiller), if it may."
        )
    return InlineDistiller(distiller)


def agent_metrics(decider: Decider, routers: Sequence[Router]) -> dict[str, Any]:
    """Return what a decider and its routers counted, by name."""
    out = decider.metrics.snapshot()
    if decider.alone:
        counted = out["decisions_total"].setdefault("executor", {})
        counted["alone"] = counted.get("alone", 0) + decider.alone
        out["ticks_total"] += decider.alone
    ticks = max(1, out["ticks_total"])
    acted = out["decisions_total"].get("strategy", {})
    out["strategy_coverage"] = sum(acted.values()) / ticks
    out["untrusted_share"] = 1.0 - out["starved_ticks_total"] / ticks
    executor = decider.form.executor
    out["executor_version"] = executor.version
    out["executor_parameters"] = executor.parameters
    out["strategy_accepted_total"] = decider.strategies.accepted
    out["strategy_rejected_total"] = dict(decider.strategies.rejected)
    out["lead_ticks"] = decider.lead
    out |= decider.worth.summary()
    for router in routers:
        out.update(router.counts())
    return out


def port_metrics(
    planner: PlannerCounts | None, distiller: DistillerCounts | None, refused: Mapping[str, int]
) -> dict[str, Any]:
    """Return the counts of planner and distiller as plain values, by name.

    `refused` are swaps that the agent refused, by reason.
    """
    out: dict[str, Any] = {}
    if planner is not None:
        out["labels_total"] = planner.labels
        out["observations_unlabelled_total"] = planner.unlabelled
        out["planner_errors_total"] = planner.errors
        out["planner_restarts_total"] = dict(planner.restarts)
        out["planner_error"] = planner.error
        out["planner_busy_ratio"] = planner.busy
        _add_health(out, "planner", planner.health)
    if distiller is not None:
        both = Counter(refused) + Counter(distiller.refused)
        out["swaps_refused_total"] = dict(both)
        out["labels_learnt_total"] = distiller.labels
        out["labels_dropped_total"] = distiller.dropped
        out["distiller_steps_total"] = distiller.steps
        out["distiller_errors_total"] = distiller.errors
        out["distiller_restarts_total"] = dict(distiller.restarts)
        out["distiller_error"] = distiller.error
        out["distiller_progress"] = dict(distiller.progress)
        _add_health(out, "distiller", distiller.health)
    return out


def _add_health(out: dict[str, Any], name: str, health: Health) -> None:
    out[f"{name}_state"] = health.state
    out[f"{name}_ready"] = int(health.state == "ready")
    out[f"{name}_starts_failed_total"] = health.starts_failed
    out.setdefault("workers_raised_total", {})[name] = health.raised
