"""`agentkd run`: live with a planner that is late."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rich.text import Text
from tyro.conf import OmitArgPrefixes

from agentkd.cli.inspect import signature
from agentkd.cli.options import Planned, access, open_planned, reference, told_again
from agentkd.cli.run_film import KEPT, add_film, check_film
from agentkd.cli.run_options import StrategyChoice, WatchChoice, Watchers, look_ahead, watchers
from agentkd.cli.run_report import Outcome, arm_ended, follow_arm, report, run_view, show_goals
from agentkd.cli.terminal import View
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.contract import Contract
from agentkd.errors import ConfigError, WorkerError, check_choice, check_range
from agentkd.executors.past import past_words
from agentkd.interrupt import held
from agentkd.measure.live import ArmLook, Interrupt, Setting, live
from agentkd.planners.remote.wire import SCHEMES
from agentkd.report.console import publish
from agentkd.report.film import renders
from agentkd.report.returns import Goals
from agentkd.report.write import made_from, prepare_out, write_report
from agentkd.runtime.arbiter import HandOver
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.workers.host import Process
from agentkd.spec_json import to_json

if TYPE_CHECKING:
    from agentkd.distillation.task import Task
    from agentkd.executors.executor import Executor
    from agentkd.planners import Planner

_ANY_STRATEGY, _NOBODY = StrategyChoice(), WatchChoice()
_ARMS = ("planner", "executor", "runtime")
_LEARN_TICKS = 30_000
_WALL_SECONDS = 20.0
_EPISODES = 20


@dataclass(frozen=True, kw_only=True)
class Options(Planned):
    """Run an agent whose planner is late, and compare its arms on the same seeds.

    Without an executor file the executor first learns from nothing, live, from the planner's late
    answers. Then each arm lives the same episodes.

    Example: agentkd run LunarLander-v3 --planner policies/lunarlander --clock virtual
    --planner-latency 8
    """

    folder: ClassVar[str] = "run"
    executor: str = "mlp:64,64"
    """An executor file (.akd), or an architecture that learns from nothing."""
    executor_trust: Path | None = None
    """The root.json of the repository that must have signed an executor file; without it, the file
    counts as unsigned."""
    executor_sees: str | None = None
    """What an executor that learns from nothing sees of the observation: keys (joints,imu), places
    (0:2,4:5), stack:4 for the last four, delay:2 for what was so two ticks ago."""
    hz: float = 50.0
    """Ticks per second."""
    clock: Literal["wall", "virtual"] = "wall"
    """Whether ticks take real time, or the planner's latency is counted in ticks."""
    planner_latency: str = "auto"
    """Ticks by which each answer of the planner is late, or "real": as late as it is. By default
    real on the wall clock, 4 on the virtual one."""
    planner_rows: int = 1
    """Rows that a planner of one row is to answer with: it is rolled out so far in the MuJoCo
    environment's own simulation."""
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
    film: Literal["auto", "on", "off"] = "auto"
    """Whether the report shows a typical episode of each arm side by side, with who acts in colour.
    auto: where the environment renders rgb_array."""
    strategies: OmitArgPrefixes[StrategyChoice] = _ANY_STRATEGY
    """Which strategies may act, and how they are requested."""
    watching: OmitArgPrefixes[WatchChoice] = _NOBODY
    """Scheduling of the tick thread, and where its metrics go."""

    @property
    def chosen_arms(self) -> tuple[str, ...]:
        """The arms by name.

        Raises:
            ConfigError: If an arm is unknown, or none is given.
        """
        arms = tuple(word.strip() for word in self.arms.split(",") if word.strip())
        for arm in arms:
            check_choice("arm", arm, _ARMS)
        if not arms:
            raise ConfigError(f"No arms. Known: {', '.join(_ARMS)}.")
        return arms

    @property
    def latency(self) -> int | None:
        """The planner's latency in ticks, None for as late as it is.

        Raises:
            ConfigError: If it is not a number, or not possible under this clock.
        """
        text = self.planner_latency
        if text == "auto":
            return None if self.clock == "wall" else 4
        if text == "real":
            if self.clock == "virtual":
                raise ConfigError(
                    "--planner-latency real needs --clock wall: virtual ticks take no time."
                )
            return None
        if not text.isdigit():
            raise ConfigError(f"--planner-latency {text!r}: a number of ticks, such as 4, or real.")
        return int(text)

    @property
    def learns(self) -> bool:
        """Whether the executor is to learn before the arms are measured."""
        return not self.executor.endswith(".akd")

    def check(self) -> None:
        """Validate the options before anything is measured.

        Raises:
            ConfigError: With the option and its value.
        """
        least = {
            "planner_rows": 1,
            "ticks": 1,
            "episodes": 1,
            "learn_ticks": int(self.learns),
            "seed": 0,
            "budget": 0,
        }
        for name, bound in least.items():
            option = f"--{name.replace('_', '-')}"
            check_range(option, getattr(self, name), least=bound, below=math.inf)
        for name, most in (("hz", 1e6), ("seconds", 1e9)):
            check_range(f"--{name}", getattr(self, name), above=0, most=most)
        if not self.learns and self.learn_ticks:
            raise ConfigError(
                "An executor file is run as it is; leave --learn-ticks out, or give an "
                "architecture such as mlp:64,64."
            )
        if self.learns and self.executor_trust is not None:
            raise ConfigError("--executor-trust goes with an executor file, not an architecture.")


def run(options: Options) -> int:
    """Learn if there is something to learn, live each arm, and write the report."""
    options.check()
    arms = options.chosen_arms
    _setting(options, options.strategies.make_options())  # before anything is loaded
    if options.film == "on":
        check_film(options.env)
    task = open_planned(options)
    rows = options.planner_rows
    known = _rolled(task.planner, options)
    strategies = options.strategies.make_options(task.goals)
    if strategies.seam is not None:
        HandOver(strategies.seam, task.spec.action)
    executor, contract, signed = _executor(options, task)
    out, said = options.place, ""
    if not executor.memory:
        strategies, said = look_ahead(options.strategies, strategies, options.env, known.policy)
    setting = _setting(options, strategies)
    prepare_out(out, overwrite=options.overwrite, resume=False)

    view = run_view(setting, known, executor)
    for each in filter(None, (signed, said)):
        view.say(each)
    view.say("Measuring the planner that is never late …")
    returns = task.references(max(_EPISODES, options.episodes or 0), options.seed)
    goals = show_goals(view, returns)
    source: Any = known.policy
    far = len(options.planner) == 1 and options.planner[0].startswith(SCHEMES)
    if setting.clock == "wall" and not (far and setting.latency is None):
        arguments = {"ref": reference(options), "spec": to_json(task.spec)}
        arguments["access"] = access(options.saves)
        source = Process("agentkd.planners.load:build", arguments)
        if rows > 1:
            more = {"env": options.env, "rows": rows}
            source = Process("agentkd.planners.rolled:build", {**arguments, **more})
    with watchers(options.watching, out, options.env) as beside:
        for said in beside.addresses:
            view.say(said)
        shown = beside.page is not None and renders(options.env)
        setting = replace(setting, live=beside.page, renders=shown)
        whole = _live(options, setting, arms, executor, source, (view, goals), beside, out)
        learnt, lived = asyncio.run(whole)
    if learnt is not None:
        executor = learnt.executor
    outcome = Outcome(setting, known, executor, returns, learnt, lived, beside.changes)
    labels = learnt.result.metrics.get("labels_total", 0) if learnt is not None else 0
    facts = {"executor": options.executor, "labels": labels, "seed": options.seed}
    provenance = made_from(options.env, options.planner, known.name, known.digest, **facts)
    with held():
        write_bundle(out / "executor.akd", executor, provenance, contract=contract)
        made = report(options.planner, out, outcome, told_again(options.saves))
        publish(view.console, made, out)
    if options.film != "off" and not outcome.interrupted:
        # The report is there already, whatever the renderer does.
        filmed = add_film(view, made, setting, lived)
        if filmed.film is not None:
            write_report(out, filmed)
            view.console.print(Text(f"{'film':<10}{out / 'film.webp'}"), soft_wrap=True)
    missing = len(lived) < len(arms) and not outcome.interrupted
    if missing or any(each.fault for each in outcome.ended):
        return 1
    return 130 if outcome.interrupted else 0


def _rolled(planner: Planner, options: Options) -> Planner:
    """Return the planner, or the same rolled out for some rows."""
    if options.planner_rows == 1:
        return planner
    from agentkd.planners.rolled import rolled_out

    return rolled_out(planner, options.env, options.planner_rows)


def _executor(options: Options, task: Task) -> tuple[Executor, Contract, str]:
    """Return the executor, its contract, and what is to be said about its signature."""
    contract, signed = Contract(), ""
    if options.learns:
        executor = task.executor(options.executor, options.seed, goals=task.goals)
    else:
        bundle = read_bundle(options.executor, trust=options.executor_trust)
        told = signature(bundle, Path(options.executor), "--executor-trust")
        signed = f"{options.executor}: {told}"
        executor = task.executor(bundle.executor, name=options.executor, goals=task.goals)
        contract = bundle.contract
    return executor, replace(contract, period=1 / options.hz), signed


def _setting(options: Options, strategies: StrategyOptions) -> Setting:
    """Return what all arms have in common; invalid options are told."""
    same: Any = ("env", "hz", "clock", "latency", "ticks", "seconds", "episodes", "seed")
    chosen = options.strategies
    # Made once now for their errors, and afresh for each arm.
    chosen.make_routers()
    setting = Setting(
        **{name: getattr(options, name) for name in same},
        budget=0.25 / options.hz if options.budget is None else options.budget,
        routers=chosen.make_routers,
        strategies=strategies,
        workers=chosen.workers,
        realtime=options.watching.realtime(),
        kept=0 if options.film == "off" else KEPT,
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
    shown: tuple[View, Goals],
    beside: Watchers,
    out: Path,
) -> tuple[Any, dict[str, Any]]:
    """Learn, if there is something to learn, and live each arm, until Ctrl-C."""
    learnt = None
    lived: dict[str, Any] = {}
    view, goals = shown
    with Interrupt() as interrupt:

        async def one(name: str, arm: Any, how: Setting, distiller: Any, log: Any = None) -> Any:
            if beside.page is not None:
                beside.page.entitle(name, pace=0.0 if name == "learning" else 1.0)

            def began(runtime: Any) -> None:
                beside.labels["arm"] = name
                beside.source = runtime.agent.metrics

            with follow_arm(view, name, goals) as watch:

                def seen(look: ArmLook) -> None:
                    beside.look(name, look.ticks, look.metrics)
                    watch(look)

                ended = await live(
                    how, arm, executor, source, distiller, seen, interrupt, log, began
                )
            arm_ended(view, name, ended)
            return ended

        if options.learns:
            distiller = _distiller(options, executor, virtual=setting.clock == "virtual")
            ahead = _learning(options, setting)
            learnt = await one("learning", "runtime", ahead, distiller)
            executor = learnt.executor
            if learnt.interrupted or learnt.fault:
                return learnt, lived
        for arm in arms:
            file = out / f"decisions-{arm}.akdlog"
            log = DecisionLog(file, overwrite=True) if options.watching.log else None
            try:
                lived[arm] = await one(arm, arm, setting, None, log)
            except WorkerError as error:
                if not lived and learnt is None:
                    raise
                view.warn(f"{error} Without the arm {arm}, what was lived before is reported.")
                break
            if lived[arm].interrupted or lived[arm].fault:
                break
    return learnt, lived


def _learning(options: Options, setting: Setting) -> Setting:
    """How long, and on which seeds, the executor learns before it is measured."""
    # Seeds far from those that are measured on.
    ahead = replace(setting, seed=options.seed + 1_000_000, kept=0)
    ticks = options.learn_ticks
    if ticks is None and setting.clock == "wall":
        return ahead
    ticks = _LEARN_TICKS if ticks is None else ticks
    return replace(ahead, ticks=ticks, seconds=None, episodes=None)


def _distiller(options: Options, executor: Any, *, virtual: bool) -> Any:
    from agentkd.distillation.service import build

    arguments: dict[str, Any] = {
        "executor": options.executor,
        "spec": to_json(executor.spec),
        "past": past_words(executor),
        "seed": options.seed,
        "squashed": executor.head == "squashed",
    }
    if virtual:
        return build(**arguments)
    return Process("agentkd.distillation.service:build", arguments)
