"""What planner and distiller counted, under the names of an agent's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agentkd.runtime.distiller_port import DistillerCounts
from agentkd.runtime.planner_port import PlannerCounts
from agentkd.runtime.status import Health


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
