"""`agentkd practise`: an executor and a value from the model that a planner searches with."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agentkd.cli.options import Planned, open_planned, told_again
from agentkd.cli.terminal import Facts, View, figure
from agentkd.errors import ConfigError, check_range
from agentkd.interrupt import held
from agentkd.measure.intervals import mean_interval
from agentkd.report.console import publish
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.report.write import made_from, prepare_out

_SECONDS = 150.0


@dataclass(frozen=True, kw_only=True)
class Options(Planned):
    """Let an executor and a value learn by trying in the planner's model, without labels.

    The planner is not asked; its model and its reward are used. Start a distillation or a live run
    from the executor, and guide the planner's search with both.
    """

    folder: ClassVar[str] = "practise"
    executor: str = "mlp:64,64,tanh"
    """An architecture without a memory, or an .akd file to go on from."""
    seconds: float | None = None
    """How long; 150 if --ticks is not given."""
    ticks: int | None = None
    """How many ticks of the model, instead of seconds: the same number gives the same executor."""
    restarts: int = 4
    """How many begin. The better half goes on, until one is left."""
    threads: int | None = None
    """Threads that simulate; by default as many as there are processors, at most 16."""
    copies: int = 64
    """Copies of the model that live together."""
    gamma: float = 0.95
    """What a reward is worth a tick later."""
    learning_rate: float = 7e-4
    """Of Adam, at first."""
    spread: float = 0.25
    """The standard deviation of what is tried at first, as a share of half the box."""
    seed: int = 0
    """For weights, starts and every draw."""
    episodes: int = 20
    """Episodes to measure the executor over in the environment, and random actions."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""


def run(options: Options) -> int:
    """Practise, measure, report."""
    from agentkd.cli.distilled import period_of
    from agentkd.deploy.contract import Contract
    from agentkd.distillation.practice import PracticeLook, Practised, practise, save, world_of

    how = _how(options)
    task = open_planned(options)
    world_of(task)
    task.executor(options.executor)
    out = options.place
    prepare_out(out, overwrite=options.overwrite)
    view = View((options.env, "bold"), "   practice in the model of ", (task.planner.name, "cyan"))
    looks: list[tuple[int, float]] = []
    contract = Contract(period=period_of(options.env))

    name, digest = task.planner.name, task.planner.digest
    told = {"method": "practice in the planner's model", "seed": options.seed}
    facts = made_from(options.env, options.planner, name, digest, **told)

    def keep(best: Practised) -> None:
        looks.append((best.ticks, best.returned))
        with held():
            save(out, best, facts, contract)

    def tell(look: PracticeLook) -> Facts:
        return look.done, {
            "best return in the model": figure(look.returned),
            "ticks of the model": f"{look.ticks:,}",
            "restart": f"{look.restart + 1} ({look.left} left)",
            "reward a tick": figure(look.reward, 2),
        }

    with view.follow("practising", tell) as watch:
        best = practise(task, options.executor, how, watch=watch, keep=keep)
    view.say(f"Measuring the executor over {options.episodes} episodes …")
    interrupted = best.interrupted
    returns: dict[str, Any] = {"executor": (), "random": ()}
    try:
        for who, policy in (("executor", best.executor.policy), ("random", None)):
            lived = task.measure(policy, options.episodes, options.eval_seed)
            returns[who] = lived.returns
    except KeyboardInterrupt:
        interrupted = True
    report = _report(options, best, returns, looks, interrupted=interrupted)
    publish(view.console, report, out)
    return 130 if interrupted else 0


def _how(options: Options) -> Any:
    """Read the options that need neither planner nor environment.

    Raises:
        ConfigError: If one is invalid.
    """
    from agentkd.distillation.ppo import PpoOptions
    from agentkd.distillation.practice import PracticeOptions

    check_range("--seed", options.seed, least=0)
    check_range("--eval-seed", options.eval_seed, least=0)
    check_range("--episodes", options.episodes, least=1)
    if options.seconds is not None and options.ticks is not None:
        raise ConfigError("Give --seconds or --ticks, not both.")
    seconds = options.seconds
    if seconds is None and options.ticks is None:
        seconds = _SECONDS
    threads = options.threads
    if threads is None:
        threads = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    return PracticeOptions(
        seconds=seconds,
        ticks=options.ticks,
        restarts=options.restarts,
        seed=options.seed,
        threads=threads,
        ppo=PpoOptions(
            environments=options.copies,
            discount=options.gamma,
            learning_rate=options.learning_rate,
            spread=options.spread,
        ),
    )


def _report(
    options: Options,
    best: Any,
    returns: dict[str, Any],
    looks: list[tuple[int, float]],
    *,
    interrupted: bool,
) -> Report:
    from agentkd.planners.search.guide import EXECUTOR, NEEDED, VALUE

    out: Path = options.place
    data: dict[str, Any] = {
        "command": "practise",
        **{name: getattr(options, name) for name in ("env", "seed", "eval_seed", "episodes")},
        "planner": list(options.planner),
        "executor": str(out / EXECUTOR),
        "value": str(out / VALUE),
        "architecture": best.executor.architecture,
        "model_ticks": best.ticks,
        "seconds": best.seconds,
        "return_in_model": best.returned,
        "value_explained": best.explained,
        "discount": best.discount,
        "interrupted": interrupted,
    }
    rows = []
    for name, found in returns.items():
        interval = mean_interval(found)
        data[f"{name}_return"] = interval.mean
        data[f"{name}_return_interval"] = [interval.low, interval.high]
        rows.append([name, interval.mean, [interval.low, interval.high]])
    columns: list[Column | str] = [
        "policy",
        Column("return", form=",.1f"),
        Column("95 % interval", form=",.1f"),
    ]
    table = Table(columns, rows, f"{options.episodes} episodes each, the same seeds.")
    text = (
        f"return in the model {best.returned:,.1f}   the value explains "
        f"{best.explained:.2f} of the variance of returns   {best.ticks:,} ticks of the model in "
        f"{best.seconds:.1f} s"
    )
    notes = []
    if not best.explained >= NEEDED:
        notes.append(
            f"The value explains less than {NEEDED}: a guided planner leaves it out. Practise "
            "longer."
        )
    if interrupted:
        notes.append("Ended early: this is the best until then.")
    curve = Plot(
        "Best return in the model",
        "ticks of the model",
        "return",
        (Series("executor", [look[0] for look in looks], [look[1] for look in looks]),),
        "From states set aside, without what it tries.",
    )
    again = [
        *["agentkd", "distill", options.env, "--planner", *options.planner],
        *told_again(options.saves),
        *["--executor", data["executor"]],
    ]
    files = {"executor": data["executor"], "value": data["value"], "next:": shlex.join(again)}
    section = Section("What it reached", text, table, (curve,), tuple(notes))
    return Report(data, [section], files)
