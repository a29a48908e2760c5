"""`agentkd bench realtime delay`: what a planner's delay costs, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import OmitArgPrefixes

from agentkd.bench.realtime.delay import WAYS, Way
from agentkd.cli.bench_realtime import Place, whole
from agentkd.errors import ConfigError, did_you_mean
from agentkd.report.model import Plot, Section, Series, Table

_ANYWHERE = Place()
_PLANNERS = ("dqn-CartPole-v1", "ppo-LunarLander-v3", "tqc-HalfCheetah-v5", "sac-Swimmer-v5")
_FLAT = 0.95


@dataclass(frozen=True, kw_only=True)
class Options:
    """Delay planners by 0 to 8 ticks and see what their returns become.

    Each planner is in a folder ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5, with an SB3 save in
    it. An executor is distilled from it first, for --distil-seconds, or read from --executors
    DIR/NAME.akd. Then each way to live with a delay lives the same episodes: a decision every tick
    about what was observed d ticks before (async); one decision in d + 1 ticks, with the last
    action or the default meanwhile (repeat, noop); and the runtime, in which the executor acts
    while the planner is late. Time is counted in ticks, so the table is the same on every machine;
    what is distilled in a number of seconds is not.

    Example: agentkd bench realtime delay --planners DIR --out runs/delay
    """

    planners: Path
    """The folder with the planners' folders."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""
    names: str = ",".join(_PLANNERS)
    """Which of them, separated by commas."""
    delays: str = "0,1,2,3,5,8"
    """Delays in ticks, separated by commas."""
    episodes: int = 20
    """Episodes of each way and delay."""
    seed: int = 1000
    """Episode i is reset with seed + i."""
    executor: str = "mlp:64,64"
    """The architecture to distil."""
    distil_seconds: float = 60.0
    """How long each executor is distilled."""
    executors: Path | None = None
    """A folder with executors NAME.akd; those that are missing are distilled and written there."""
    ways: str = "async,repeat,noop,runtime"
    """Which ways, separated by commas."""
    place: OmitArgPrefixes[Place] = _ANYWHERE
    """Where the results go."""


def run(options: Options) -> int:
    """Distil what is missing, delay, and print the tables."""
    import torch

    from agentkd.bench.realtime.delay import delayed, random_returns

    torch.set_num_threads(1)
    delays = tuple(round(each) for each in whole(options.delays, "--delays", 0))
    ways = _ways(options.ways)
    if options.episodes < 1 or options.seed < 0 or not options.distil_seconds > 0:
        raise ConfigError("--episodes at least 1, --seed at least 0, --distil-seconds above 0.")
    folders = _folders(options)
    options.place.prepare()
    console = options.place.console()
    entries = []
    with console.status("") as status:
        for folder in folders:
            case = _case(options, folder, status.update)
            measure: dict[str, Any] = {"episodes": options.episodes, "seed": options.seed}
            status.update(f"{folder.name}: random actions")
            random = random_returns(case, **measure)
            rows: dict[str, list[tuple[float, ...]]] = {}
            for way in ways:
                rows[way] = []
                for delay in delays:
                    status.update(f"{folder.name}: {way}, delay {delay}")
                    rows[way].append(delayed(case, way, delay, **measure))
                means = "  ".join(f"{np.mean(each):.1f}" for each in rows[way])
                console.print(f"{folder.name}  {way:<8} {means}", highlight=False)
            entries.append(_entry(folder.name, case, random, rows))
    sections = [_section(entry, delays) for entry in entries]
    data = {
        "command": "bench realtime delay",
        "delays": list(delays),
        "episodes": options.episodes,
        "seed": options.seed,
        "entries": entries,
    }
    options.place.deliver(data, sections, _verdict(entries, delays))
    return 0


def _ways(text: str) -> tuple[Way, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in WAYS:
            raise ConfigError(f"No way {word!r}.{did_you_mean(word, WAYS)}")
    return tuple(way for word in words for way in WAYS if way == word)


def _folders(options: Options) -> list[Path]:
    names = [word.strip() for word in options.names.split(",") if word.strip()]
    if not options.planners.is_dir():
        raise ConfigError(f"--planners {options.planners} is no folder.")
    known = sorted(each.name for each in options.planners.iterdir() if each.is_dir())
    for name in names:
        if name not in known:
            raise ConfigError(f"{options.planners} has no {name!r}.{did_you_mean(name, known)}")
        if "-" not in name:
            raise ConfigError(f"{name!r} is not of the form ALGORITHM-ENVIRONMENT.")
    if not names:
        raise ConfigError("--names is empty.")
    return [options.planners / name for name in names]


def _case(options: Options, folder: Path, show: Any) -> Any:
    from agentkd.bench.realtime.delay import Case
    from agentkd.deploy.bundle import read_bundle, write_bundle
    from agentkd.distillation.loop import Budget, distill
    from agentkd.environments import look_at, with_arguments
    from agentkd.planners import load_planner

    env = with_arguments(folder.name.partition("-")[2], options.env_args)
    spec, _ = look_at(env)
    known = load_planner(str(folder), spec)
    path = options.executors / f"{folder.name}.akd" if options.executors else None
    if path is not None and path.exists():
        executor = read_bundle(path).executor
        if executor.spec.obs.size != spec.obs.size or executor.spec.action != spec.action:
            raise ConfigError(f"{path} is for {executor.spec}, {env} is {spec}.")
        return Case(env, known.name, known.policy, executor, spec)
    show(f"{folder.name}: distilling for {options.distil_seconds:g} s")
    result = distill(
        env, str(folder), options.executor, budget=Budget(seconds=options.distil_seconds), seed=0
    )
    if result.interrupted and not result.fault:
        raise KeyboardInterrupt
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bundle(path, result.executor, {"env": env, "planner": folder.name})
    return Case(env, known.name, known.policy, result.executor, spec)


def _entry(
    name: str, case: Any, random: Sequence[float], rows: dict[str, list[tuple[float, ...]]]
) -> dict[str, Any]:
    return {
        "planner": name,
        "env": case.env,
        "architecture": case.executor.architecture,
        "random_return": float(np.mean(random)),
        "returns": {way: [list(each) for each in returns] for way, returns in rows.items()},
        "means": {way: [float(np.mean(each)) for each in returns] for way, returns in rows.items()},
    }


def _kept(entry: dict[str, Any], value: float) -> float:
    """Where a return stands between random actions and the planner without delay."""
    best = max(means[0] for means in entry["means"].values())
    apart = best - entry["random_return"]
    return (value - entry["random_return"]) / apart if apart else float("nan")


def _section(entry: dict[str, Any], delays: Sequence[int]) -> Section:
    rows = [[way, *(f"{mean:.1f}" for mean in means)] for way, means in entry["means"].items()]
    plot = Plot(
        entry["planner"],
        "delay in ticks",
        "return",
        tuple(Series(way, list(delays), means) for way, means in entry["means"].items()),
        "Each point is the mean over the same episodes.",
    )
    columns = ["way", *(f"d={delay}" for delay in delays)]
    caption = f"Random actions: {entry['random_return']:.1f}."
    return Section(entry["planner"], "", Table(columns, rows, caption), (plot,))


def _verdict(entries: Sequence[dict[str, Any]], delays: Sequence[int]) -> str:
    lines = []
    for entry in entries:
        means = entry["means"].get("runtime")
        if means is None:
            continue
        kept = [_kept(entry, mean) for mean in means]
        flat = "flat" if min(kept) >= _FLAT else f"below {_FLAT:g}"
        lines.append(
            f"{entry['planner']}: the runtime keeps at least {min(kept):.3f} of d=0 "
            f"up to d={delays[-1]} ({flat})."
        )
    return "\n".join(lines)
