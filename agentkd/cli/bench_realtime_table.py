"""`agentkd bench realtime table`: arms over a planner's latency, anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.text import Text
from tyro.conf import OmitArgPrefixes

from agentkd.cli.bench_realtime import Place
from agentkd.cli.strategy_choice import StrategyChoice
from agentkd.errors import ConfigError
from agentkd.measure.intervals import mean_interval
from agentkd.report.model import Plot, Section, Series, Table
from agentkd.runtime.result import SOURCES

_ANYWHERE, _ANY_STRATEGY = Place(), StrategyChoice()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Live with a planner that is late by L: it alone, the executor alone, the runtime.

    Each environment is lived at each latency by each arm, on the same seeds. On the virtual clock
    latencies are ticks and everything can be repeated exactly; on the wall clock "real" is as late
    as the planner is. The planner alone acts when its answer arrives, without routers or
    roll-forward; the executor alone is under the routers; the runtime has everything. --ablate adds
    arms that lack one thing.

    Freeway under time pressure, three difficulties, the published seeds:

    agentkd bench realtime table --env envs.freeway:agentkd/FreewayEasy-v0
    envs.freeway:agentkd/FreewayMedium-v0 envs.freeway:agentkd/FreewayHard-v0 --planner
    policies.freeway:planner --executor policies/freeway/executor.akd --guard policies.freeway:safe
    --holds policies.freeway:holds --roll-forward policies.freeway:ahead --episodes 8 --seed 0
    --unit 89

    A robot and a planner that searches, in real time, for 20 s at a time:

    agentkd bench realtime table --env HalfCheetah-v5 --planner policies.mpc:half_cheetah --executor
    cheetah.akd --clock wall --hz 20 --latencies real --roll-forward policies.mpc:half_cheetah_ahead
    --episodes 5 --episode-ticks 400
    """

    env: tuple[str, ...]
    """Environments: Gymnasium ids, "module:Id-v0", or "module:attribute"."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""
    planner: str
    """The planner: an SB3 save, an .akd file, tcp://host:port, or module:attribute."""
    executor: tuple[str, ...]
    """An executor file (.akd) for all environments, or one for each."""
    latencies: str = "0,1,4,8,16"
    """Latencies in ticks, separated by commas; on the wall clock also real."""
    clock: Literal["virtual", "wall"] = "virtual"
    """Whether ticks take time."""
    hz: float = 50.0
    """Ticks per second."""
    episodes: int = 8
    """Episodes of each arm, unless ticks or seconds are given."""
    episode_ticks: int | None = None
    """Truncate episodes after so many ticks, besides the environment's own end."""
    ticks: int | None = None
    """The length of each arm in ticks; its score is then all reward."""
    seconds: float | None = None
    """The length of each arm in seconds; its score is then all reward."""
    seed: int = 0
    """Episode i is reset with seed + i."""
    unit: float = 1.0
    """The return that a score of 1 stands for; scores are returns divided by it."""
    ablate: bool = False
    """Add arms that lack the routers, or the roll-forward."""
    strategies: OmitArgPrefixes[StrategyChoice] = _ANY_STRATEGY
    """Which strategies may act, and how they are asked for."""
    place: OmitArgPrefixes[Place] = _ANYWHERE
    """Where the results go."""


def run(options: Options) -> int:
    """Live everything, and print a table for each environment."""
    import torch

    from agentkd.bench.realtime.table import ABLATIONS, ARMS, best_at_all, cell

    torch.set_num_threads(1)
    latencies = _latencies(options)
    _check(options)
    options.strategies.make_routers()
    cases = [_case(options, index) for index in range(len(options.env))]
    options.place.prepare()
    console = options.place.console()
    arms = [*ARMS, *(ABLATIONS if options.ablate else ())]
    cells = []
    with console.status("") as status:
        for case in cases:
            for latency in latencies:
                late = "real" if latency is None else f"{latency}"
                for arm in arms:
                    head = f"{case.env}, latency {late}: {arm.name}"
                    status.update(head)
                    found = cell(
                        arm,
                        _setting(options, case.env, latency),
                        case.executor,
                        case.planner,
                        _watch(status.update, head),
                    )
                    cells.append(found)
                    mean = found.mean / options.unit
                    note = (f"  {found.fault}" if found.fault else "", "red")
                    console.print(Text.assemble(f"{head}  {mean:.3f}", note))
    below = best_at_all(cells)
    verdict = "At every latency the runtime is at or above planner and executor alone."
    if below:
        verdict = "The runtime is below:\n" + "\n".join(f"  {each}" for each in below)
    sections = []
    for case in cases:
        own = [each for each in cells if each.env == case.env]
        sections.append(_section(case.env, own, options))
        if any(each.by_episodes for each in own):
            sections.append(_sure(case.env, own, options))
        sections.append(_acted(case.env, own))
    data: dict[str, Any] = {
        "command": "bench realtime table",
        "envs": list(options.env),
        "planner": options.planner,
        "executor": list(options.executor),
        "clock": options.clock,
        "hz": options.hz,
        "seed": options.seed,
        "episode_ticks": options.episode_ticks,
        "unit": options.unit,
        "cells": [_told(each, options.unit) for each in cells],
        "regret": _regret(cells, options.unit),
        "below": below,
    }
    options.place.deliver(data, sections, verdict)
    return 1 if any(each.fault for each in cells) else 0


def _latencies(options: Options) -> list[int | None]:
    out: list[int | None] = []
    for word in options.latencies.split(","):
        text = word.strip()
        if text == "real" and options.clock == "wall":
            out.append(None)
        elif text.isdigit():
            out.append(int(text))
        else:
            raise ConfigError(
                f"--latencies {options.latencies!r}: numbers of ticks, separated by "
                "commas; real on the wall clock."
            )
    return out


def _check(options: Options) -> None:
    if not options.env or len(options.executor) not in (1, len(options.env)):
        raise ConfigError(
            f"{len(options.executor)} executors for {len(options.env)} environments: "
            "one for all of them, or one for each."
        )
    numbers = (options.hz, options.unit, options.seconds or 1.0)
    if not all(0 < each < float("inf") for each in numbers):
        raise ConfigError("--hz, --unit and --seconds: above 0.")
    counts = options.episodes, options.ticks, options.episode_ticks
    if options.seed < 0 or any(each is not None and each < 1 for each in counts):
        raise ConfigError("--episodes, --ticks and --episode-ticks at least 1, --seed at least 0.")


@dataclass(frozen=True, slots=True)
class _Case:
    env: str
    executor: Any
    planner: Any


def _case(options: Options, index: int) -> _Case:
    from agentkd.deploy.bundle import read_bundle
    from agentkd.environments import look_at
    from agentkd.planners import load_planner
    from agentkd.runtime.process import Process
    from agentkd.spec import to_json

    env = options.env[index]
    spec, _ = look_at(env)
    path = options.executor[index if len(options.executor) > 1 else 0]
    executor = read_bundle(path).executor
    if executor.spec.obs.size != spec.obs.size or executor.spec.action != spec.action:
        raise ConfigError(f"{path} is for {executor.spec}, {env} is {spec}.")
    known = load_planner(options.planner, spec)
    if options.clock == "virtual":
        return _Case(env, executor, known.policy)
    arguments = {"ref": options.planner, "spec": to_json(spec)}
    remote = Process("agentkd.planners.spawn:build", arguments)
    return _Case(env, executor, remote)


def _setting(options: Options, env: str, latency: int | None) -> Any:
    from agentkd.measure.live import Setting

    counted = options.ticks is None and options.seconds is None
    return Setting(
        env=env,
        hz=options.hz,
        clock=options.clock,
        latency=latency,
        budget=0.0 if options.clock == "virtual" else 0.25 / options.hz,
        ticks=options.ticks,
        seconds=options.seconds,
        episodes=options.episodes if counted else None,
        seed=options.seed,
        routers=options.strategies.make_routers,
        strategies=options.strategies.make_options(),
        workers=options.strategies.workers,
        episode_ticks=options.episode_ticks,
    )


def _watch(show: Callable[[str], None], head: str) -> Any:
    def watch(look: Any) -> None:
        show(f"{head}, {look.done:.0%}, {len(look.returns)} episodes")

    return watch


def _told(found: Any, unit: float) -> dict[str, Any]:
    interval = mean_interval(found.returns)
    return {
        "env": found.env,
        "arm": found.arm,
        "latency": found.latency,
        "score": found.mean / unit,
        "score_interval": [interval.low / unit, interval.high / unit],
        "returns": list(found.returns),
        "reward": found.total,
        "metrics": found.metrics,
        "fault": found.fault,
    }


def _regret(cells: Sequence[Any], unit: float) -> dict[str, dict[str, float]]:
    """How far the runtime is below the planner that is never late, by environment."""
    best = {c.env: c.mean for c in cells if (c.arm, c.latency) == ("planner", 0)}
    out: dict[str, dict[str, float]] = {}
    for each in cells:
        if each.arm == "runtime" and each.env in best:
            late = "real" if each.latency is None else str(each.latency)
            out.setdefault(each.env, {})[late] = (best[each.env] - each.mean) / unit
    return out


def _section(env: str, cells: Sequence[Any], options: Options) -> Section:
    latencies = list(dict.fromkeys(each.latency for each in cells))
    arms = list(dict.fromkeys(each.arm for each in cells))
    scores = {(each.arm, each.latency): each.mean / options.unit for each in cells}
    rows = [[arm, *(f"{scores[arm, late]:.3f}" for late in latencies)] for arm in arms]
    best = scores.get(("planner", 0))
    if best is not None:
        # What is lost to a planner that is never late.
        lost = [best - scores["runtime", late] for late in latencies]
        rows.append(["regret of the runtime", *(f"{each:.3f}" for each in lost)])
    shown = ["real" if late is None else f"{late}" for late in latencies]
    numbers = [float(late) if late is not None else np.nan for late in latencies]
    plot = Plot(
        env,
        "latency in ticks",
        "score",
        tuple(Series(arm, numbers, [scores[arm, late] for late in latencies]) for arm in arms),
        "",
    )
    plots = (plot,) if len(latencies) > 1 and None not in latencies else ()
    title = f"{env}, by the planner's latency in ticks"
    return Section(title, "", Table(["arm", *shown], rows), plots)


def _sure(env: str, cells: Sequence[Any], options: Options) -> Section:
    """Where the scores may lie."""
    rows = []
    for each in cells:
        interval = mean_interval(each.returns)
        score = each.mean, interval.low, interval.high
        figures = [f"{number / options.unit:.3f}" for number in score]
        rows.append([each.arm, _late(each), *figures])
    columns = ["arm", "late", "score", "low", "high"]
    caption = "95 % intervals over the episodes that ended."
    return Section(f"{env}, intervals", "", Table(columns, rows, caption), ())


def _acted(env: str, cells: Sequence[Any]) -> Section:
    """Who acted, and what time did to it."""
    rows = []
    for each in cells:
        metrics = each.metrics
        ticks = max(1, metrics["ticks_total"])
        decisions = metrics["decisions_total"]
        shares = [sum(decisions.get(name, {}).values()) / ticks for name in SOURCES]
        answer = metrics["planner_latency_us"]
        took = [answer.get(name, math.nan) / 1000 for name in ("p50", "p99")]
        figures = [f"{share:.3f}" for share in shares]
        figures += ["–" if math.isnan(ms) else f"{ms:.1f}" for ms in took]
        missed = f"{metrics['missed_cycles_total']}"
        rows.append([each.arm, _late(each), *figures, missed])
    columns = ["arm", "late", *SOURCES, "ms p50", "p99", "missed"]
    caption = (
        "Shares of the ticks at which each acted; milliseconds from an observation to "
        "its answer; periods that went by without a tick."
    )
    return Section(f"{env}, who acted", "", Table(columns, rows, caption), ())


def _late(cell: Any) -> str:
    return "real" if cell.latency is None else f"{cell.latency}"
