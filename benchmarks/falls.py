"""How often a robot falls: its executor alone, and with the swaps of live runs.

A robot that falls by itself once in many thousand ticks tells nothing in one run. So each lesson
is a live run whose swaps are recorded. They are replayed, tick for tick and without learning, from
many other starts, in turns with the executor alone and with the one that was swapped in last. A
robot that fell is put up again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
from scipy.stats import binomtest, chi2

from agentkd import Agent, env_spec, load_planner, read_bundle
from agentkd.distillation.service import build
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.report.model import Section
from agentkd.runtime import InlineDistiller, InlinePlanner
from benchmarks.live_learning import (
    LATENCY,
    ROBOTS,
    SWAP_EVERY,
    Taught,
    case_of,
    environment,
    executor_of,
)
from benchmarks.runner import Benchmark, Column, Findings, Result, Work, table

_ARMS = ("alone", "swaps", "last")
_SIGNIFICANT = 0.01


@dataclass(frozen=True, kw_only=True)
class Options(Taught):
    """Measure whether a robot falls more often while learnt executors are swapped in.

    DIR holds saved planners in folders such as `ppo-HalfCheetah-v5`. The arms: the executor alone;
    swaps, the replayed ones of a live run with the gate; last, the executor that was swapped in
    last; live, the live runs themselves.

    Example: python -m benchmarks falls --planners DIR
    """

    robot: str = "cheetah-ppo"
    """Which robot: cheetah, swimmer, cheetah-ppo, cheetah-tqc."""
    lessons: int = 4
    """Live runs, each with the next seed."""
    repeats: int = 20
    """Starts from which each lesson's swaps are replayed."""
    floor: float = 450.0
    """A window whose rewards sum to less is a fall."""
    steps: int = 24
    """Gradient steps per tick of a live run."""
    out: Path | None = Path("runs/falls")
    """Where the executor and the report go."""


class Lived(NamedTuple):
    """Ticks on the feet, and falls."""

    ticks: int
    falls: int


def live(
    env: gym.Env[Any, Any],
    agent: Agent,
    seed: int,
    options: Options,
    after: Callable[[int], object] | None = None,
) -> Lived:
    """Act in an environment; call `after` with the number of ticks after each."""
    obs, _ = env.reset(seed=seed)
    ticks, falls, total = 0, 0, 0.0
    for tick in range(1, options.ticks + 1):
        obs, reward, *_ = env.step(agent.act(obs))
        total += float(reward)
        if after is not None:
            after(tick)
        if tick % options.window == 0:
            if total < options.floor:
                falls += 1
                obs, _ = env.reset()
                agent.reset()
            else:
                ticks += options.window
            total = 0.0
    return Lived(ticks, falls)


def taught(options: Options, seed: int) -> tuple[Lived, dict[int, Executor]]:
    """Learn live with the gate; return what was swapped in, by tick."""
    file, env = executor_of(options.robot, options), environment(ROBOTS[options.robot])
    policy = load_planner(case_of(options.robot, options).planner, env_spec(env)).policy
    distiller = build(str(file), seed=seed, batch=options.batch)
    swaps: dict[int, Executor] = {}
    executor = read_bundle(file).executor
    with Agent(
        executor,
        planner=InlinePlanner(policy, latency_ticks=LATENCY),
        distiller=InlineDistiller(distiller, steps_per_tick=options.steps, swap_every=SWAP_EVERY),
        mode="executor",
    ) as agent:

        def note(tick: int) -> None:
            newest = next(reversed(swaps.values()), executor)
            if agent.executor is not newest:
                swaps[tick] = agent.executor

        lived = live(env, agent, seed, options, note)
    env.close()
    return lived, swaps


def replayed(
    env: gym.Env[Any, Any],
    first: Executor,
    swaps: Mapping[int, Executor],
    seed: int,
    options: Options,
) -> Lived:
    """Act with an executor, and swap others in at their ticks."""
    agent = Agent(first)

    def swap(tick: int) -> None:
        if tick in swaps:
            agent.swap(swaps[tick])

    return live(env, agent, seed, options, swap)


def lesson(seed: int, options: Options) -> dict[str, Any]:
    """Make a live run and replay its swaps; count ticks and falls of each arm."""
    began = time.monotonic()
    lived, swaps = taught(options, seed)
    executor = read_bundle(executor_of(options.robot, options)).executor
    last = list(swaps.values())[-1] if swaps else executor
    arms: dict[str, tuple[Executor, Mapping[int, Executor]]] = {
        "alone": (executor, {}),
        "swaps": (executor, swaps),
        "last": (last, {}),
    }
    found = {arm: Counter[str]() for arm in _ARMS}
    env = environment(ROBOTS[options.robot])
    for start in range(options.repeats):
        for arm in _ARMS:
            # No two lessons share a start, and no start is that of a live run.
            at = 1000 * (seed + 1) + start
            found[arm].update(replayed(env, *arms[arm], at, options)._asdict())
    env.close()
    return {
        "live": lived._asdict(),
        **{arm: dict(each) for arm, each in found.items()},
        "swaps_total": len(swaps),
        "seconds": round(time.monotonic() - began, 1),
    }


def works(options: Options) -> Iterator[Work]:
    """List the lessons."""
    if options.robot not in ROBOTS:
        raise ConfigError(f"{options.robot!r} is unknown.{did_you_mean(options.robot, ROBOTS)}")
    if not ROBOTS[options.robot].endless:
        raise ConfigError(f"{options.robot} has episodes that end: falls are counted without.")
    if min(options.lessons, options.repeats, options.window) < 1:
        raise ConfigError(
            f"lessons={options.lessons}, repeats={options.repeats}, window={options.window}: "
            "each has to be above 0."
        )
    if options.out is None:
        raise ConfigError("--out: the executor needs a folder.")
    for seed in range(options.seed, options.seed + options.lessons):
        yield Work(f"lesson {seed}", {"seed": seed}, partial(lesson, seed, options))


def prepare(options: Options) -> None:
    """Distil the executor before several lessons need it at the same time."""
    executor_of(options.robot, options)


def rate(lived: Lived) -> tuple[float, float, float]:
    """Return falls per 100,000 ticks, with the exact 95 % interval of a Poisson count."""
    ticks, falls = lived
    per = 1e5 / max(1, ticks)
    low = float(chi2.ppf(0.025, 2 * falls)) / 2 if falls else 0.0
    return falls * per, low * per, float(chi2.ppf(0.975, 2 * falls + 2)) / 2 * per


def chance(more: Lived, than: Lived) -> float:
    """Return how probable so many falls are if both fall equally often per tick (one-sided)."""
    if not more.falls + than.falls or not more.ticks:
        return 1.0
    share = more.ticks / (more.ticks + than.ticks)
    test = binomtest(more.falls, more.falls + than.falls, share, alternative="greater")
    return float(test.pvalue)


COLUMNS = [
    Column("arm", "arm"),
    *(Column(name, name, ",") for name in ("ticks", "falls")),
    Column("per 100,000 ticks", lambda row: _said(rate(row["lived"]))),
    Column("chance*", lambda row: math.nan if row["arm"] == "alone" else row["chance"], ".2f"),
]
_CAPTION = (
    "Falls, with the exact 95 % interval of a Poisson count. * that so many come about if the arm "
    "falls as often per tick as the executor alone"
)


def _said(found: tuple[float, float, float]) -> str:
    rate, low, high = found
    return f"{rate:.2f} ({low:.2f} … {high:.2f})"


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show how often each arm fell; no arm may fall more often than the executor alone."""
    lived = {}
    for arm in (*_ARMS, "live"):
        counts = Counter[str]()
        for each in results:
            counts.update(each[arm])
        lived[arm] = Lived(counts["ticks"], counts["falls"])
    rows = [
        {"arm": arm, "lived": each, "chance": chance(each, lived["alone"]), **each._asdict()}
        for arm, each in lived.items()
    ]
    section = Section("Falls", "", table(COLUMNS, rows, _CAPTION))
    worst = min(chance(each, lived["alone"]) for each in lived.values())
    return Findings([section], passed=worst >= _SIGNIFICANT)


def brief(result: Result) -> str:
    """Give the falls of each arm and the swaps."""
    falls = ", ".join(f"{arm} {result[arm]['falls']}" for arm in (*_ARMS, "live"))
    return f"falls {falls}; swaps {result['swaps_total']}, {result['seconds']} s"


BENCHMARK = Benchmark("falls", works, findings, brief, ("planners", "lessons", "seed"), prepare)
run = BENCHMARK.run
