"""Whether live learning harms a good executor: long runs, with the gate and without.

    python benchmarks/live_learning.py --planners DIR

DIR holds saved planners in folders such as `sac-HalfCheetah-v5`. For each robot an executor is
distilled once. Then it acts alone, and in each arm it acts while a distiller learns from the
planner's labels. The question is whether, after the first ticks, any window of ticks falls below
half of the mean that the executor reaches alone.

Each run is a file in the output folder; a run whose file is there is not repeated, so that the
command goes on where it was interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from agentkd import Agent, Process, env_spec, load_planner, read_bundle, write_bundle
from agentkd.environments import make
from agentkd.errors import ConfigError, did_you_mean
from agentkd.runtime import InlineDistiller, InlinePlanner, ProcessDistiller, WallClock
from agentkd.spec import to_json

_LATENCY = 2
"""Ticks by which the planner's labels are late under the virtual clock."""
_SWAP_EVERY = 25
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
class Options:
    """Measure whether live learning harms a good executor."""

    planners: Path
    """The folder with saved planners."""
    robots: tuple[str, ...] = ("cheetah", "swimmer", "lander")
    """Which robots: cheetah, swimmer, lander, cheetah-tqc."""
    arms: tuple[str, ...] = ("plain", "gate")
    """Which arms: plain (no gate, no kept labels, a high learning rate), kept (no gate) and
    gate."""
    runs: int = 20
    """Runs of each robot and arm."""
    seed: int = 0
    """The first run's seed; the others follow."""
    ticks: int = 15_000
    """Ticks of a run."""
    settle: int = 3_000
    """Ticks at the start that do not count."""
    window: int = 150
    """Ticks of a window."""
    clock: Literal["virtual", "wall"] = "virtual"
    """Whether ticks take time. On the wall clock planner and distiller have processes of their
    own."""
    hz: float = 50.0
    """Ticks per second on the wall clock."""
    steps: int = 4
    """Gradient steps per tick under the virtual clock."""
    batch: int = 64
    """Labels in a gradient step."""
    distil_labels: int = 200_000
    """Labels that each executor is distilled from first."""
    jobs: int = 1
    """Runs at the same time under the virtual clock."""
    out: Path = Path("runs/live-learning")
    """Where executors, runs and tables go."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run to make.

    Attributes:
        robot: The robot's name.
        arm: The arm's name; "alone" for the executor without a distiller.
        seed: Of the environment and of the distiller.
        options: Of all runs.
    """

    robot: str
    arm: str
    seed: int
    options: Options

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its result, as JSON values."""
        names = ["ticks", "window", "clock", "distil_labels"]
        if self.arm != "alone":
            names += ["hz"] if self.options.clock == "wall" else ["steps"]
            names += ["batch"]
        return {name: getattr(self.options, name) for name in names}

    @property
    def file(self) -> Path:
        """Where its result lies."""
        name = f"{self.robot}-{self.arm}-{self.options.clock}-{self.seed}.json"
        return self.options.out / name

    def result(self) -> dict[str, Any] | None:
        """Read its result, None if it was not made with the same settings."""
        try:
            found: dict[str, Any] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return None
        return found if found.get("settings") == self.settings else None


def planner_of(robot: Robot, options: Options) -> str:
    """Return the reference of a robot's planner."""
    own = Path(__file__).parents[1] / robot.planner
    return str(own if own.is_dir() else options.planners / robot.planner)


def executor_of(name: str, options: Options) -> Path:
    """Distil a robot's executor if it is not there, and return its file."""
    import torch

    from agentkd.distillation.loop import distill

    file = options.out / f"{name}.akd"
    if not file.exists():
        torch.set_num_threads(1)
        robot = ROBOTS[name]
        print(f"distilling {robot.env} from {options.distil_labels:,} labels", flush=True)
        labels = options.distil_labels
        planner = planner_of(robot, options)
        made = distill(robot.env, planner, labels=labels, episodes=0)
        write_bundle(file, made.executor, {"env": robot.env}, labels=made.kept)
    return file


def environment(robot: Robot) -> gym.Env[Any, Any]:
    """Make a robot's environment."""
    if robot.endless:
        return gym.make(robot.env, max_episode_steps=-1)
    env: gym.Env[Any, Any] = make(robot.env)
    return env


def live(run: Run) -> dict[str, Any]:
    """Make a run and write its result."""
    import torch

    from agentkd.distillation.service import build

    torch.set_num_threads(1)
    options, robot = run.options, ROBOTS[run.robot]
    file = options.out / f"{run.robot}.akd"
    executor = read_bundle(file).executor
    env = environment(robot)
    spec = env_spec(env)
    ports: dict[str, Any] = {}
    wall = options.clock == "wall" and run.arm != "alone"
    if run.arm != "alone":
        reference = planner_of(robot, options)
        how: dict[str, Any] = {"executor": str(file), "seed": run.seed}
        how |= {"batch": options.batch, **ARMS[run.arm]}
        if wall:
            asked = {"ref": reference, "spec": to_json(spec), "access": {}}
            planner: Any = Process("agentkd.planners.spawn:build", asked)
            distiller: Any = ProcessDistiller(Process("agentkd.distillation.service:build", how))
        else:
            policy = load_planner(reference, spec).policy
            planner = InlinePlanner(policy, latency_ticks=_LATENCY)
            distiller = InlineDistiller(
                build(**how), steps_per_tick=options.steps, swap_every=_SWAP_EVERY
            )
        ports = {"planner": planner, "distiller": distiller, "mode": "executor"}
    began = time.monotonic()
    windows = [0.0]
    clock = WallClock(1 / options.hz) if wall else None
    with Agent(executor, **ports) as agent:
        obs, _ = env.reset(seed=run.seed)
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
    result = {
        "robot": run.robot,
        "arm": run.arm,
        "seed": run.seed,
        "settings": run.settings,
        "windows": [round(each, 2) for each in windows[: options.ticks // options.window]],
        "swaps": metrics["swaps_total"],
        "refused": metrics["swaps_refused_total"],
        "agreement": metrics["executor_agreement"],
        "seconds": round(time.monotonic() - began, 1),
    }
    fresh = run.file.with_suffix(".tmp")
    fresh.write_text(json.dumps(result))
    fresh.replace(run.file)
    return result


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        robot: The robot.
        arm: The arm.
        seed: The run's seed.
        alone: The mean window of the executor alone, over all its runs.
        mean: This run's mean window.
        worst: Its worst window.
        below: How many windows fell below half of `alone`.
        last: The mean of its last ten windows.
        swaps: Executors swapped in.
        refused: Candidates refused.
    """

    robot: str
    arm: str
    seed: int
    alone: float
    mean: float
    worst: float
    below: int
    last: float
    swaps: int
    refused: int


def rows(results: Sequence[Mapping[str, Any]], options: Options) -> list[Row]:
    """Compare the runs of each robot with its executor alone."""
    first = options.settle // options.window
    out = []
    for robot in options.robots:
        of_it = [each for each in results if each["robot"] == robot]
        alone = [each["windows"][first:] for each in of_it if each["arm"] == "alone"]
        mean = float(np.mean(alone)) if alone else float("nan")
        for each in of_it:
            late = np.asarray(each["windows"][first:])
            out.append(
                Row(
                    robot=robot,
                    arm=each["arm"],
                    seed=each["seed"],
                    alone=round(mean, 1),
                    mean=round(float(late.mean()), 1),
                    worst=round(float(late.min()), 1),
                    below=int((late < mean / 2).sum()),
                    last=round(float(late[-10:].mean()), 1),
                    swaps=each["swaps"],
                    refused=sum(each["refused"].values()),
                )
            )
    return out


def write_tables(found: Sequence[Row], out: Path) -> None:
    """Write all rows as CSV and Markdown."""
    names = list(asdict(found[0]))
    lines = [[str(value) for value in asdict(row).values()] for row in found]
    csv = "\n".join(",".join(line) for line in [names, *lines])
    (out / "runs.csv").write_text(csv + "\n")
    marks = [names, ["---"] * len(names), *lines]
    text = "\n".join("| " + " | ".join(line) + " |" for line in marks)
    (out / "runs.md").write_text(text + "\n")


def summary(found: Sequence[Row]) -> Table:
    """Return the table of robots and arms."""
    table = Table(title="live learning")
    heads = ("robot", "arm", "runs", "alone", "mean", "worst window", "runs that fell")
    for head in (*heads, "swaps", "refused"):
        table.add_column(head, justify="left" if head in ("robot", "arm") else "right")
    for robot, arm in dict.fromkeys((row.robot, row.arm) for row in found):
        each = [row for row in found if (row.robot, row.arm) == (robot, arm)]
        table.add_row(
            robot,
            arm,
            str(len(each)),
            f"{each[0].alone:.1f}",
            f"{np.mean([row.mean for row in each]):.1f}",
            f"{min(row.worst for row in each):.1f}",
            f"{sum(row.below > 0 for row in each)}",
            f"{np.mean([row.swaps for row in each]):.1f}",
            f"{np.mean([row.refused for row in each]):.1f}",
        )
    return table


def check(options: Options) -> None:
    """Validate the options.

    Raises:
        ConfigError: With the value and what would fit.
    """
    for names, known in ((options.robots, ROBOTS), (options.arms, ARMS)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{name!r} is unknown.{did_you_mean(name, known)}")
    if not options.settle < options.ticks or options.window < 1 or options.runs < 1:
        raise ConfigError(
            f"ticks={options.ticks}, settle={options.settle}, window={options.window}, "
            f"runs={options.runs}: settle has to be below ticks, the rest above 0."
        )


def main(options: Options) -> int:
    """Make the runs that are missing and print the table."""
    check(options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.robots:
        executor_of(name, options)
    wanted = [
        Run(robot, arm, options.seed + index, options)
        for index in range(options.runs)
        for robot in options.robots
        for arm in ("alone", *options.arms)
    ]
    missing = [run for run in wanted if run.result() is None]
    jobs = 1 if options.clock == "wall" else options.jobs
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(live, run) for run in missing]):
            made = done.result()
            late = made["windows"][options.settle // options.window :]
            print(
                f"{made['robot']} {made['arm']} {made['seed']}: worst {min(late):.1f}, "
                f"last {late[-1]:.1f}, swaps {made['swaps']}, refused "
                f"{made['refused']}, {made['seconds']} s",
                flush=True,
            )
    results = [each for run in wanted if (each := run.result()) is not None]
    lines = rows(results, options)
    write_tables(lines, options.out)
    Console().print(summary(lines))
    return 0 if all(line.below == 0 for line in lines if line.arm == "gate") else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
