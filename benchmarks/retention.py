"""What distillation keeps, over many planners and seeds."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from agentkd.distillation.run import Budget
from agentkd.errors import ConfigError
from agentkd.measure.intervals import Interval
from agentkd.report.model import Plot, Section, Series
from agentkd.types import Floats, Policy, RecurrentPolicy
from benchmarks.planners import CHOOSING, Case, Planners, distilled, random_returns, returns_of
from benchmarks.runner import Benchmark, Column, Findings, Result, Work, grouped, table

_DRAWS = 4000
_TOGETHER = 16
"""Observations in one call of the planner, as when labels are collected."""


@dataclass(frozen=True, kw_only=True)
class Options(Planners):
    """Distil every planner of a folder, once for each seed.

    Example: python -m benchmarks retention --planners planners --seconds 60 --seeds 3

    Any planner in any environment, and executors of several kinds from each: python -m benchmarks
    retention --pairs LunarLander-v3=policies/lunarlander --executor mlp:64,64 gru:32
    """

    executor: tuple[str, ...] = ("mlp:64,64",)
    """The executor's architecture; each planner is distilled into each of several."""
    seconds: float = 60.0
    """How long each distillation takes."""
    seeds: int = 3
    """How many distillations of each planner; seeds 0, 1, …."""
    episodes: int = 20
    """Episodes to measure each policy over, on the same seeds."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""


def works(options: Options) -> Iterator[Work]:
    """List planners, random actions and distillations."""
    if options.seeds < 1 or options.episodes < 1 or not options.seconds > 0:
        raise ConfigError(
            f"--seeds {options.seeds} --episodes {options.episodes} --seconds "
            f"{options.seconds:g}: at least 1, at least 1, above 0."
        )
    for case in options.chosen():
        key = case.key()
        for what, measure in (("planner", _planner), ("random", _random)):
            yield Work(
                f"{case.name}: {what}", {**key, "what": what}, partial(measure, case, options)
            )
        for architecture in options.executor:
            for seed in range(options.seeds):
                yield Work(
                    f"{case.name} to {architecture}, seed {seed}",
                    {**key, "what": "executor", "architecture": architecture, "seed": seed},
                    partial(_executor, case, architecture, seed, options),
                )


def _evaluation(options: Options) -> dict[str, int]:
    return {"episodes": options.episodes, "seed": options.eval_seed}


def _planner(case: Case, options: Options) -> dict[str, Any]:
    known, spec = case.load()
    around = np.random.default_rng(0).standard_normal((_TOGETHER, spec.obs.size))
    return {
        **returns_of(case.env, known.policy, **_evaluation(options)),
        "parameters": known.parameters,
        "labels_per_second": labelling_rate(known.policy, around.astype(np.float32)),
    }


def _random(case: Case, options: Options) -> dict[str, Any]:
    return random_returns(case.env, **_evaluation(options))


def _executor(case: Case, architecture: str, seed: int, options: Options) -> dict[str, Any]:
    result = distilled(case, architecture, Budget(seconds=options.seconds), seed=seed)
    return {
        **returns_of(case.env, result.executor.policy, **_evaluation(options)),
        "labels": result.labels,
        "seconds": result.seconds,
        "steps": result.steps,
        "parameters": result.executor.parameters,
        "megabytes": megabytes(),
    }


def labelling_rate(policy: Policy | RecurrentPolicy, obs: Floats, seconds: float = 0.3) -> float:
    """How many observations a second a planner answers, in batches of (batch, obs)."""
    asked: Any = policy
    state = None
    if isinstance(policy, RecurrentPolicy) and hasattr(policy, "initial_state"):
        state = policy.initial_state(len(obs))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or not count:
        if state is None:
            asked(obs)
        else:
            _, state = asked(obs, state)
        count += len(obs)
    return count / (time.perf_counter() - begin)


def megabytes() -> float:
    """The most memory that this process has needed so far, in 10^6 bytes."""
    try:
        import resource
    except ImportError:
        return math.nan
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def retention(
    runs: Sequence[Sequence[float]],
    planner: Sequence[float],
    random: Sequence[float],
    confidence: float = 0.95,
) -> Interval:
    """Estimate retention over seeds and episodes.

    The interval is a two-level bootstrap: executors are drawn among the seeds', then episodes of
    each, and the planner's and random episodes as well.

    Args:
        runs: The returns of each seed's executor.
        planner: The planner's.
        random: Those of random actions.
        confidence: Of the interval.
    """
    draw = np.random.default_rng(0)
    executors = [np.asarray(run) for run in runs]
    best, floor = np.asarray(planner), np.asarray(random)
    apart = float(best.mean() - floor.mean())
    mean = float(np.mean([run.mean() for run in executors]))
    if not apart:
        return Interval(math.nan, math.nan, math.nan)
    draws = np.empty(_DRAWS)
    for index in range(_DRAWS):
        drawn = [executors[i] for i in draw.integers(0, len(runs), len(runs))]
        executor = np.mean([draw.choice(run, len(run)).mean() for run in drawn])
        high = draw.choice(best, len(best)).mean()
        low = draw.choice(floor, len(floor)).mean()
        draws[index] = (executor - low) / (high - low) if high != low else np.nan
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Interval((mean - float(floor.mean())) / apart, float(low), float(high))


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half (Agarwal et al. 2021), ends weighted in part."""
    ordered = np.sort(np.asarray(values, float))
    count = len(ordered)
    if not count:
        return float("nan")
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, 1)
    return float((ordered * weights).sum() / weights.sum())


@dataclass(frozen=True, slots=True)
class Row:
    """A planner and an architecture, with the results of all seeds.

    Attributes:
        name: The planner's name.
        architecture: The executor's.
        planner: The planner's result.
        runs: The executors' results.
        retention: Over seeds and episodes.
    """

    name: str
    architecture: str
    planner: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    retention: Interval

    def mean(self, what: str) -> float:
        """Return the mean of a value over all runs, of returns over all episodes."""
        return float(np.mean([run[what] for run in self.runs]))

    def rate(self, what: str) -> float:
        """Return labels or steps per second, over all runs."""
        seconds = sum(run["seconds"] for run in self.runs)
        return float(sum(run[what] for run in self.runs) / seconds)


WHO = [Column("planner", lambda r: r.name), Column("executor", lambda r: r.architecture)]
KEPT = [
    *WHO,
    Column("its return", lambda r: float(np.mean(r.planner["returns"])), ",.1f"),
    Column("executor's", lambda r: r.mean("returns"), ",.1f"),
    Column("retention", lambda r: r.retention.mean, ".3f"),
    Column("95 %", lambda r: f"{r.retention.low:.3f} … {r.retention.high:.3f}"),
]
COST = [
    *WHO,
    Column("parameters", lambda r: r.runs[0]["parameters"], ","),
    Column("planner's", lambda r: r.planner["parameters"] or math.nan, ","),
    Column("labels", lambda r: r.mean("labels"), ",.0f"),
    Column("labels/s", lambda r: r.rate("labels"), ",.0f"),
    Column("alone*", lambda r: r.planner["labels_per_second"], ",.0f"),
    Column("steps/s", lambda r: r.rate("steps"), ",.0f"),
    Column("MB", lambda r: r.mean("megabytes"), ",.0f"),
]
_ALONE = f"* The planner's labels a second in batches of {_TOGETHER}, with nothing else."


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Join the seeds of each planner and architecture."""
    found = []
    for (name,), each in grouped(results, "planner").items():
        by = grouped(each, "what")
        planner, random = by.get(("planner",)), by.get(("random",))
        if planner is None or random is None:
            continue
        runs = grouped(by.get(("executor",), []), "architecture")
        for (architecture,), group in runs.items():
            interval = retention(
                [run["returns"] for run in group], planner[0]["returns"], random[0]["returns"]
            )
            found.append(Row(name, architecture, planner[0], group, interval))
    return found


def _middles(rows: Sequence[Row]) -> dict[str, float]:
    """The interquartile mean over planners, by architecture."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.architecture, []).append(row.retention.mean)
    return {each: interquartile_mean(values) for each, values in found.items()}


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show what was kept and what it cost."""
    rows = rows_of(results)
    plot = Plot(
        "Retention",
        "retention",
        "",
        tuple(
            Series(f"{r.name} {r.architecture}", [0.0], [i.mean], [i.low], [i.high])
            for r in rows
            for i in [r.retention]
        ),
        "95 % over seeds and episodes.",
        kind="rows",
    )
    text = f"{options.seconds:g} s each, {options.seeds} seeds, {options.episodes} episodes."
    middles = _middles(rows)
    return Findings(
        [
            Section("What is kept", text, table(KEPT, rows), (plot,) if rows else ()),
            Section("What it cost", "", table(COST, rows, _ALONE)),
        ],
        "\n".join(
            f"Interquartile mean over planners, {architecture}: {middle:.3f}"
            for architecture, middle in middles.items()
        ),
        data={
            "interquartile_mean": middles,
            "retention": [
                {"planner": r.name, "architecture": r.architecture, **asdict(r.retention)}
                for r in rows
            ],
        },
    )


def brief(result: Result) -> str:
    """Give the mean return."""
    return f"return {np.mean(result['returns']):,.1f}"


BENCHMARK = Benchmark("retention", works, findings, brief, (*CHOOSING, "executor", "seeds"))
run = BENCHMARK.run
