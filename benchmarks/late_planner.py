"""Planner alone, executor alone, runtime, over the planner's latency."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from agentkd.cli.run_options import StrategyChoice, look_ahead
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation.task import open_task
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.measure.intervals import mean_interval
from agentkd.measure.live import Interrupt, Lived, Setting, live
from agentkd.planners.rolled import rolled_out
from agentkd.refs import is_reference
from agentkd.report.model import Plot, Section, Series
from agentkd.runtime.arbiter import Mode
from agentkd.runtime.loop import SOURCES
from agentkd.runtime.ports import AnyPlanner
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.workers.host import Process
from agentkd.spec_json import to_json
from benchmarks.runner import (
    Benchmark,
    Column,
    Findings,
    Place,
    Result,
    Work,
    grouped,
    pivot,
    table,
)

_ANY_STRATEGY = StrategyChoice()


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Live with a planner that is late by L: it alone, the executor alone, the runtime.

    Each environment is lived at each latency by each arm, on the same seeds. On the virtual clock
    latencies are ticks and everything can be repeated exactly; on the wall clock "real" is as late
    as the planner is. The planner alone acts when its answer arrives, without routers or
    roll-forward; the executor alone is under the routers; the runtime has everything. --ablate adds
    arms that lack one thing.

    Freeway under time pressure, three difficulties, the published seeds:

    python -m benchmarks late_planner --env envs.freeway:agentkd/FreewayEasy-v0
    envs.freeway:agentkd/FreewayMedium-v0 envs.freeway:agentkd/FreewayHard-v0 --planner
    policies.freeway:planner --executor policies/freeway/executor.akd --guard policies.freeway:safe
    --holds policies.freeway:holds --roll-forward policies.freeway:ahead --episodes 8 --seed 0
    --unit 89

    A robot and a planner that searches, in real time, for 20 s at a time:

    python -m benchmarks late_planner --env HalfCheetah-v5 --planner policies.mpc:half_cheetah
    --executor cheetah.akd --clock wall --hz 20 --latencies real --roll-forward HalfCheetah-v5
    --episodes 5 --episode-ticks 400
    """

    env: tuple[str, ...]
    """Environments: Gymnasium ids, "module:Id-v0", or "module:attribute"."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""
    planner: str
    """The planner: an SB3 save, an .akd file, tcp://host:port, or module:attribute."""
    planner_rows: int = 1
    """Rows that a planner of one row is to answer with: it is rolled out so far in the simulation
    of the MuJoCo environment, or of the one that --roll-forward names."""
    executor: tuple[str, ...]
    """An executor file (.akd) for all environments, or one for each."""
    latencies: tuple[str, ...] = ("0", "1", "4", "8", "16")
    """Latencies in ticks; on the wall clock also real."""
    clock: Literal["virtual", "wall"] = "virtual"
    """Whether ticks take time."""
    hz: float = 50.0
    """Ticks per second."""
    episodes: int = 8
    """Episodes of each arm."""
    episode_ticks: int | None = None
    """Truncate episodes after so many ticks, besides the environment's own end."""
    seed: int = 0
    """Episode i is reset with seed + i."""
    unit: float = 1.0
    """The return that a score of 1 stands for; scores are returns divided by it."""
    ablate: bool = False
    """Add arms that lack the routers, or the roll-forward."""
    strategies: OmitArgPrefixes[StrategyChoice] = _ANY_STRATEGY
    """Which strategies may act, and how they are asked for."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to live with a planner that is late.

    Attributes:
        name: What it is called.
        mode: Who takes part.
        guarded: Whether the routers are asked.
        ahead: Whether the planner is asked about the state its answer will meet.
    """

    name: str
    mode: Mode
    guarded: bool = True
    ahead: bool = True


ARMS = (
    Arm("planner", "planner", guarded=False, ahead=False),
    Arm("executor", "executor"),
    Arm("runtime", "runtime"),
)
_ABLATIONS = (
    Arm("planner, routers and roll-forward", "planner"),
    Arm("executor, no routers", "executor", guarded=False),
    Arm("runtime, no routers", "runtime", guarded=False),
    Arm("runtime, no roll-forward", "runtime", ahead=False),
)


def works(options: Options) -> Iterator[Work]:
    """List the arms at each latency in each environment."""
    if not options.env or len(options.executor) not in (1, len(options.env)):
        raise ConfigError(
            f"{len(options.executor)} executors for {len(options.env)} environments: "
            "one for all of them, or one for each."
        )
    if not all(0 < each < math.inf for each in (options.hz, options.unit)):
        raise ConfigError("--hz and --unit: above 0.")
    counts = options.episodes, options.episode_ticks or 1
    if options.seed < 0 or min(counts) < 1 or options.episode_ticks == 0:
        raise ConfigError("--episodes and --episode-ticks at least 1, --seed at least 0.")
    if options.planner_rows < 1:
        raise ConfigError(f"--planner-rows {options.planner_rows}: at least 1.")
    latencies = [_latency(word, options.clock) for word in options.latencies]
    options.strategies.make_routers()
    for index, env in enumerate(options.env):
        file = options.executor[index if len(options.executor) > 1 else 0]
        executor, planner, strategies = subject(env, file, options)
        for latency in latencies:
            for arm in (*ARMS, *(_ABLATIONS if options.ablate else ())):
                yield Work(
                    f"{env}, latency {_said(latency)}: {arm.name}",
                    {"env": env, "latency": latency, "arm": arm.name},
                    partial(lived, arm, env, latency, executor, planner, strategies, options),
                )


def _latency(word: str, clock: str) -> int | None:
    """Read a latency in ticks; None for as late as the planner is."""
    if word.isdigit():
        return int(word)
    if word != "real" or clock != "wall":
        raise ConfigError(f"--latencies {word}: a number of ticks; real on the wall clock.")
    return None


def _said(latency: int | None) -> str:
    return "real" if latency is None else f"{latency}"


def subject(env: str, file: str, options: Options) -> tuple[Executor, AnyPlanner, StrategyOptions]:
    """Read the executor, and make the planner: on the wall clock in a process."""
    task = open_task(env, options.planner)
    executor = task.executor(read_bundle(file).executor, name=file, goals=task.goals)
    strategies = options.strategies.make_options(task.goals)
    rows, model = options.planner_rows, _simulated(env, options.strategies)
    planner = task.planner if rows == 1 else rolled_out(task.planner, model, rows)
    if not executor.memory:
        strategies, _ = look_ahead(options.strategies, strategies, env, planner.policy)
    if options.clock == "virtual":
        return executor, planner.policy, strategies
    arguments = {"ref": options.planner, "spec": to_json(task.spec)}
    if rows == 1:
        return executor, Process("agentkd.planners.load:build", arguments), strategies
    more = {**arguments, "env": model, "rows": rows}
    return executor, Process("agentkd.planners.rolled:build", more), strategies


def _simulated(env: str, strategies: StrategyChoice) -> str:
    """Return in which environment's simulation a planner is rolled out."""
    model = strategies.roll_forward
    return env if model is None or model == "off" or is_reference(model) else model


def lived(
    arm: Arm,
    env: str,
    latency: int | None,
    executor: Executor,
    planner: AnyPlanner,
    strategies: StrategyOptions,
    options: Options,
) -> dict[str, Any]:
    """Let an arm live.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
    """
    if not arm.ahead:
        strategies = replace(strategies, roll_forward=None)
    setting = Setting(
        env=env,
        hz=options.hz,
        clock=options.clock,
        latency=latency,
        budget=0.0 if options.clock == "virtual" else 0.25 / options.hz,
        ticks=None,
        seconds=None,
        episodes=options.episodes,
        seed=options.seed,
        routers=options.strategies.make_routers if arm.guarded else tuple,
        strategies=strategies,
        workers=options.strategies.workers,
        episode_ticks=options.episode_ticks,
    )

    async def run() -> Lived:
        with Interrupt() as interrupt:
            return await live(setting, arm.mode, executor, planner, interrupt=interrupt)

    found = asyncio.run(run())
    if found.interrupted:
        raise KeyboardInterrupt
    interval = mean_interval(found.result.returns)
    return {
        "score": interval.mean / options.unit,
        "score_interval": [interval.low / options.unit, interval.high / options.unit],
        "returns": found.result.returns,
        "unit": options.unit,
        "metrics": dict(found.result.metrics),
        "fault": found.fault,
    }


def worse(results: Sequence[Result]) -> list[str]:
    """Say where the runtime is below planner alone or executor alone."""
    out = []
    for (env, late), each in grouped(results, "env", "latency").items():
        scores = {r["arm"]: r["score"] for r in each}
        mine = scores.get("runtime")
        for other in ("planner", "executor"):
            theirs = scores.get(other)
            if mine is not None and theirs is not None and not mine >= theirs - 1e-9:
                out.append(f"{env} at {_said(late)}: {mine:.3f} below {other}'s {theirs:.3f}")
    return out


def gains(results: Sequence[Result]) -> list[Result]:
    """Return what the runtime gains over the better of planner and executor, episode by episode."""
    gained: list[Result] = []
    for (env, late), each in grouped(results, "env", "latency").items():
        arms = {r["arm"]: r for r in each}
        if late == 0 or not {"planner", "executor", "runtime"} <= set(arms):
            continue
        better = max(("planner", "executor"), key=lambda arm: arms[arm]["score"])
        mine, theirs = arms["runtime"], arms[better]
        if len(mine["returns"]) != len(theirs["returns"]):
            continue
        apart = np.subtract(mine["returns"], theirs["returns"])
        interval = mean_interval(apart / mine["unit"])
        gained.append({"env": env, "latency": late, "better": better, "gain": interval})
    return gained


def _share(source: str, result: Result) -> float:
    metrics = result["metrics"]
    decisions = metrics["decisions_total"].get(source, {})
    return float(sum(decisions.values()) / max(1, metrics["ticks_total"]))


def _took(name: str, result: Result) -> float:
    return float(result["metrics"]["planner_latency_us"].get(name, math.nan) / 1000)


CELL = [Column("arm", "arm"), Column("late", lambda r: _said(r["latency"]))]
SURE = [
    *CELL,
    Column("score", "score", ".3f"),
    Column("low", lambda r: r["score_interval"][0], ".3f"),
    Column("high", lambda r: r["score_interval"][1], ".3f"),
]
GAINED = [
    Column("late", lambda r: _said(r["latency"])),
    Column("better of both", "better"),
    Column("runtime's gain", lambda r: r["gain"].mean, "+.3f"),
    Column("low", lambda r: r["gain"].low, "+.3f"),
    Column("high", lambda r: r["gain"].high, "+.3f"),
]
ACTED = [
    *CELL,
    *(Column(source, partial(_share, source), ".3f") for source in SOURCES),
    Column("ms p50", partial(_took, "p50"), ".1f"),
    Column("p99", partial(_took, "p99"), ".1f"),
    Column("missed", lambda r: r["metrics"]["missed_cycles_total"], ","),
]
_GAINED = "Over the better of planner alone and executor alone, on the same seeds; 95 % intervals."
_ACTED = (
    "Shares of the ticks at which each acted; milliseconds from an observation to its "
    "answer; periods that went by without a tick."
)


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show the scores of each environment, their intervals, and who acted."""
    sections = []
    for (env,), own in grouped(results, "env").items():
        scores = {(r["arm"], r["latency"]): r["score"] for r in own}
        late = list(dict.fromkeys(r["latency"] for r in own))
        plot = Plot(
            env,
            "latency in ticks",
            "score",
            tuple(
                Series(arm, late, [scores.get((arm, each), math.nan) for each in late])
                for arm in dict.fromkeys(arm for arm, _ in scores)
            ),
        )
        plots = (plot,) if len(late) > 1 and None not in late else ()
        # What is lost to a planner that is never late.
        lost = {("regret of the runtime", k): v for k, v in _regret(scores).items()}
        heads = {each: _said(each) for each in late}
        shown = pivot("arm", {**scores, **lost}, heads, ".3f")
        sure = "95 % intervals over the episodes."
        sections += [
            Section(f"{env}, by the planner's latency in ticks", "", shown, plots),
            Section(f"{env}, intervals", "", table(SURE, own, sure)),
            Section(f"{env}, what the runtime gains", "", table(GAINED, gains(own), _GAINED)),
            Section(f"{env}, who acted", "", table(ACTED, own, _ACTED)),
        ]
    below = worse(results)
    verdict = "At every latency the runtime is at or above planner and executor alone."
    if below:
        verdict = "The runtime is below:\n" + "\n".join(f"  {each}" for each in below)
    return Findings(sections, verdict, not any(each["fault"] for each in results))


def _regret(scores: Mapping[tuple[str, Any], float]) -> dict[Any, float]:
    """How far the runtime is below the planner that is never late, by latency."""
    best = scores.get(("planner", 0), np.nan)
    found = {late: s for (arm, late), s in scores.items() if arm == "runtime"}
    return {} if np.isnan(best) else {late: best - s for late, s in found.items()}


def brief(result: Result) -> str:
    """Give the score."""
    return f"{result['score']:.3f} {result['fault']}".strip()


BENCHMARK = Benchmark("late_planner", works, findings, brief, ("env", "latencies", "ablate"))
run = BENCHMARK.run
