"""What an agent, its planner and its distiller counted, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.runtime.decider import Decider
from agentkd.runtime.distiller_port import DistillerCounts
from agentkd.runtime.planner_port import PlannerCounts
from agentkd.runtime.router import Router
from agentkd.runtime.status import Health


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
    """Return the counts as plain values, by name.

    Args:
        planner: What the planner counted, None without one.
        distiller: What the distiller counted, None without one.
        refused: Swaps that the agent refused, by reason.
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
