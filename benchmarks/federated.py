"""Devices of unlike bodies that distil one executor without showing each other what they see.

Each device is the same robot with a mass, a friction and motors of its own. Its planner is the
robot's public one, on that body; its returns there are what an executor's are compared with. Every
arm has the same labels and the same gradient steps, all devices together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from agentkd import Executor, environments, load_planner
from agentkd.distillation import CollectionOptions, DistillerOptions, open_task, run_distillation
from agentkd.distillation.federated import Client, Federated, InMemory, federate, open_client
from agentkd.distillation.sources import LocalSource, Several, longest
from agentkd.distillation.stretch import Collected
from agentkd.distillation.task import Task
from agentkd.errors import ConfigError, did_you_mean
from agentkd.extras import needing
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.measure.intervals import mean_interval
from agentkd.report.model import Section
from agentkd.types import Floats
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table
from envs.bodies import drawn

_WAY = CollectionOptions(environments=16)
_REFERENCE = "planner, random"
_PUBLIC = 2048
"""Public states: of the robot as it usually is, driven by its planner and by an executor."""
_BAD = 0.2
"""The share of clients that turn the sign of their weights."""
_APART = 1000
SHARED = "weights, shared normaliser"
"""The arm that bad clients are compared with."""
_TOGETHER: Mapping[str, Any] = {"normaliser": "shared"}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "local": {},
    SHARED: _TOGETHER,
    "weights, personal": {},
    "bad, krum": {**_TOGETHER, "bad": True, "strategy": "MultiKrum"},
    "bad, mean": {**_TOGETHER, "bad": True},
    "one place": {},
    "answers": {**_TOGETHER, "mode": "answers"},
    "consensus": {"mode": "consensus"},
    "bad, median": {**_TOGETHER, "bad": True, "strategy": "FedMedian"},
}


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Compare ways in which devices of unlike bodies distil one executor."""

    planners: Path | None = None
    """A folder of planners named ALGORITHM-ROBOT, such as sac-HalfCheetah-v5."""
    algorithm: str = "sac"
    """Which planner of a robot."""
    robots: tuple[str, ...] = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
    """Robots of MuJoCo's."""
    executors: tuple[str, ...] = ("mlp:64,64", "gru:32")
    """Architectures of the executors."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Who learns from what, and how replies are joined."""
    devices: int = 8
    """Devices, each with a body of its own."""
    rounds: int = 10
    """Rounds."""
    labels: int = 20_000
    """Labels of each device, in all rounds."""
    steps: int = 3000
    """Gradient steps of each device, in all rounds."""
    episodes: int = 3
    """Episodes of each executor on each body."""
    seeds: int = 3
    """Seeds, each with bodies of its own."""
    seed: int = 0
    """The first of them."""
    jobs: int = 1
    """How many are measured at the same time."""


def works(options: Options) -> Iterator[Work]:
    """List the arms of all robots, executors and seeds."""
    for arm in options.arms:
        if arm not in ARMS:
            raise ConfigError(f"No arm {arm!r}.{did_you_mean(arm, ARMS)}")
    if options.planners is None:
        raise ConfigError("--planners: name the folder that holds the robots' planners.")
    for robot in options.robots:
        if not _planner(options, robot).is_dir():
            raise ConfigError(f"{_planner(options, robot)} is missing: leave {robot} out.")
    counts = (options.devices, options.rounds, options.episodes, options.seeds)
    if min(counts) < 1 or min(options.labels, options.steps) < options.rounds:
        raise ConfigError("At least 1 of everything, and a label and a step for each round.")
    with needing("benchmarks federated"):
        import flwr  # noqa: F401
    for seed in range(options.seed, options.seed + options.seeds):
        for robot in options.robots:
            key = {"robot": robot, "seed": seed}
            bodies = [drawn(robot, _APART * seed + each) for each in range(options.devices)]
            name = f"{robot} {seed}"
            yield Work(
                f"{name} {_REFERENCE}",
                {**key, "executor": "", "arm": _REFERENCE},
                partial(references, options, robot, bodies),
            )
            for executor in options.executors:
                for arm in options.arms:
                    yield Work(
                        f"{name} {executor} {arm}",
                        {**key, "executor": executor, "arm": arm},
                        partial(measure, options, robot, bodies, executor, arm, seed),
                    )


def _planner(options: Options, robot: str) -> Path:
    assert options.planners is not None
    return options.planners / f"{options.algorithm}-{robot}"


@cache
def _task(body: str, planner: str) -> Task:
    return open_task(body, load_planner(planner, environments.look_at(body)[0]))


@cache
def public_states(robot: str, planner: str, seed: int) -> tuple[Floats, ...]:
    """Return episodes of the usual robot, (ticks, obs) each."""
    task = _task(robot, planner)
    how: dict[str, Any] = {"labels": 4 * _PUBLIC, "seed": seed, "episodes": 0}
    executor = run_distillation(task, executor="mlp:32,32", collection=_WAY, **how).executor
    collector = task.collector(_WAY, seed + 1)
    found: list[Collected] = []
    while sum(len(each.obs) for each in found) < _PUBLIC:
        found.append(collector.step(executor.policy, 0.5, longest(_WAY.environments)))
    collector.close()
    rows = np.concatenate([each.obs for each in found])
    of = np.concatenate([each.env for each in found])
    begins = np.concatenate([each.begins for each in found])
    episodes: list[Floats] = []
    for each in range(_WAY.environments):
        parts = np.split(rows[of == each], np.flatnonzero(begins[of == each]))
        episodes += [part for part in parts if len(part)]
    return tuple(episodes)


def references(options: Options, robot: str, bodies: Sequence[str]) -> dict[str, Any]:
    """Measure the planner that is never late and random actions on each body."""
    planner = str(_planner(options, robot))
    how: Any = {"episodes": options.episodes, "seed": _APART}
    return {
        "returns": [
            fmean(evaluate(each, _task(each, planner).planner.policy, **how).returns)
            for each in bodies
        ],
        "random": [fmean(evaluate_random(each, **how).returns) for each in bodies],
    }


class _SomeBad:
    """Clients the last of which turn the sign of the weights that they send. It is a `Clients`."""

    def __init__(self, clients: Mapping[str, Client], bad: int) -> None:
        self._inner = InMemory(clients)
        self.names = self._inner.names
        self._bad = set(self.names[len(self.names) - bad :])

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        """Ask, and spoil what comes of some."""
        found = self._inner.ask(requests, timeout)
        return {name: self._spoilt(name, reply) for name, reply in found.items()}

    def _spoilt(self, name: str, reply: bytes | str) -> bytes | str:
        if name not in self._bad or isinstance(reply, str):
            return reply
        held = load(reply)
        return save({**held, "weights": -held["weights"]})


def measure(
    options: Options, robot: str, bodies: Sequence[str], architecture: str, arm: str, seed: int
) -> dict[str, Any]:
    """Distil by one arm; measure on each body what its device acts with."""
    planner = str(_planner(options, robot))
    tasks = [_task(each, planner) for each in bodies]
    start = tasks[0].executor(architecture, seed)
    how: dict[str, Any] = {
        "rounds": options.rounds,
        "labels": options.labels // options.rounds,
        "steps": options.steps // options.rounds,
        "seed": seed,
    }
    clients = {}
    if arm == "one place":
        clients["all"] = _in_one_place(tasks, architecture, seed)
        how["labels"], how["steps"] = (how[each] * len(tasks) for each in ("labels", "steps"))
    else:
        for index, task in enumerate(tasks):
            own = _APART * seed + index
            clients[str(index)] = open_client(
                task,
                executor=replace(start),
                collection=_WAY,
                options=DistillerOptions(seed=own),
                seed=own,
            )
    try:
        return _measured(options, robot, bodies, clients, start, arm, how)
    finally:
        for each in clients.values():
            each.close()


def _measured(
    options: Options,
    robot: str,
    bodies: Sequence[str],
    clients: Mapping[str, Client],
    start: Executor,
    arm: str,
    how: dict[str, Any],
) -> dict[str, Any]:
    """Distil with clients, and measure."""
    if arm == "local":
        alone = [federate({k: each}, start, **how) for k, each in clients.items()]
        own = [each.own(one.executor) for each, one in zip(clients.values(), alone, strict=True)]
        # Of each, on every body: rows are devices.
        every = [[_return(options, body, one) for body in bodies] for one in own]
        return {"returns": [row[i] for i, row in enumerate(every)], "everywhere": every}
    given = dict(ARMS[arm])
    if "mode" in given or "normaliser" in given:
        given["public"] = public_states(robot, str(_planner(options, robot)), how["seed"])
    bad = round(_BAD * len(clients)) if given.pop("bad", False) else 0
    if strategy := given.get("strategy"):
        given["strategy"] = _strategy(strategy, len(clients), bad)
    result: Federated = federate(_SomeBad(clients, bad), start, **how, **given)
    if arm == "consensus":
        acting = [each.executor for each in clients.values()]
    elif arm == "one place" or "normaliser" in given:
        shared = result.executor
        acting = [next(iter(clients.values())).own(shared)] * len(bodies)
    else:
        acting = [each.own(result.executor) for each in clients.values()]
    returns = [_return(options, *each) for each in zip(bodies, acting, strict=True)]
    return {
        "returns": returns,
        "sent": result.sent,
        "received": result.received,
        "refused": dict(result.refused),
    }


def _return(options: Options, body: str, executor: Executor) -> float:
    found = evaluate(body, executor.policy, episodes=options.episodes, seed=_APART)
    return fmean(found.returns)


def _in_one_place(tasks: Sequence[Task], architecture: str, seed: int) -> Client:
    """Return a client that has the labels of all devices."""
    start = tasks[0].executor(architecture, seed)
    sources = [
        LocalSource(
            task.collector(_WAY, _APART * seed + index), start, ticks=longest(_WAY.environments)
        )
        for index, task in enumerate(tasks)
    ]
    return Client(Several(sources), start, DistillerOptions(seed=seed), _WAY)


def _strategy(name: str, clients: int, bad: int) -> Any:
    from flwr.serverapp import strategy

    needs = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    if name == "MultiKrum":
        most = {"num_malicious_nodes": bad, "num_nodes_to_select": clients - bad}
        return strategy.MultiKrum(**needs, **most)
    return strategy.FedMedian(**needs)


def _kept(returns: Sequence[float], reference: Result) -> list[float]:
    """Return the retention on each body."""
    pairs = zip(returns, reference["returns"], reference["random"], strict=True)
    return [(mine - worst) / ((best - worst) or np.nan) for mine, best, worst in pairs]


def _rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each robot, executor and arm: means over seeds, with intervals."""
    known = {(r["robot"], r["seed"]): r for r in results if r["arm"] == _REFERENCE}
    found = []
    measured = [r for r in results if r["arm"] != _REFERENCE]
    for (robot, executor, arm), runs in grouped(measured, "robot", "executor", "arm").items():
        pairs = [(run, known[robot, run["seed"]]) for run in runs if (robot, run["seed"]) in known]
        kept = [_kept(run["returns"], reference) for run, reference in pairs]
        row = {
            "robot": robot,
            "executor": executor,
            "arm": arm,
            "seeds": len(kept),
            "mean": mean_interval([fmean(each) for each in kept]),
            "worst": mean_interval([min(each) for each in kept]),
            "sent": runs[0].get("sent"),
            "received": runs[0].get("received"),
        }
        if arm == "local":
            # The best of the local executors on all bodies.
            row["mixture"] = mean_interval(
                [max(fmean(_kept(r, known)) for r in run["everywhere"]) for run, known in pairs]
            )
        found.append(row)
    return found


def _said(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return "–"
    if np.isnan(value.low):
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} ({value.low:.3f} … {value.high:.3f})"


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show retention, on the mean and on the worst device, and bytes."""
    rows = _rows(results)
    columns = [
        Column("robot", "robot"),
        Column("executor", "executor"),
        Column("arm", "arm"),
        Column("seeds", "seeds", ","),
        Column("mean device", lambda r: _said(r, "mean")),
        Column("worst device", lambda r: _said(r, "worst")),
        Column("best local one", lambda r: _said(r, "mixture")),
        Column("sent", "sent", ","),
        Column("received", "received", ","),
    ]
    caption = (
        f"{options.devices} devices, {options.labels:,} labels and {options.steps:,} steps each, "
        f"{options.rounds} rounds. Retention, with 95 % intervals over seeds; of the best local "
        "executor on all bodies; bytes to and from all clients. Bad: "
        f"{round(_BAD * options.devices)} of {options.devices} clients turn their weights' sign."
    )
    told = []
    for (robot, executor), own in grouped(rows, "robot", "executor").items():
        by = {row["arm"]: row for row in own}
        if SHARED not in by:
            continue
        mean = by[SHARED]["mean"].mean
        if "local" in by:
            said = "beats" if mean > by["local"]["mixture"].mean else "does not beat"
            told.append(f"{robot} {executor}: the shared executor {said} the best local one.")
        told += [
            f"{robot} {executor}: {arm} costs {mean - row['mean'].mean:.3f}."
            for arm, row in by.items()
            if arm.startswith("bad")
        ]
    return Findings([Section("Arms", "", table(columns, rows, caption))], " ".join(told))


def _brief(result: Result) -> str:
    return " ".join(f"{each:,.0f}" for each in result["returns"])


BENCHMARK = Benchmark(
    "federated",
    works,
    findings,
    _brief,
    choosing=("planners", "robots", "executors", "arms", "seeds", "seed"),
)
run = BENCHMARK.run
