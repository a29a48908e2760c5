"""What a runtime counts. Names end in their unit, or in `total` for counters."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final, get_args

import numpy as np

from agentkd import dists
from agentkd.spec import ActionSpec
from agentkd.types import AnyDist, Source

_BITS = 5
"""Leading bits that tell a bucket: each is at most 1/16 wide."""
_TOGETHER = 16
"""Pairs that are compared at once."""
JUMP = 1e6
"""Jumps of actions are recorded in millionths of the action's unit."""
DESCRIBED: dict[str, tuple[str, ...]] = {
    "ticks_total": ("Ticks.",),
    "episodes_total": ("Episodes begun.",),
    "decisions_total": ("Decisions by who decided and why.", "source", "reason"),
    "starved_ticks_total": ("Ticks at which neither strategy nor executor acted.",),
    "vetoes_total": ("Sources that routers refused.", "source", "reason"),
    "router_errors_total": ("Routers that raised.",),
    "guard_interventions_total": ("Ticks at which a guard refused a source.",),
    "guard_refused_total": ("Sources that a guard refused.", "source"),
    "shadow_compared_total": ("Decisions compared with a shadow's.",),
    "deadline_miss_total": ("Decisions after their deadline.",),
    "missed_cycles_total": ("Periods without a tick.",),
    "chore_overruns_total": ("Work between ticks that ended after the next was due.",),
    "nan_observations_total": ("Observations with NaN or infinity.",),
    "planner_answers_total": ("Answers of the planner.",),
    "planner_partial_answers_total": ("Answers that were still improved.",),
    "planner_errors_total": ("Requests that failed.",),
    "planner_restarts_total": ("Planners started again.", "cause"),
    "planner_starts_failed_total": ("Starts of the planner that failed.",),
    "strategy_accepted_total": ("Strategies taken.",),
    "strategy_rejected_total": ("Strategies refused.", "reason"),
    "labels_total": ("Observations that the planner labelled.",),
    "observations_unlabelled_total": ("Observations that it did not.",),
    "labels_learnt_total": ("Labels that the distiller took.",),
    "labels_dropped_total": ("Labels that found the distiller too slow.",),
    "distiller_steps_total": ("Gradient steps.",),
    "distiller_errors_total": ("Steps of the distiller that failed.",),
    "distiller_restarts_total": ("Distillers started again.", "cause"),
    "distiller_starts_failed_total": ("Starts of the distiller that failed.",),
    "workers_raised_total": ("Priorities raised: the worker hardly ran.", "worker"),
    "swaps_total": ("Executors swapped in.",),
    "swaps_refused_total": ("Executors that were not swapped in.", "reason"),
    "changes_total": ("Changes of the world that the distiller noticed.", "world"),
    "rollbacks_total": ("Returns to a former executor.", "reason"),
    "log_records_total": ("Records of the decision log.",),
    "log_dropped_total": ("Records that found no room.",),
    "views_dropped_total": ("Decisions that a slow consumer missed.",),
    "executor_version": ("Version of the executor that acts.",),
    "executor_parameters": ("Trained numbers of the executor.",),
    "executor_agreement": ("Executor and planner, newest answers, 0 to 1.",),
    "executor_agreement_mean": ("Executor and planner, all answers, 0 to 1.",),
    "strategy_coverage": ("Share of ticks at which a strategy acted.",),
    "untrusted_share": ("Share of ticks at which strategy or executor acted.",),
    "shadow_agreement": ("Agreement of the shadow with the source that acted, 0 to 1.",),
    "planner_ready": ("Whether the planner is ready, 0 or 1.",),
    "distiller_ready": ("Whether the distiller is ready, 0 or 1.",),
    "planner_busy_ratio": ("Share of the time that the planner thinks.",),
    "reward_per_tick": ("Mean reward by who acted.", "source"),
    "strategies_worse": ("Whether strategies do worse than the executor, 0 or 1.",),
    "lead_ticks": ("Ticks by which observations are rolled forward.",),
    "distiller_progress": ("What the distiller tells of itself.", "number"),
    "decision_latency_by_source_us": ("From the observation to the action.", "source"),
    "decision_latency_by_planner_us": (
        "The same, with a planner that is ready and without.",
        "planner",
    ),
    "tick_lateness_us": ("How late ticks began.",),
    "tick_period_us": ("From tick to tick.",),
    "planner_latency_us": ("From the observation to the planner's answer.",),
    "planner_latency_ticks": ("The same in ticks.",),
    "strategy_age_ticks": ("Age of strategies that act.",),
    "seam_jump": ("From one action to the next.", "where"),
}
"""What others are told of: by its name in `Agent.metrics`, what it is, and the labels of the
mappings nested in it."""
_BUCKETS = ((64 - _BITS) << (_BITS - 1)) + (1 << _BITS)


@final
class Histogram:
    """Durations in nanoseconds, in buckets whose width grows with them.

    A percentile is off by at most 3 %; the extremes and the mean are exact.
    """

    __slots__ = ("_counts", "_highest", "_total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0
        self._highest = 0

    def add(self, other: Histogram) -> None:
        """Take in all that another one counted."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self._total += other._total
        self._highest = max(self._highest, other._highest)

    def record(self, ns: int) -> None:
        """Add a duration; a negative one counts as 0."""
        if ns < 0:
            ns = 0
        shift = ns.bit_length() - _BITS
        if shift <= 0:
            self._counts[ns] += 1
        else:
            self._counts[(shift << (_BITS - 1)) + (ns >> shift)] += 1
        self._total += ns
        if ns > self._highest:
            self._highest = ns

    def filled(self, unit: float = 1e3) -> tuple[list[float], list[int]]:
        """Return the buckets from the first to the last that counted anything.

        Returns:
            Their edges in units of so many nanoseconds, (n + 1), and their counts, (n).
        """
        counts = np.asarray(self._counts)
        found = np.flatnonzero(counts)
        if not len(found):
            return [], []
        first, last = int(found[0]), int(found[-1])
        edges = [_lowest(each) / unit for each in range(first, last + 2)]
        return edges, counts[first : last + 1].tolist()

    def summary(self, unit: float = 1e3) -> dict[str, float]:
        """Return p50, p99, p99.9, max, mean and count, in units of so many nanoseconds."""
        if not (self._highest or self._counts[0]):
            return {"count": 0}
        counts = np.asarray(self._counts)
        total = int(counts.sum())
        if not total:
            # Another thread is noting the first one now.
            return {"count": 0}
        cumulated = np.cumsum(counts)
        out = {}
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
            bucket = int(np.searchsorted(cumulated, share * total))
            out[name] = min(_middle(bucket), self._highest) / unit
        out["max"] = self._highest / unit
        out["mean"] = self._total / total / unit
        out["count"] = total
        return out


def _middle(bucket: int) -> float:
    """Return the middle of what falls into a bucket, in ns."""
    if bucket < 1 << _BITS:
        return float(bucket)
    low, above = _lowest(bucket), _lowest(bucket + 1)
    return float((low + above - 1) / 2)


def _lowest(bucket: int) -> int:
    """Return the lowest duration that falls into a bucket, in ns."""
    if bucket < 1 << _BITS:
        return bucket
    shift = (bucket >> (_BITS - 1)) - 1
    return (bucket - (shift << (_BITS - 1))) << shift


@final
class Agreement:
    """How often executor and planner agree, of the newest `window` answers and of all.

    Pairs are noted on the tick and compared elsewhere.
    """

    def __init__(self, action: ActionSpec, window: int = 1024) -> None:
        self._action = action
        self._pairs: deque[tuple[Any, AnyDist]] = deque(maxlen=16384)
        self._recent: deque[float] = deque(maxlen=window)
        self._sum = 0.0
        self._count = 0
        self._settling = threading.Lock()

    def note(self, did: Any, planner: AnyDist) -> None:
        """Remember what the executor decided and the planner's answer, (1, …)."""
        self._pairs.append((did, planner))

    def settle(self) -> None:
        """Compare the pairs that were noted."""
        for _ in self.settling():
            pass

    def settling(self) -> Iterator[str]:
        """Compare the pairs that were noted, a few at each step."""
        while self._pairs:
            self._settle()
            yield "compare"

    def _settle(self) -> None:
        by_kind: dict[str, list[tuple[Any, AnyDist]]] = {}
        with self._settling:
            for _ in range(min(len(self._pairs), _TOGETHER)):
                pair = self._pairs.popleft()
                by_kind.setdefault(dists.kind_of(pair[1]), []).append(pair)
            for pairs in by_kind.values():
                did = np.stack([np.asarray(action) for action, _ in pairs])
                answers = dists.stack([dist for _, dist in pairs], self._action)
                best = dists.mode(answers, self._action)
                values = dists.agreement(did, best, self._action).tolist()
                self._recent.extend(values)
                self._sum += sum(values)
                self._count += len(values)

    def newest(self) -> float | None:
        """Return the agreement of the newest answers that were compared; None without any."""
        recent = list(self._recent)
        return sum(recent) / len(recent) if recent else None

    def summary(self) -> dict[str, float | None]:
        """Return the agreement, recent and mean, by name; None where it is unknown."""
        self.settle()
        return {
            "executor_agreement": self.newest(),
            "executor_agreement_mean": self._sum / self._count if self._count else None,
        }


@final
class Metrics:
    """The counters of one agent. Only the tick writes; any thread may read a snapshot."""

    def __init__(self, action: ActionSpec) -> None:
        self.decisions: dict[tuple[str, str], int] = {}
        self.vetoes: dict[tuple[str, str], int] = {}
        # Decisions without a planner that is ready, and with one.
        self.latency = {source: Histogram() for source in get_args(Source)}
        self.latency_attached = {source: Histogram() for source in get_args(Source)}
        self.lateness, self.periods = Histogram(), Histogram()
        self.planner_latency, self.planner_ticks = Histogram(), Histogram()
        self.ages, self.seam_jump, self.inside_jump = Histogram(), Histogram(), Histogram()
        self.agreement = Agreement(action)
        self.answers = self.partial_answers = 0
        self.deadline_misses = self.missed_cycles = 0
        self.nan_observations = self.router_errors = self.swaps = 0
        self.episodes = 1
        self.swaps_refused: dict[str, int] = {}
        self.rollbacks: dict[str, int] = {}

    def jumped(self, action: Any, last: Any, actor: tuple[Any, ...], before: Any) -> None:
        """Record how far an action, an array, is from the last one.

        `actor` and `before` say who acts and who acted: the source, and which strategy.
        """
        if actor[0] == "strategy" and actor == before:
            jumps = self.inside_jump
        elif actor != before:
            jumps = self.seam_jump
        else:
            return
        jump = float(np.abs(action - last).max())
        jumps.record(round(min(jump, 1e12) * JUMP))

    def latencies(self) -> tuple[list[float], list[int]]:
        """Return how many decisions took how long: edges in µs, (n + 1), and counts, (n)."""
        by_planner = (self.latency, self.latency_attached)
        return _joined(each for by in by_planner for each in by.values()).filled()

    def snapshot(self) -> dict[str, Any]:
        """Return everything as plain values."""
        by_planner = {"absent": self.latency, "ready": self.latency_attached}
        by_source = {
            source: _joined(each[source] for each in by_planner.values()) for source in self.latency
        }
        decisions = _nested(self.decisions)
        decided = {source: sum(decisions.get(source, {}).values()) for source in self.latency}
        return {
            "decisions_total": decisions,
            "ticks_total": sum(decided.values()),
            "starved_ticks_total": decided["hold"] + decided["default"],
            "vetoes_total": _nested(self.vetoes),
            "router_errors_total": self.router_errors,
            "episodes_total": self.episodes,
            "deadline_miss_total": self.deadline_misses,
            "missed_cycles_total": self.missed_cycles,
            "nan_observations_total": self.nan_observations,
            "decision_latency_us": _joined(by_source.values()).summary(),
            "decision_latency_by_source_us": {
                source: each.summary()
                for source, each in by_source.items()
                if each.summary()["count"]
            },
            "decision_latency_by_planner_us": {
                planner: _joined(each.values()).summary() for planner, each in by_planner.items()
            },
            "tick_lateness_us": self.lateness.summary(),
            "tick_period_us": self.periods.summary(),
            "planner_answers_total": self.answers,
            "planner_partial_answers_total": self.partial_answers,
            "planner_latency_us": self.planner_latency.summary(),
            "planner_latency_ticks": self.planner_ticks.summary(1),
            "strategy_age_ticks": self.ages.summary(1),
            "seam_jump": {
                "seam": self.seam_jump.summary(JUMP),
                "inside": self.inside_jump.summary(JUMP),
            },
            "swaps_total": self.swaps,
            "swaps_refused_total": dict(self.swaps_refused),
            "rollbacks_total": dict(self.rollbacks),
            **self.agreement.summary(),
        }


def _joined(each: Iterable[Histogram]) -> Histogram:
    whole = Histogram()
    for one in each:
        whole.add(one)
    return whole


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for (source, reason), count in dict(counts).items():
        out.setdefault(source, {})[reason] = count
    return out


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Lay numbers out flat, such as "decisions_total/executor/late", for TensorBoard."""
    out: dict[str, float] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{name}/{key}" if name else str(key), inner)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            out[name] = float(value)

    walk("", metrics)
    return out
