"""What planner and learner counted, under the names of an agent's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agentkd.runtime.learner_port import LearnerCounts
from agentkd.runtime.planner_port import PlannerCounts
from agentkd.runtime.status import Health


def port_metrics(
    planner: PlannerCounts | None,
    learner: LearnerCounts | None,
    refused: Mapping[str, int],
) -> dict[str, Any]:
    """Return the counts as plain values, by name.

    Args:
        planner: What the planner counted, None without one.
        learner: What the learner counted, None without one.
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
    if learner is not None:
        both = Counter(refused) + Counter(learner.refused)
        out["swaps_refused_total"] = dict(both)
        out["labels_learnt_total"] = learner.labels
        out["labels_dropped_total"] = learner.dropped
        out["learner_steps_total"] = learner.steps
        out["learner_errors_total"] = learner.errors
        out["learner_restarts_total"] = dict(learner.restarts)
        out["learner_error"] = learner.error
        out["learner_progress"] = dict(learner.progress)
        _add_health(out, "learner", learner.health)
    return out


def _add_health(out: dict[str, Any], name: str, health: Health) -> None:
    out[f"{name}_state"] = health.state
    out[f"{name}_ready"] = int(health.state == "ready")
    out[f"{name}_starts_failed_total"] = health.starts_failed
    out.setdefault("workers_raised_total", {})[name] = health.raised
