"""Planner alone and late, executor alone, and both, in worlds where both matter: one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agentkd import environments
from agentkd.cli.run_options import StrategyChoice
from agentkd.distillation.run import Budget
from agentkd.errors import ConfigError, did_you_mean
from agentkd.report.model import Section
from benchmarks import late_planner
from benchmarks.late_planner import ARMS, brief, gains, lived, subject, worse
from benchmarks.planners import Case, executor_file
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table

_PLANNER, _EXECUTOR, _RUNTIME = ARMS
_ANY = StrategyChoice()
_FREEWAY = StrategyChoice(
    guard="policies.freeway:safe",
    holds="policies.freeway:holds",
    roll_forward="policies.freeway:ahead",
)
_MAZE = StrategyChoice(roll_forward="policies.maze:ahead")
_SNAKE = StrategyChoice(guard="policies.snake:safe", roll_forward="policies.snake:ahead")
_NOISY = StrategyChoice(roll_forward="HalfCheetah-v5")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A world, who plans and acts in it, and how late the planner is.

    Attributes:
        env: The environment.
        planner: The planner; one that begins with PLANNERS/ lies in the folder of --planners.
        executor: An executor's file, or an architecture that is distilled from the planner first.
        labels: What it is distilled from.
        rows: Rows that a planner of one row answers with at least; as many as there are ticks until
            its next answer.
        latencies: In ticks.
        hz: Ticks per second; what the latencies mean in seconds.
        episodes: How many, by default.
        unit: The return that a score of 1 stands for.
        strategies: Which strategies may act, and how they are asked for.
    """

    env: str
    planner: str
    executor: str
    labels: int = 0
    rows: int = 1
    latencies: tuple[int, ...]
    hz: float
    episodes: int
    unit: float = 1.0
    strategies: StrategyChoice = _ANY


def _freeway(difficulty: str) -> World:
    return World(
        env=f"envs.freeway:agentkd/Freeway{difficulty}-v0",
        planner="policies.freeway:planner",
        executor="policies/freeway/executor.akd",
        latencies=(1, 4, 8, 16),
        hz=10,
        episodes=200,
        unit=89,
        strategies=_FREEWAY,
    )


def _robot(name: str, env: str) -> World:
    return World(
        env=env,
        planner=f"PLANNERS/{name}",
        executor="mlp:64,64",
        labels=120_000,
        rows=16,
        latencies=(2, 4, 10, 25),
        hz=20,
        episodes=10,
    )


def _noisy(name: str) -> World:
    world = _robot(name, "envs.noisy:agentkd/HalfCheetahNoisy-v0")
    return replace(world, latencies=(2, 4), strategies=_NOISY)


WORLDS: Mapping[str, World] = {
    "maze": World(
        env="envs.maze:agentkd/Maze-v0",
        planner="policies.maze:planner",
        executor="policies/maze/executor.akd",
        latencies=(1, 5, 10, 20),
        hz=20,
        episodes=200,
        strategies=_MAZE,
    ),
    "freeway-easy": _freeway("Easy"),
    "freeway-medium": _freeway("Medium"),
    "freeway-hard": _freeway("Hard"),
    "snake": World(
        env="envs.snake:agentkd/Snake-v0",
        planner="policies.snake:planner",
        executor="mlp:128,64",
        labels=20_000,
        latencies=(1, 4, 8),
        hz=10,
        episodes=200,
        strategies=_SNAKE,
    ),
    "cheetah-tqc": _robot("tqc-HalfCheetah-v5", "HalfCheetah-v5"),
    "cheetah-sac": _robot("sac-HalfCheetah-v5", "HalfCheetah-v5"),
    "swimmer-sac": _robot("sac-Swimmer-v5", "Swimmer-v5"),
    "cheetah-tqc-noisy": _noisy("tqc-HalfCheetah-v5"),
    "cheetah-sac-noisy": _noisy("sac-HalfCheetah-v5"),
}


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Live with a planner that is late, in worlds where planner and executor both matter.

    In each world: the planner alone, acting on its answers when they arrive; the executor alone;
    the runtime with both; and the planner that is never late. All on the same seeds, on which
    nothing was trained or tuned, under the virtual clock, so any machine gives the same figures.
    The runtime's gain is that over the better of both, episode by episode.

    Robots need --planners, a folder with tqc-HalfCheetah-v5, sac-HalfCheetah-v5 and sac-Swimmer-v5.
    Executors that are not shipped are distilled first and kept in --out.

    Example: python -m benchmarks thinking --worlds maze freeway-hard --out runs/thinking
    """

    planners: Path | None = None
    """The folder of saved planners; without it, the robots are left out."""
    worlds: tuple[str, ...] = ()
    """Which worlds; by default all that can be made."""
    episodes: int | None = None
    """Episodes of each arm; by default 200, and 10 of each robot."""
    seed: int = 40_000
    """Episode i is reset with seed + i."""
    jobs: int = 1
    """Processes that measure at the same time."""


def chosen(options: Options) -> dict[str, World]:
    """Return the worlds that are measured.

    Raises:
        ConfigError: If a world is unknown, or needs planners that are not given.
    """
    found = {}
    for name in options.worlds or WORLDS:
        if name not in WORLDS:
            raise ConfigError(f"No world {name!r}.{did_you_mean(name, WORLDS)}")
        world = WORLDS[name]
        if world.planner.startswith("PLANNERS/"):
            if options.planners is None:
                if options.worlds:
                    raise ConfigError(f"{name} needs --planners, the folder of saved planners.")
                continue
            own = str(options.planners / world.planner.removeprefix("PLANNERS/"))
            world = replace(world, planner=own)
        found[name] = world
    return found


def _lives(world: World, options: Options, file: str) -> late_planner.Options:
    """Return how the arms of a world live."""
    return late_planner.Options(
        env=(world.env,),
        planner=world.planner,
        planner_rows=world.rows,
        executor=(file,),
        latencies=tuple(map(str, world.latencies)),
        hz=world.hz,
        episodes=options.episodes or world.episodes,
        seed=options.seed,
        unit=world.unit,
        strategies=world.strategies,
    )


def _file(world: World, options: Options) -> str:
    """Return the executor's file; it is distilled if it is missing."""
    if not world.labels:
        return world.executor
    if options.out is None:
        raise ConfigError("Executors are distilled first and kept: name a folder with --out.")
    name = Path(world.planner).name.rpartition(":")[0] or Path(world.planner).name
    place = environments.split(world.env)[0].rpartition("/")[2]
    if place not in name:
        name += f"-{place}"
    case = Case(name, world.env, world.planner)
    return str(executor_file(case, world.executor, Budget(labels=world.labels), options.out))


def prepare(options: Options) -> None:
    """Distil what is not shipped."""
    for world in chosen(options).values():
        _file(world, options)


def _measure(arm: late_planner.Arm, world: World, latency: int, options: Options) -> Result:
    if world.rows > 1:
        # Rows that end before the next answer comes would hand over at each answer.
        world = replace(world, rows=max(world.rows, latency + 1))
    how = _lives(world, options, _file(world, options))
    executor, planner, strategies = subject(world.env, how.executor[0], how)
    return lived(arm, world.env, latency, executor, planner, strategies, how)


def works(options: Options) -> Iterator[Work]:
    """List the arms: the executor alone once, the others at each latency."""
    if options.seed < 0 or (options.episodes is not None and options.episodes < 1):
        raise ConfigError("--episodes at least 1, --seed at least 0.")
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: at least 1.")
    for name, world in chosen(options).items():
        first = world.latencies[0]
        cells = [(_EXECUTOR, first), (_PLANNER, 0)]
        cells += [(arm, late) for late in world.latencies for arm in (_PLANNER, _RUNTIME)]
        for arm, late in cells:
            yield Work(
                f"{name}, {late} ticks late: {arm.name}",
                {"env": name, "latency": late, "arm": arm.name},
                partial(_measure, arm, world, late, options),
            )


def _whole(results: Sequence[Result]) -> list[Result]:
    """Give the executor alone at each latency, for it is the same at all of them."""
    out = []
    for (_, arm), each in grouped(results, "env", "arm").items():
        if arm != _EXECUTOR.name:
            out += each
            continue
        delays = {r["latency"] for r in results if r["env"] == each[0]["env"]} - {0}
        out += [{**each[0], "latency": late} for late in sorted(delays)]
    return out


def _rows(results: Sequence[Result]) -> list[Result]:
    gained = {(g["env"], g["latency"]): g["gain"] for g in gains(results)}
    best = {r["env"]: r["score"] for r in results if r["latency"] == 0}
    rows = []
    for (env, late), each in grouped(results, "env", "latency").items():
        if late == 0:
            continue
        scores = {r["arm"]: r["score"] for r in each}
        gain = gained.get((env, late))
        never = best.get(env, math.nan)
        rows.append(
            {
                "env": env,
                "late": late,
                **{arm.name: scores.get(arm.name, math.nan) for arm in ARMS},
                "gain": gain.mean if gain else math.nan,
                "low": gain.low if gain else math.nan,
                "high": gain.high if gain else math.nan,
                "never late": never,
            }
        )
    order = list(dict.fromkeys(r["env"] for r in results))
    return sorted(rows, key=lambda row: (order.index(row["env"]), row["late"]))


def _said(name: str, row: Result) -> str:
    """Write a score in as many digits as it takes, a gain with its sign."""
    value, sign = row[name], "+" if name in _GAIN else ""
    return f"{value:{sign},.0f}" if abs(value) >= _LARGE else f"{value:{sign}.3g}"


_LARGE = 1000
_GAIN = ("gain", "low", "high")
_SHOWN = ("planner", "executor", "runtime", "never late", *_GAIN)
_COLUMNS = [Column("late", "late"), *(Column(name, partial(_said, name)) for name in _SHOWN)]
_CAPTION = (
    "Mean scores, lateness in ticks. The gain is the runtime's over the better of planner alone "
    "and executor alone, episode by episode, with 95 % intervals."
)


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show one row for each world and latency, and say where the runtime gains or is below."""
    whole = _whole(results)
    rows = _rows(whole)
    gaining = list(dict.fromkeys(row["env"] for row in rows if row["low"] > 0))
    verdict = f"The runtime gains, interval above 0, in {len(gaining)} worlds"
    verdict += f": {', '.join(gaining)}." if gaining else "."
    below = worse(whole)
    if below:
        verdict += "\nIts mean is below:\n" + "\n".join(f"  {each}" for each in below)
    sections = [
        Section(name, "", table(_COLUMNS, own, _CAPTION))
        for (name,), own in grouped(rows, "env").items()
    ]
    return Findings(sections, verdict, not any(each["fault"] for each in results))


BENCHMARK = Benchmark("thinking", works, findings, brief, ("worlds", "planners"), prepare)
run = BENCHMARK.run
