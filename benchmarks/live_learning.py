"""Whether live learning harms a good executor: long runs, with the gate and without.

For each robot an executor is distilled once. Then it acts alone, and in each arm it acts while a
distiller learns from the planner's labels. The question is whether, after the first ticks, any
window of ticks falls below half of the mean that the executor reaches alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from agentkd import Agent, Process, env_spec, load_planner, read_bundle
from agentkd.distillation.run import Budget
from agentkd.distillation.service import build
from agentkd.environments import make
from agentkd.errors import ConfigError, did_you_mean
from agentkd.report.model import Section
from agentkd.runtime import InlineDistiller, InlinePlanner, ProcessDistiller, WallClock
from agentkd.spec_json import to_json
from benchmarks.planners import Case, executor_file
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table

LATENCY = 2
"""Ticks by which the planner's labels are late under the virtual clock."""
SWAP_EVERY = 25
"""Ticks between two candidates under the virtual clock: half a second at 50 Hz."""


@dataclass(frozen=True, slots=True)
class Robot:
    """An environment and its planner.

    Attributes:
        env: The environment's name.
        planner: A folder in `--planners`, or a path in this repository.
        endless: Whether episodes have no limit of ticks.
    """

    env: str
    planner: str
    endless: bool = True


ROBOTS = {
    "cheetah": Robot("HalfCheetah-v5", "sac-HalfCheetah-v5"),
    "swimmer": Robot("Swimmer-v5", "sac-Swimmer-v5"),
    "lander": Robot("LunarLander-v3", "policies/lunarlander", endless=False),
    "cheetah-ppo": Robot("HalfCheetah-v5", "ppo-HalfCheetah-v5"),
    "cheetah-tqc": Robot("HalfCheetah-v5", "tqc-HalfCheetah-v5"),
}
_PLAIN = {"gate": False, "keep": False, "learning_rate": 2e-3, "warmup": 50}
ARMS: Mapping[str, Mapping[str, Any]] = {
    # Neither gate nor kept labels, and a learning rate as for an executor from nothing.
    "plain": _PLAIN,
    "kept": {"gate": False},
    "gate": {},
}


@dataclass(frozen=True, kw_only=True)
class Taught(Place):
    """Robots whose executors are distilled first and then learn live."""

    planners: Path
    """The folder with saved planners."""
    seed: int = 0
    """The first run's seed; the others follow."""
    ticks: int = 15_000
    """Ticks of a run."""
    window: int = 150
    """Ticks of a window."""
    batch: int = 64
    """Labels in a gradient step."""
    distil_labels: int = 200_000
    """Labels that each executor is distilled from first."""
    jobs: int = 1
    """Runs at the same time under the virtual clock."""
    out: Path | None = Path("runs/live-learning")
    """Where executors and the report go."""


@dataclass(frozen=True, kw_only=True)
class Options(Taught):
    """Measure whether live learning harms a good executor.

    DIR holds saved planners in folders such as `sac-HalfCheetah-v5`.

    Example: python -m benchmarks live_learning --planners DIR
    """

    robots: tuple[str, ...] = ("cheetah", "swimmer", "lander")
    """Which robots: cheetah, swimmer, lander, cheetah-ppo, cheetah-tqc."""
    arms: tuple[str, ...] = ("plain", "gate")
    """Which arms: plain (no gate, no kept labels, a high learning rate), kept (no gate) and
    gate."""
    runs: int = 20
    """Runs of each robot and arm."""
    settle: int = 3_000
    """Ticks at the start that do not count."""
    clock: Literal["virtual", "wall"] = "virtual"
    """Whether ticks take time. On the wall clock planner and distiller have processes of their
    own."""
    hz: float = 50.0
    """Ticks per second on the wall clock."""
    steps: int = 4
    """Gradient steps per tick under the virtual clock."""


def case_of(name: str, options: Taught) -> Case:
    """Return a robot with its planner."""
    robot = ROBOTS[name]
    own = Path(__file__).parents[1] / robot.planner
    planner = own if own.is_dir() else options.planners / robot.planner
    return Case(name, robot.env, str(planner))


def executor_of(name: str, options: Taught) -> Path:
    """Distil a robot's executor if it is not there, and return its file."""
    assert options.out is not None
    budget = Budget(labels=options.distil_labels)
    return executor_file(case_of(name, options), "mlp:64,64", budget, options.out)


def environment(robot: Robot) -> gym.Env[Any, Any]:
    """Make a robot's environment."""
    if robot.endless:
        return gym.make(robot.env, max_episode_steps=-1)
    env: gym.Env[Any, Any] = make(robot.env)
    return env


def live(name: str, arm: str, seed: int, options: Options) -> dict[str, Any]:
    """Make a run.

    Args:
        name: The robot's.
        arm: The arm's; "alone" for the executor without a distiller.
        seed: Of the environment and of the distiller.
        options: Of all runs.
    """
    import torch

    torch.set_num_threads(1)
    robot, file = ROBOTS[name], executor_of(name, options)
    env = environment(robot)
    spec = env_spec(env)
    ports: dict[str, Any] = {}
    wall = options.clock == "wall" and arm != "alone"
    if arm != "alone":
        reference = case_of(name, options).planner
        how: dict[str, Any] = {"executor": str(file), "seed": seed}
        how |= {"batch": options.batch, **ARMS[arm]}
        if wall:
            asked = {"ref": reference, "spec": to_json(spec), "access": {}}
            planner: Any = Process("agentkd.planners.load:build", asked)
            distiller: Any = ProcessDistiller(Process("agentkd.distillation.service:build", how))
        else:
            policy = load_planner(reference, spec).policy
            planner = InlinePlanner(policy, latency_ticks=LATENCY)
            distiller = InlineDistiller(
                build(**how), steps_per_tick=options.steps, swap_every=SWAP_EVERY
            )
        ports = {"planner": planner, "distiller": distiller, "mode": "executor"}
    began = time.monotonic()
    windows = [0.0]
    clock = WallClock(1 / options.hz) if wall else None
    with Agent(read_bundle(file).executor, **ports) as agent:
        obs, _ = env.reset(seed=seed)
        if clock is not None:
            clock.start()
        for tick in range(1, options.ticks + 1):
            if clock is not None:
                clock.wait()
            obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
            windows[-1] += float(reward)
            if terminated or truncated:
                obs, _ = env.reset()
                agent.reset()
            if tick % options.window == 0:
                windows.append(0.0)
        metrics = agent.metrics()
    env.close()
    return {
        "windows": [round(each, 2) for each in windows[: options.ticks // options.window]],
        "swaps": metrics["swaps_total"],
        "refused": sum(metrics["swaps_refused_total"].values()),
        "agreement": metrics["executor_agreement"],
        "seconds": round(time.monotonic() - began, 1),
    }


def works(options: Options) -> Iterator[Work]:
    """List the runs of all robots and arms."""
    for names, known in ((options.robots, ROBOTS), (options.arms, ARMS)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{name!r} is unknown.{did_you_mean(name, known)}")
    if not options.settle < options.ticks or options.window < 1 or options.runs < 1:
        raise ConfigError(
            f"ticks={options.ticks}, settle={options.settle}, window={options.window}, "
            f"runs={options.runs}: settle has to be below ticks, the rest above 0."
        )
    if options.clock == "wall" and options.jobs > 1:
        raise ConfigError("--jobs: runs on the wall clock would disturb each other.")
    if options.out is None:
        raise ConfigError("--out: executors need a folder.")
    for seed in range(options.seed, options.seed + options.runs):
        for robot in options.robots:
            for arm in ("alone", *options.arms):
                key = {"robot": robot, "arm": arm, "seed": seed}
                run = partial(live, robot, arm, seed, options)
                yield Work(f"{robot} {arm} {seed}", key, run)


def prepare(options: Options) -> None:
    """Distil the executors before several runs need them at the same time."""
    for name in options.robots:
        executor_of(name, options)


def rows_of(results: Sequence[Result], options: Options) -> list[dict[str, Any]]:
    """Compare the runs of each robot and arm with the executor alone.

    `alone` is the mean window of the executor alone, over all its runs; `fell` counts the runs with
    a window below half of that, after the first ticks.
    """
    first, found = options.settle // options.window, []
    for (robot,), own in grouped(results, "robot").items():
        arms = grouped(own, "arm")
        runs = arms.get(("alone",), [])
        alone = np.mean([each["windows"][first:] for each in runs] or [np.nan])
        for (arm,), each in arms.items():
            windows = np.array([run["windows"][first:] for run in each])
            found.append(
                {
                    "robot": robot,
                    "arm": arm,
                    "runs": len(each),
                    "alone": alone,
                    "mean": windows.mean(),
                    "worst": windows.min(),
                    "fell": int((windows.min(axis=1) < alone / 2).sum()),
                    **{k: np.mean([run[k] for run in each]) for k in _COUNTS},
                }
            )
    return found


_COUNTS = ("swaps", "refused")
COLUMNS = [
    *(Column(name, name) for name in ("robot", "arm")),
    Column("runs", "runs", ","),
    *(Column(name, name, ".1f") for name in ("alone", "mean", "worst")),
    Column("fell", "fell", ","),
    *(Column(name, name, ".1f") for name in _COUNTS),
]
_CAPTION = (
    "Rewards of windows: the executor's alone, the mean, the worst. Fell: runs with a "
    "window below half of the executor's alone."
)


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show the arms of each robot; with the gate no window may fall."""
    rows = rows_of(results, options)
    passed = not any(row["fell"] for row in rows if row["arm"] == "gate")
    section = Section("Live learning", "", table(COLUMNS, rows, _CAPTION))
    return Findings([section], passed=passed)


def brief(result: Result) -> str:
    """Give the last window and the swaps."""
    return (
        f"last window {result['windows'][-1]:.1f}, swaps {result['swaps']}, refused "
        f"{result['refused']}, {result['seconds']} s"
    )


BENCHMARK = Benchmark(
    "live_learning",
    works,
    findings,
    brief,
    ("planners", "robots", "arms", "runs", "seed", "settle"),
    prepare,
)
run = BENCHMARK.run
