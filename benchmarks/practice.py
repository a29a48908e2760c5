"""What practice in a planner's model gives: an executor, a guided planner, and one it teaches.

For each seed an executor and a value practise. The executor is measured alone; it and the value
guide the search; and a fresh executor learns from a few answers of the guided planner.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from agentkd import load, load_planner
from agentkd.distillation import run_distillation
from agentkd.distillation.practice import PracticeOptions, practise, save
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import open_task
from agentkd.environments import look_at
from agentkd.errors import ConfigError
from agentkd.planners.search.guide import EXECUTOR
from agentkd.report.model import Section
from agentkd.types import Floats
from benchmarks.planners import returns_of
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

_WHOLE_EPISODES = 2
"""Environments from which a labels come: so few that episodes are lived to their end."""
_TAUGHT = {"answer": "mean", "remembered": 0}
"""How a guided planner answers whom it teaches."""


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Measure what practice in a planner's model gives. The files lie in --out."""

    env: str = "HalfCheetah-v5"
    """The environment."""
    planner: str = "policies.mpc:planner"
    """The planner in whose model is practised."""
    guided: str = "policies.mpc:guided"
    """A function that makes the guided planner of the folder practised=…"""
    executor: str = "mlp:64,64,tanh"
    """Who practises, and who is taught."""
    ticks: int = 8_000_000
    """Ticks of the model for each seed."""
    restarts: int = 4
    """How many begin, of each seed."""
    threads: int = 2
    """Threads that simulate."""
    labels: int = 2000
    """Answers of the guided planner from which an executor is taught; 0 for none."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Seeds of practice."""
    episodes: int = 10
    """Episodes of each executor."""
    guided_episodes: int = 3
    """Episodes of the guided planner."""
    planner_episodes: int = 0
    """Episodes of the planner without a guide, which is slow."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""


def _works(options: Options) -> Iterator[Work]:
    if options.out is None:
        raise ConfigError("Executors and values are kept in --out. Name the folder.")
    if options.planner_episodes:
        yield Work("planner", {"what": "planner", "seed": None}, partial(_planner, options))
    measures = {"practice": _practice, "guided": _guided, "taught": _taught}
    if not options.labels:
        del measures["taught"]
    # What costs most comes last, so that a run that is ended early has a bit of all seeds.
    for what, measure in measures.items():
        for seed in options.seeds:
            place = options.out / f"seed-{seed}"
            key = {"what": what, "seed": seed}
            yield Work(f"{what}, seed {seed}", key, partial(measure, options, place, seed))


class _Timed:
    """A policy that notes how long it takes for each observation: clock and processor."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.seconds: list[tuple[float, float]] = []

    def __call__(self, obs: Floats, /) -> Any:
        began, used = time.perf_counter(), time.process_time()
        answer = self._policy(obs)
        passed = time.perf_counter() - began, time.process_time() - used
        self.seconds.append((passed[0] / len(obs), passed[1] / len(obs)))
        return answer


def _planner(options: Options) -> Mapping[str, Any]:
    spec, _ = look_at(options.env)
    policy: Any = load_planner(options.planner, spec).policy
    return _timed(options, policy.at(1), options.planner_episodes)


def _timed(options: Options, policy: Any, episodes: int) -> dict[str, Any]:
    timed = _Timed(policy)
    found = returns_of(options.env, timed, episodes=episodes, seed=options.eval_seed)
    clock, processor = np.percentile(np.array(timed.seconds) * 1e3, 50, axis=0)
    return {**found, "ms_p50": float(clock), "cpu_ms_p50": float(processor)}


def _returns(options: Options, policy: Any) -> dict[str, Any]:
    return returns_of(options.env, policy, episodes=options.episodes, seed=options.eval_seed)


def _practice(options: Options, place: Path, seed: int) -> Mapping[str, Any]:
    task = open_task(options.env, options.planner)
    how = PracticeOptions(
        ticks=options.ticks, restarts=options.restarts, threads=options.threads, seed=seed
    )
    looks: list[tuple[int, float]] = []

    def keep(best: Any) -> None:
        looks.append((best.ticks, best.returned))
        save(place, best, {"env": options.env, "seed": seed})

    best = practise(task, options.executor, how, keep=keep)
    if best.interrupted:
        raise KeyboardInterrupt
    return {
        **_returns(options, best.executor.policy),
        "in_model": best.returned,
        "explained": best.explained,
        "ticks": best.ticks,
        "seconds": best.seconds,
        "looks": looks,
    }


def _load(options: Options, place: Path, **how: Any) -> Any:
    spec, _ = look_at(options.env)
    return load_planner(options.guided, spec, args={"practised": str(place), **how})


def _guided(options: Options, place: Path, seed: int) -> Mapping[str, Any]:
    del seed
    found = _timed(options, _load(options, place).policy.at(1), options.guided_episodes)
    proposer = load(place / EXECUTOR)
    return {**found, "proposer": fmean(_returns(options, proposer.policy)["returns"])}


def _taught(options: Options, place: Path, seed: int) -> Mapping[str, Any]:
    began = time.perf_counter()
    result = run_distillation(
        options.env,
        _load(options, place, **_TAUGHT),
        options.executor,
        labels=options.labels,
        collection=CollectionOptions(environments=_WHOLE_EPISODES),
        seed=seed,
        episodes=0,
    )
    seconds = time.perf_counter() - began
    return {**_returns(options, result.executor.policy), "seconds": seconds}


def _findings(options: Options, results: Sequence[Result]) -> Findings:
    means = {(each["what"], each["seed"]): fmean(each["returns"]) for each in results}
    by = {(each["what"], each["seed"]): each for each in results}
    parts = ("practice", "guided", "taught")
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        own = {what: by.get((what, seed), {}) for what in parts}
        rows.append(
            {
                "seed": str(seed),
                **{what: means.get((what, seed)) for what in parts},
                "ms": own["guided"].get("ms_p50"),
                "cpu": own["guided"].get("cpu_ms_p50"),
                "explained": own["practice"].get("explained"),
                "ticks": own["practice"].get("ticks"),
                "seconds": own["practice"].get("seconds"),
            }
        )
    shown = [
        Column("seed", "seed"),
        Column("executor alone", "practice", ",.0f"),
        Column("guided planner", "guided", ",.0f"),
        Column("ms an answer", "ms", ".1f"),
        Column("ms of a processor", "cpu", ".1f"),
        Column("executor taught", "taught", ",.0f"),
        Column("value explains", "explained", ".2f"),
        Column("model ticks", "ticks", ","),
        Column("seconds", "seconds", ",.0f"),
    ]
    caption = (
        f"Means over episodes, medians over answers; who is taught had {options.labels:,} answers."
    )
    told = []
    for what in parts:
        found = [mean for (name, _), mean in means.items() if name == what]
        if found:
            told.append(f"{what} {median(found):,.0f}")
    plain = means.get(("planner", None))
    if plain is not None:
        told.append(f"planner without a guide {plain:,.0f}")
    verdict = f"Medians over seeds: {', '.join(told)}."
    return Findings([Section("Practice", table=table(shown, rows, caption))], verdict)


BENCHMARK = Benchmark(
    "practice",
    _works,
    _findings,
    lambda result: f"{fmean(result['returns']):,.0f}",
    choosing=("seeds",),
)
run = BENCHMARK.run
