"""`agentkd run`: live with a planner that is late."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from agentkd.cli.planner_choice import access, reference
from agentkd.cli.strategy_choice import StrategyChoice
from agentkd.cli.watch_choice import WatchChoice, Watchers, watchers
from agentkd.errors import ConfigError, did_you_mean
from agentkd.interrupt import held
from agentkd.planners.remote.wire import SCHEMES

if TYPE_CHECKING:
    from agentkd.deploy.contract import Contract
    from agentkd.distillation.task import Task

_ANY_STRATEGY, _NOBODY = StrategyChoice(), WatchChoice()
_ARMS = ("planner", "executor", "runtime")
_LEARN_TICKS = 30_000
_WALL_SECONDS = 20.0
_EPISODES = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run an agent whose planner is late, and compare its arms on the same seeds.

    Without an executor file the executor first learns from nothing, live, from the planner's late
    answers. Then each arm lives the same episodes.

    Example: agentkd run LunarLander-v3 --planner policies/lunarlander --clock virtual
    --planner-latency 8
    """

    env: tyro.conf.Positional[str]
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    planner: tuple[str, ...]
    """An SB3 save or its folder, an .akd file, or module:attribute; several are an ensemble."""
    executor: str = "mlp:64,64"
    """An executor file (.akd), or an architecture that learns from nothing."""
    hz: float = 50.0
    """Ticks per second."""
    clock: Literal["wall", "virtual"] = "wall"
    """Whether ticks take real time, or the planner's latency is counted in ticks."""
    planner_latency: str = "auto"
    """Ticks by which each answer of the planner is late, or "real": as late as it is. By default
    real on the wall clock, 4 on the virtual one."""
    ticks: int | None = None
    """The length of each arm in ticks."""
    seconds: float | None = None
    """The length of each arm in seconds."""
    episodes: int | None = None
    """The length of each arm in episodes; 20 on the virtual clock, if nothing else is given, and 20
    seconds on the wall clock."""
    learn_ticks: int | None = None
    """Ticks to learn live before the arms are measured; 30000 on the virtual clock, as long as an
    arm on the wall clock. 0 for an executor file."""
    arms: str = "planner,executor,runtime"
    """Which arms are compared, separated by commas."""
    budget: float | None = None
    """Seconds that a decision may wait for the planner's answer on the wall clock, if it was that
    fast lately; by default a quarter of a period, 0 for never."""
    seed: int = 1000
    """Episode i is reset with seed + i."""
    strategies: OmitArgPrefixes[StrategyChoice] = _ANY_STRATEGY
    """Which strategies may act, and how they are asked for."""
    watching: OmitArgPrefixes[WatchChoice] = _NOBODY
    """What is asked of the system for the ticks, and where their metrics go."""
    out: Path | None = None
    """Where the report and the executor go; by default runs/run-ENV."""
    overwrite: bool = False
    """Replace what an earlier run left in the folder."""
    vecnormalize: str | None = None
    """Statistics of the planner's normaliser, if not beside it; "off" for none."""
    algorithm: str | None = None
    """The SB3 algorithm, if the save does not tell."""
    unpickle: bool = False
    """Read a save by running the code in it. Only for files whose maker you trust."""


def chosen_arms(text: str) -> tuple[Any, ...]:
    """Read "planner,executor,runtime".

    Raises:
        ConfigError: If an arm is unknown, or none is given.
    """
    arms = tuple(word.strip() for word in text.split(",") if word.strip())
    for arm in arms:
        if arm not in _ARMS:
            raise ConfigError(f"No arm {arm!r}.{did_you_mean(arm, _ARMS)}")
    if not arms:
        raise ConfigError(f"No arms. Known: {', '.join(_ARMS)}.")
    return arms


def latency_in_ticks(text: str, clock: str) -> int | None:
    """Read a latency: a number of ticks, "real" (None) or "auto".

    Raises:
        ConfigError: If it is neither, or cannot be under this clock.
    """
    if text == "auto":
        return None if clock == "wall" else 4
    if text == "real":
        if clock == "virtual":
            raise ConfigError(
                "--planner-latency real needs --clock wall: virtual ticks take no time."
            )
        return None
    if not text.isdigit():
        raise ConfigError(f"--planner-latency {text!r}: a number of ticks, such as 4, or real.")
    return int(text)


def check_numbers(options: Options) -> None:
    """Validate the numbers, before anything is measured.

    Raises:
        ConfigError: With the option and its value.
    """
    learns = not options.executor.endswith(".akd")
    least: tuple[tuple[str, float | None, float], ...] = (
        ("ticks", options.ticks, 1),
        ("episodes", options.episodes, 1),
        ("learn-ticks", options.learn_ticks, 1 if learns else 0),
        ("seed", options.seed, 0),
        ("budget", options.budget, 0),
    )
    for name, number, bound in least:
        if number is not None and not bound <= number < math.inf:
            raise ConfigError(f"--{name} {number}: at least {bound:g}.")
    for name, number in (("hz", options.hz), ("seconds", options.seconds)):
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"--{name} {number}: above 0.")


def run(options: Options) -> int:
    """Learn if there is something to learn, live each arm, and write the report."""
    import torch

    torch.set_num_threads(1)
    arms = chosen_arms(options.arms)
    latency = latency_in_ticks(options.planner_latency, options.clock)
    check_numbers(options)
    strategies, realtime = (options.strategies.make_options(), options.watching.realtime())
    options.strategies.make_routers()
    if options.executor.endswith(".akd") and options.learn_ticks:
        raise ConfigError(
            "An executor file is run as it is; leave --learn-ticks out, or give an "
            "architecture such as mlp:64,64."
        )
    from agentkd.cli.first_look import out_folder
    from agentkd.cli.run_report import write
    from agentkd.cli.run_sections import Outcome
    from agentkd.cli.run_view import RunView
    from agentkd.deploy.bundle import write_bundle
    from agentkd.distillation.task import open_task
    from agentkd.measure.live import Setting
    from agentkd.report.report import prepare_out
    from agentkd.runtime.blending import HandOver

    task = open_task(options.env, reference(options), **access(options))
    spec, known = task.spec, task.planner
    if strategies.seam is not None:
        HandOver(strategies.seam, spec.action)
    executor = _executor(options, task)
    out = out_folder("run", options.env, options.out)
    prepare_out(out, overwrite=options.overwrite, resume=False)
    setting = Setting(
        env=options.env,
        hz=options.hz,
        clock=options.clock,
        latency=latency,
        budget=0.25 / options.hz if options.budget is None else options.budget,
        ticks=options.ticks,
        seconds=options.seconds,
        episodes=options.episodes,
        seed=options.seed,
        routers=options.strategies.make_routers,
        strategies=strategies,
        workers=options.strategies.workers,
        realtime=realtime,
    )
    if options.ticks is None and options.seconds is None and options.episodes is None:
        if options.clock == "wall":
            setting = replace(setting, seconds=_WALL_SECONDS)
        else:
            setting = replace(setting, episodes=_EPISODES)

    view = RunView(setting, known, executor)
    view.say("Measuring the planner that is never late …")
    count = max(_EPISODES, options.episodes or 0)
    on_time = task.measure(known.policy, count, options.seed)
    random = task.measure(None, count, options.seed)
    view.goals(on_time.returns, random.returns)

    source: Any = known.policy
    if setting.clock == "wall" and not (_far(options) and latency is None):
        source = _remote(options, spec)
    with watchers(options.watching, out, options.env) as beside:
        if beside.port is not None:
            view.say(f"metrics at http://127.0.0.1:{beside.port}/metrics")
        whole = _live(options, setting, arms, executor, source, view, beside, out)
        learnt, lived = asyncio.run(whole)
    if learnt is not None:
        executor = learnt.executor
    ended = [*([learnt] if learnt is not None else []), *lived.values()]
    stopped = any(each.interrupted or each.fault for each in ended)
    outcome = Outcome(setting, known, executor, on_time, random, learnt, lived, stopped)
    with held():
        write_bundle(
            out / "executor.akd",
            executor,
            _provenance(options, known, learnt),
            contract=_contract(options),
        )
        return write(options, out, outcome, view)


async def _live(
    options: Options,
    setting: Any,
    arms: tuple[Any, ...],
    executor: Any,
    source: Any,
    view: Any,
    beside: Watchers,
    out: Path,
) -> tuple[Any, dict[str, Any]]:
    """Learn, if there is something to learn, and live each arm, until Ctrl-C."""
    from agentkd.measure.live import ArmLook, Interrupt, live

    learnt = None
    lived: dict[str, Any] = {}

    def began(arm: str) -> Callable[[Any], None]:
        def note(runtime: Any) -> None:
            beside.labels["arm"] = arm
            beside.source = runtime.agent.metrics

        return note

    def seen(arm: str, watch: Callable[[ArmLook], None]) -> Callable[[ArmLook], None]:
        def both(look: ArmLook) -> None:
            beside.look(arm, look.ticks, look.metrics)
            watch(look)

        return both

    with Interrupt() as interrupt:
        if not options.executor.endswith(".akd"):
            ahead = _learning(options, setting)
            distiller = _distiller(options, executor, virtual=setting.clock == "virtual")
            with view.arm("learning", ahead) as watch:
                learnt = await live(
                    ahead,
                    "runtime",
                    executor,
                    source,
                    distiller,
                    seen("learning", watch),
                    interrupt,
                    began=began("learning"),
                )
            executor = learnt.executor
            view.arm_ended("learning", learnt)
            if learnt.interrupted or learnt.fault:
                return learnt, lived
        for arm in arms:
            with view.arm(arm, setting) as watch:
                lived[arm] = await live(
                    setting,
                    arm,
                    executor,
                    source,
                    None,
                    seen(arm, watch),
                    interrupt,
                    _log(options, out, arm),
                    began(arm),
                )
            view.arm_ended(arm, lived[arm])
            if lived[arm].interrupted or lived[arm].fault:
                break
    return learnt, lived


def _log(options: Options, out: Path, arm: str) -> Any:
    from agentkd.runtime.log import DecisionLog

    if not options.watching.log:
        return None
    return DecisionLog(out / f"decisions-{arm}.akdlog", overwrite=True)


def _executor(options: Options, task: Task) -> Any:
    """Read the executor's file, or make one that has everything to learn."""
    from agentkd.deploy.bundle import read_bundle

    name = options.executor
    if not name.endswith(".akd"):
        return task.executor(name, options.seed)
    return task.executor(read_bundle(name).executor, name=name)


def _far(options: Options) -> bool:
    """Whether the planner is on another machine, and needs no process here."""
    return len(options.planner) == 1 and options.planner[0].startswith(SCHEMES)


def _remote(options: Options, spec: Any) -> Any:
    from agentkd.runtime.workers.host import Process
    from agentkd.spec import to_json

    planner = reference(options)
    return Process(
        "agentkd.planners.spawn:build",
        {
            "ref": planner if isinstance(planner, str) else list(planner),
            "spec": to_json(spec),
            "access": access(options),
        },
    )


def _learning(options: Options, setting: Any) -> Any:
    """How long, and on which seeds, the executor learns before it is measured."""
    # Seeds far from those that are measured on.
    ahead = replace(setting, seed=options.seed + 1_000_000)
    if options.learn_ticks is not None:
        return replace(ahead, ticks=options.learn_ticks, seconds=None, episodes=None)
    if setting.clock == "virtual":
        return replace(ahead, ticks=_LEARN_TICKS, seconds=None, episodes=None)
    return ahead


def _distiller(options: Options, executor: Any, *, virtual: bool) -> Any:
    from agentkd.distillation.service import build
    from agentkd.runtime.workers.host import Process
    from agentkd.spec import to_json

    arguments: dict[str, Any] = {
        "executor": options.executor,
        "spec": to_json(executor.spec),
        "seed": options.seed,
        "squashed": executor.head == "squashed",
    }
    if virtual:
        return build(**arguments)
    return Process("agentkd.distillation.service:build", arguments)


def _contract(options: Options) -> Contract:
    """What numbers mean, as the executor to begin with says; the run's clock."""
    from agentkd.deploy.bundle import read_bundle
    from agentkd.deploy.contract import Contract

    told = Contract()
    if options.executor.endswith(".akd"):
        told = read_bundle(options.executor).contract
    return replace(told, period=1 / options.hz)


def _provenance(options: Options, known: Any, learnt: Any) -> dict[str, Any]:
    labels = learnt.result.metrics.get("labels_total", 0) if learnt is not None else 0
    return {
        "env": options.env,
        "planner": {"refs": list(options.planner), "name": known.name},
        "planner_digest": known.digest,
        "executor": options.executor,
        "labels": labels,
        "seed": options.seed,
        "command": ["agentkd", *sys.argv[1:]],
    }
