"""`agentkd run`: live with a planner that is late."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cli.options.run import Options
from agentkd.cli.planner_choice import access, reference
from agentkd.cli.watch_choice import Watchers, watchers
from agentkd.interrupt import held
from agentkd.planners.remote.wire import SCHEMES

if TYPE_CHECKING:
    from agentkd.cli.run_view import RunView
    from agentkd.deploy.contract import Contract
    from agentkd.distillation.task import Task
    from agentkd.executors.executor import Executor
    from agentkd.measure.live import Setting
    from agentkd.spec import Spec

__all__ = ["Options", "run"]
_LEARN_TICKS = 30_000
_WALL_SECONDS = 20.0
_EPISODES = 20


def run(options: Options) -> int:
    """Learn if there is something to learn, live each arm, and write the report."""
    options.check()
    setting, arms = _setting(options), options.chosen_arms
    import torch

    from agentkd.cli.first_look import out_folder
    from agentkd.cli.run_report import Outcome, report
    from agentkd.cli.run_view import RunView
    from agentkd.deploy.bundle import write_bundle
    from agentkd.distillation.task import open_task
    from agentkd.report.console import publish
    from agentkd.report.provenance import made_from
    from agentkd.report.write import prepare_out
    from agentkd.runtime.arbiter import HandOver

    torch.set_num_threads(1)
    task = open_task(options.env, reference(options), **access(options))
    spec, known = task.spec, task.planner
    if setting.strategies is not None and setting.strategies.seam is not None:
        HandOver(setting.strategies.seam, spec.action)
    executor, contract = _beginning(options, task)
    out = out_folder("run", options.env, options.out)
    prepare_out(out, overwrite=options.overwrite, resume=False)

    view = RunView(setting, known, executor)
    view.say("Measuring the planner that is never late …")
    count = max(_EPISODES, options.episodes or 0)
    on_time = task.measure(known.policy, count, options.seed)
    random = task.measure(None, count, options.seed)
    view.goals(on_time.returns, random.returns)

    source = _source(options, setting, known.policy, spec)
    with watchers(options.watching, out, options.env) as beside:
        if beside.port is not None:
            view.say(f"metrics at http://127.0.0.1:{beside.port}/metrics")
        whole = _live(options, setting, arms, executor, source, view, beside, out)
        learnt, lived = asyncio.run(whole)
    if learnt is not None:
        executor = learnt.executor
    outcome = Outcome(setting, known, executor, on_time, random, learnt, lived)
    labels = learnt.result.metrics.get("labels_total", 0) if learnt is not None else 0
    facts = {"executor": options.executor, "labels": labels, "seed": options.seed}
    provenance = made_from(options.env, options.planner, known.name, known.digest, **facts)
    with held():
        write_bundle(out / "executor.akd", executor, provenance, contract=contract)
        publish(view.console, report(options, out, outcome), out)
    if any(each.fault for each in outcome.ended):
        return 1
    return 130 if outcome.interrupted else 0


def _setting(options: Options) -> Setting:
    """What all arms have in common.

    Raises:
        ConfigError: If options do not go together.
    """
    from agentkd.measure.live import Setting

    latency, strategies = options.latency, options.strategies.make_options()
    # Made once now for their errors, and afresh for each arm.
    options.strategies.make_routers()
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
        realtime=options.watching.realtime(),
    )
    if (options.ticks, options.seconds, options.episodes) != (None, None, None):
        return setting
    if options.clock == "wall":
        return replace(setting, seconds=_WALL_SECONDS)
    return replace(setting, episodes=_EPISODES)


async def _live(
    options: Options,
    setting: Setting,
    arms: tuple[str, ...],
    executor: Any,
    source: Any,
    view: RunView,
    beside: Watchers,
    out: Path,
) -> tuple[Any, dict[str, Any]]:
    """Learn, if there is something to learn, and live each arm, until Ctrl-C."""
    from agentkd.measure.live import ArmLook, Interrupt, live
    from agentkd.runtime.log import DecisionLog

    learnt = None
    lived: dict[str, Any] = {}
    with Interrupt() as interrupt:

        async def one(name: str, arm: Any, how: Setting, distiller: Any, log: Any = None) -> Any:
            def began(runtime: Any) -> None:
                beside.labels["arm"] = name
                beside.source = runtime.agent.metrics

            with view.arm(name) as watch:

                def seen(look: ArmLook) -> None:
                    beside.look(name, look.ticks, look.metrics)
                    watch(look)

                ended = await live(
                    how, arm, executor, source, distiller, seen, interrupt, log, began
                )
            view.arm_ended(name, ended)
            return ended

        if options.learns:
            distiller = _distiller(options, executor, virtual=setting.clock == "virtual")
            ahead = _learning(options, setting)
            learnt = await one("learning", "runtime", ahead, distiller)
            executor = learnt.executor
            if learnt.interrupted or learnt.fault:
                return learnt, lived
        for arm in arms:
            log = None
            if options.watching.log:
                log = DecisionLog(out / f"decisions-{arm}.akdlog", overwrite=True)
            lived[arm] = await one(arm, arm, setting, None, log)
            if lived[arm].interrupted or lived[arm].fault:
                break
    return learnt, lived


def _beginning(options: Options, task: Task) -> tuple[Executor, Contract]:
    """Read the executor's file, or make one that has everything to learn.

    Returns:
        The executor, and what its numbers mean with the clock of this run.
    """
    from agentkd.deploy.bundle import read_bundle
    from agentkd.deploy.contract import Contract

    name = options.executor
    if options.learns:
        return task.executor(name, options.seed), Contract(period=1 / options.hz)
    bundle = read_bundle(name)
    executor = task.executor(bundle.executor, name=name)
    return executor, replace(bundle.contract, period=1 / options.hz)


def _source(options: Options, setting: Setting, policy: Any, spec: Spec) -> Any:
    """Return who answers: the policy, or a process on the wall clock."""
    from agentkd.runtime.workers.host import Process
    from agentkd.spec import to_json

    far = len(options.planner) == 1 and options.planner[0].startswith(SCHEMES)
    if setting.clock == "virtual" or (far and setting.latency is None):
        return policy
    planner = reference(options)
    arguments = {
        "ref": planner if isinstance(planner, str) else list(planner),
        "spec": to_json(spec),
        "access": access(options),
    }
    return Process("agentkd.planners.load:build", arguments)


def _learning(options: Options, setting: Setting) -> Setting:
    """How long, and on which seeds, the executor learns before it is measured."""
    # Seeds far from those that are measured on.
    ahead = replace(setting, seed=options.seed + 1_000_000)
    ticks = options.learn_ticks
    if ticks is None and setting.clock == "wall":
        return ahead
    ticks = _LEARN_TICKS if ticks is None else ticks
    return replace(ahead, ticks=ticks, seconds=None, episodes=None)


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
