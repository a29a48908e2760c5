"""A world that changes while an executor acts, and changes back.

An executor is distilled in the world as it was. At a tick the world changes: a motor reverses, or a
pendulum becomes longer. The planner is told; the executor does not see it. Later the world is as it
was again. All is counted in ticks, so that a seed gives the same figures on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import Agent, environments, initial, load_planner, read_bundle, write_bundle
from agentkd.distillation.live import LiveDistiller
from agentkd.distillation.loop import run_distillation
from agentkd.distillation.service import build
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.planners import Planner
from agentkd.report.model import Plot, Section, Series
from agentkd.runtime import InlineDistiller, InlinePlanner
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table
from policies.changing import compensated

_PENDULUM = "envs.changing:agentkd/ChangingPendulum-v0"
_CHEETAH = "envs.changing:agentkd/ChangingHalfCheetah-v0"
_HZ = 20
"""Ticks in a second of either robot's life."""
_SWAP_EVERY = 25
_SHARES = (0.85, 0.95)
ARMS = ("frozen", "planner", "runtime", "learning", "still", "nothing")


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A world that changes.

    Attributes:
        env: The environment's name without arguments.
        becomes: The arguments that say how it changes.
        sees: What the executor sees.
        executor: The executor's architecture.
        labels: Labels to distil it from.
        episodes: Episodes to measure an executor over.
        load: Loads the planner, of the folder with saved ones.
    """

    env: str
    becomes: Mapping[str, Any]
    sees: str
    executor: str
    labels: int
    episodes: int
    load: Callable[[Path | None, Spec], Planner]

    def named(self, **arguments: Any) -> str:
        """Return the environment's name with arguments."""
        return f"{self.env}{json.dumps(arguments)}" if arguments else self.env


def _own(_: Path | None, spec: Spec) -> Planner:
    return load_planner(str(Path(__file__).parents[1] / "policies/pendulum"), spec)


def _told(name: str, folder: Path | None, spec: Spec) -> Planner:
    if folder is None:
        raise ConfigError("--planners: name the folder that holds the planners of HalfCheetah-v5.")
    return compensated(str(folder / name), spec)


def _pendulum(**changed: float) -> World:
    return World(_PENDULUM, changed, "0:3", "mlp:32,32", 20_000, 20, _own)


def _cheetah(name: str, gains: Any) -> World:
    load = partial(_told, f"{name}-HalfCheetah-v5")
    return World(_CHEETAH, {"gains": gains}, "0:17", "mlp:64,64", 120_000, 3, load)


_REVERSED = [-1, 1, 1, 1, 1, 1]
WORLDS: Mapping[str, World] = {
    "pendulum-reversed": _pendulum(gain=-1.0),
    "pendulum-weaker": _pendulum(gain=0.6),
    "pendulum-longer": _pendulum(length=1.3),
    "sac-stronger": _cheetah("sac", 1.5),
    "sac-reversed": _cheetah("sac", _REVERSED),
    "tqc-stronger": _cheetah("tqc", 1.5),
    "tqc-reversed": _cheetah("tqc", _REVERSED),
}


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Change a world in which an executor acts, and change it back.

    Arms: the executor alone (frozen), the planner alone and late (planner), both without a
    distiller (runtime) and with one (learning). Two more live in a world that does not change, to
    see whether a change is noticed where there is none: with the distilled executor (still), and
    with one that learns from nothing (nothing). After so many labels from the change on, the
    executor that acts is measured apart, in the changed world.

    Example: python -m benchmarks change --planners DIR
    """

    planners: Path | None = None
    """The folder with saved planners, such as sac-HalfCheetah-v5."""
    worlds: tuple[str, ...] = ("pendulum-reversed", "pendulum-longer", "sac-stronger")
    """Which worlds: pendulum-reversed, pendulum-weaker, pendulum-longer; sac-stronger and
    sac-reversed (the back thigh), and the same with tqc."""
    arms: tuple[str, ...] = ARMS
    """Which arms: frozen, planner, runtime, learning, still, nothing."""
    seeds: int = 5
    """Seeds of each arm."""
    seed: int = 0
    """The first of them."""
    late: int = 2
    """Ticks by which the planner's answers are late."""
    before: int = 3_000
    """Ticks before the change."""
    changed: int = 6_000
    """Ticks until it changes back."""
    after: int = 2_000
    """Ticks after that."""
    marks: tuple[int, ...] = (0, 500, 1_000, 2_000, 3_000, 4_000, 6_000)
    """Labels from the change on after which an executor is measured."""
    steps: int = 2
    """Gradient steps per tick."""
    part: int = 500
    """Ticks of a part, of which rewards are summed."""
    notice: bool = True
    """Whether the distiller notices changes."""
    distil_labels: int | None = None
    """Labels that executors are distilled from first; by default 20,000 for the pendulum, 120,000
    for the robot."""
    jobs: int = 1
    """Runs at the same time."""
    out: Path | None = Path("runs/change")
    """Where executors and the report go."""


@cache
def _spec_of(world: World) -> Spec:
    return environments.look_at(world.env)[0]


def executor_file(name: str, options: Options) -> Path:
    """Distil the executor of a world as it was, if it is not there, and return its file."""
    assert options.out is not None
    world, kind = WORLDS[name], name.partition("-")[0]
    labels = options.distil_labels or world.labels
    file = options.out / "rows" / f"{kind} {world.executor} {labels} labels.akd"
    if not file.exists():
        found = run_distillation(
            world.env,
            world.load(options.planners, _spec_of(world)),
            world.executor,
            executor_sees=world.sees,
            labels=labels,
            episodes=0,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bundle(file, found.executor, {"env": world.env}, labels=found.kept)
    return file


@dataclass(slots=True)
class _Story:
    """What an arm lived through."""

    parts: list[float] = field(default_factory=list)
    executors: dict[int, Executor] = field(default_factory=dict)
    noticed: list[tuple[int, str]] = field(default_factory=list)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def live(name: str, arm: str, seed: int, options: Options) -> dict[str, Any]:
    """Make a run.

    Args:
        name: The world's.
        arm: The arm's.
        seed: Of the environment and of the distiller.
        options: Of all runs.
    """
    import torch

    torch.set_num_threads(1)
    world, spec = WORLDS[name], _spec_of(WORLDS[name])
    still = arm in ("still", "nothing")
    file = str(executor_file(name, options)) if arm != "nothing" else world.executor
    ports: dict[str, Any] = {}
    distiller: LiveDistiller | None = None
    if arm != "frozen":
        policy = world.load(options.planners, spec).policy
        ports["planner"] = InlinePlanner(policy, latency_ticks=options.late)
    ports["mode"] = {"frozen": "executor", "planner": "planner"}.get(arm, "runtime")
    executor: Any = file if arm == "nothing" else read_bundle(file).executor
    given: dict[str, Any] = {"executor": file, "seed": seed, "change": options.notice}
    if arm == "nothing":
        executor = initial(file, spec, seed=seed, sees=world.sees)
        given["spec"] = to_json(executor.spec)
    if arm in ("learning", "still", "nothing"):
        distiller = build(**given)
        ports["distiller"] = InlineDistiller(
            distiller, steps_per_tick=options.steps, swap_every=_SWAP_EVERY
        )
    turns = {"at": options.before, "until": options.before + options.changed}
    env = environments.make(world.named(**({} if still else {**world.becomes, **turns})))
    with Agent(executor, **ports) as agent:
        story = _lived(agent, env, seed, options, distiller)
    env.close()
    found: dict[str, Any] = {
        "parts": [round(each, 1) for each in story.parts],
        "noticed": story.noticed,
        "swaps": story.metrics["swaps_total"],
    }
    if arm in ("frozen", "learning"):
        marked = story.executors if arm == "learning" else {0: story.executors[0]}
        found["marks"] = {
            str(mark): _measured(world, each.policy, seed) for mark, each in marked.items()
        }
    return found


def _lived(
    agent: Agent, env: Any, seed: int, options: Options, distiller: LiveDistiller | None
) -> _Story:
    story = _Story()
    length = options.before + options.changed + options.after
    obs, _ = env.reset(seed=seed)
    for tick in range(length):
        since = tick - options.before
        if since in options.marks and since <= options.changed:
            story.executors[since] = agent.executor
        if tick % options.part == 0:
            story.parts.append(0.0)
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
        story.parts[-1] += float(reward)
        if terminated or truncated:
            obs, _ = env.reset()
            agent.reset()
        for kind, count in (distiller.changes() if distiller is not None else {}).items():
            if count > [noticed for _, noticed in story.noticed].count(kind):
                story.noticed.append((tick, kind))
    story.metrics = agent.metrics()
    return story


def _measured(world: World, policy: Any, seed: int) -> float:
    """Return a policy's mean return in the changed world."""
    env = world.named(**world.becomes)
    found = evaluate(env, policy, episodes=world.episodes, seed=10_000 + 100 * seed)
    return float(np.mean(found.returns))


def references(name: str, seed: int, options: Options) -> dict[str, float]:
    """Measure the planner that is never late and random actions in the changed world."""
    world = WORLDS[name]
    planner = world.load(options.planners, _spec_of(world))
    env = world.named(**world.becomes)
    random = evaluate_random(env, episodes=world.episodes, seed=10_000 + 100 * seed).returns
    return {"planner": _measured(world, planner.policy, seed), "random": float(np.mean(random))}


def works(options: Options) -> Iterator[Work]:
    """List the runs of all worlds and arms."""
    for names, known in ((options.worlds, WORLDS), (options.arms, ARMS)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{name!r} is unknown.{did_you_mean(name, known)}")
    counts = (options.before, options.changed, options.part, options.seeds)
    if (
        min(counts) < 1
        or options.distil_labels == 0
        or min(options.after, options.late, options.steps) < 0
    ):
        raise ConfigError(
            f"before={options.before}, changed={options.changed}, part={options.part}, "
            f"seeds={options.seeds}, distil_labels: at least 1; after, late and steps at least 0."
        )
    if options.out is None:
        raise ConfigError("--out: executors need a folder.")
    for seed in range(options.seed, options.seed + options.seeds):
        for name in options.worlds:
            for arm in ("never late", *options.arms):
                run = partial(references, name, seed, options)
                if arm != "never late":
                    run = partial(live, name, arm, seed, options)
                yield Work(f"{name} {arm} {seed}", {"world": name, "arm": arm, "seed": seed}, run)


def prepare(options: Options) -> None:
    """Distil the executors before several runs need them at the same time."""
    for name in options.worlds:
        executor_file(name, options)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):,.0f} ({min(values):,.0f} … {max(values):,.0f})"


def until(marks: Mapping[str, float], share: float, best: float, random: float) -> float:
    """Return after how many labels a share of the planner is reached; infinite if never."""
    for mark, value in sorted((int(mark), value) for mark, value in marks.items()):
        if (value - random) / (best - random) >= share:
            return float(mark)
    return float("inf")


def _around(options: Options, results: Sequence[Result]) -> list[Section]:
    """Show the rewards of each arm in the parts before and after the changes."""
    sections = []
    for (name,), own in grouped(results, "world").items():
        arms = {a: r for (a,), r in grouped(own, "arm").items() if a != "never late"}
        moving = {a: r for a, r in arms.items() if a not in ("still", "nothing")}
        ticks = [options.part * (k + 1) for k in range(len(next(iter(arms.values()))[0]["parts"]))]
        series = tuple(
            Series(arm, ticks, np.median([r["parts"] for r in rows], axis=0).tolist())
            for arm, rows in moving.items()
        )
        note = (
            f"Medians of the seeds. It changes at {options.before:,}, and back at "
            f"{options.before + options.changed:,}."
        )
        plot = Plot(name, "tick", f"reward in {options.part} ticks", series, note)
        sections.append(Section(f"{name}: rewards around the changes", "", None, (plot,)))
    return sections


def _rows(options: Options, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each world and arm: medians over the seeds."""
    found = []
    first, second = options.before // options.part, (options.before + options.changed)
    last = second // options.part
    for (name,), own in grouped(results, "world").items():
        ends = {r["seed"]: r for r in own if r["arm"] == "never late"}
        for (arm,), runs in grouped(own, "arm").items():
            if arm == "never late":
                continue
            marks = [(r["marks"], ends[r["seed"]]) for r in runs if "marks" in r]
            reached = {
                share: _median([until(m, share, e["planner"], e["random"]) for m, e in marks])
                for share in _SHARES
            }
            parts = np.median([r["parts"] for r in runs], axis=0)
            found.append(
                {
                    "world": name,
                    "arm": arm,
                    "runs": len(runs),
                    "before": _median(parts[1:first]),
                    "changed": float(parts[first]),
                    "end": float(parts[last - 1]),
                    "back": float(parts[-1]) if len(parts) > last else float("nan"),
                    "reached": reached,
                    "noticed": [r["noticed"] for r in runs],
                }
            )
    return found


def _times(row: Mapping[str, Any], kind: str, options: Options) -> str:
    """Say after how many ticks a change was noticed, and in how many runs."""
    since = options.before + (options.changed if kind == "back" else 0)
    found = [
        next((tick - since for tick, noticed in each if noticed == kind and tick >= since), None)
        for each in row["noticed"]
    ]
    there = [each for each in found if each is not None]
    return f"{np.median(there):.0f} ({len(there)}/{len(found)})" if there else "–"


def _labels(row: Mapping[str, Any], share: float) -> str:
    value = row["reached"][share]
    if np.isnan(value):
        return ""
    return f"{value:,.0f} ({value / _HZ:,.0f} s)" if np.isfinite(value) else "not reached"


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show what each arm earned, when it recovered, and whether changes were noticed."""
    rows = _rows(options, results)
    columns = [
        Column("world", "world"),
        Column("arm", "arm"),
        Column("runs", "runs", ","),
        Column("before", "before", ",.0f"),
        Column("at the change", "changed", ",.0f"),
        Column("at its end", "end", ",.0f"),
        Column("changed back", "back", ",.0f"),
        *(Column(f"labels to {s}", partial(lambda s, r: _labels(r, s), s)) for s in _SHARES),
        Column("noticed after", lambda r: _times(r, "new", options)),
        Column("back after", lambda r: _times(r, "back", options)),
        Column("changes a run", lambda r: float(np.mean([len(e) for e in r["noticed"]])), ".1f"),
    ]
    caption = f"Rewards in {options.part} ticks and labels, medians of the seeds."
    sections = [Section("The arms", "", table(columns, rows, caption)), *_curves(results)]
    false = [
        f"{row['world']} {row['arm']}: {sum(map(len, row['noticed']))} in {row['runs']} runs"
        for row in rows
        if row["arm"] in ("still", "nothing") and any(row["noticed"])
    ]
    said = "In worlds that do not change no change was noticed."
    verdict = "Noticed where nothing changed:\n" + "\n".join(false) if false else said
    return Findings([*sections, *_around(options, results)], verdict, not false)


def _curves(results: Sequence[Result]) -> list[Section]:
    """Show what executors return in the changed world, by labels since the change."""
    shown = []
    for (name,), own in grouped(results, "world").items():
        cells: dict[str, list[float]] = {}
        for row in own:
            if row["arm"] == "never late":
                cells.setdefault("planner, never late", []).append(row["planner"])
            elif "marks" in row:
                for mark, value in row["marks"].items():
                    cells.setdefault(f"{row['arm']}, {int(mark):,} labels", []).append(value)
        columns = [Column("executor", lambda r: r[0]), Column("return", lambda r: _spread(r[1]))]
        told = table(columns, cells.items(), "Medians of the seeds, lowest and highest.")
        shown.append(Section(f"{name}: returns in the changed world", "", told))
    return shown


def brief(result: Result) -> str:
    """Give what was noticed, and the last mark."""
    if "planner" in result:
        return f"planner {result['planner']:.0f}, random {result['random']:.0f}"
    marks = ", ".join(f"{k}: {v:.0f}" for k, v in result.get("marks", {}).items())
    return f"noticed {result['noticed']} {marks}"


BENCHMARK = Benchmark(
    "change", works, findings, brief, ("planners", "worlds", "arms", "seeds", "seed"), prepare
)
run = BENCHMARK.run
