"""`agentkd latency`: how long one decision takes, the planner beside the executor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from agentkd.cli.options import Reported, access
from agentkd.cli.terminal import View
from agentkd.errors import ConfigError, SpecError, check_range
from agentkd.measure.latency import Form, Latency, measure, observations, timer
from agentkd.report.console import publish
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.report.write import prepare_out
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.views import environment

if TYPE_CHECKING:
    from agentkd.executors.executor import Executor
    from agentkd.planners import Planner

_LARGEST = 1_000_000
_BASE = "planner"
_ACTS = "Agent.act"


@dataclass(frozen=True, kw_only=True)
class Options(Reported):
    """Measure how long one decision takes: NumPy, native C, ONNX Runtime, and the planner.

    Examples: agentkd latency runs/demo/executor.akd agentkd latency --obs 17 --actions 6 agentkd
    latency runs/demo/executor.akd --planner policies/lunarlander
    """

    executor: tyro.conf.Positional[Path | None] = None
    """An executor file (.akd); without one, an untrained --architecture."""
    architecture: str = "mlp:64,64"
    """The executor's architecture, where there is no file."""
    obs: int | None = None
    """Numbers in an observation, where there is neither file nor planner; 17 if not given."""
    actions: int | None = None
    """Numbers in an action, where there is neither file nor planner; 6 if not given."""
    planner: str | None = None
    """The planner to compare with: an SB3 save or its folder, or module:attribute."""
    seconds: float = 1.0
    """How long each form is timed."""
    rounds: int = 20
    """In how many turns."""
    hz: float = 50.0
    """Ticks per second: the picture shows how much of a period a decision takes."""


def run(options: Options) -> int:
    """Time every form in turns, and print the table."""
    check_range("--seconds", options.seconds, above=0)
    check_range("--rounds", options.rounds, least=1)
    check_range("--hz", options.hz, above=0)
    executor, planner = subjects(options)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    shape = f"{executor.spec.obs.size} numbers in, {executor.out} out"
    size = f", {executor.parameters:,} parameters: {shape}"
    console = View("executor ", (executor.architecture, "cyan"), size).console
    forms = _forms(executor, planner)
    obs = observations(executor.spec, executor.mean)
    with console.status("") as status:

        def show(done: int, of: int) -> None:
            status.update(f"timing, round {done} of {of}")

        latencies = measure(
            forms, obs, seconds=options.seconds, rounds=options.rounds, progress=show
        )
    found = report(options, executor, planner, latencies, timer())
    publish(console, found, options.out)
    return 0


def subjects(options: Options) -> tuple[Executor, Planner | None]:
    """Read or make the executor, and load the planner.

    Raises:
        ConfigError: If sizes are given beside a file or a planner that has its own.
        LoadError: If the file or the planner cannot be read.
        SpecError: If executor and planner are for different environments.
    """
    from agentkd.deploy.bundle import read_bundle
    from agentkd.executors.architecture import initial
    from agentkd.planners import load_planner

    sized = options.obs is not None or options.actions is not None
    if sized and (options.executor is not None or options.planner is not None):
        raise ConfigError(
            "--obs and --actions are for an executor made up here; a file or a planner "
            "knows its own."
        )
    executor = planner = None
    if options.executor is not None:
        executor = read_bundle(options.executor).executor
    if options.planner is not None:
        import torch

        torch.set_num_threads(1)
        spec = None if executor is None else environment(executor.spec)
        planner = load_planner(options.planner, spec, **access(options.saves))
        if spec is not None and planner.spec.obs.size != spec.obs.size:
            raise SpecError(
                f"{options.executor} takes {spec.obs.size} numbers, and "
                f"{options.planner} {planner.spec.obs.size}: they are for different "
                "environments."
            )
    if executor is None:
        spec = planner.spec if planner is not None else _made_up(options)
        executor = initial(options.architecture, spec)
    return executor, planner


def _made_up(options: Options) -> Spec:
    obs = 17 if options.obs is None else options.obs
    actions = 6 if options.actions is None else options.actions
    for name, number in (("obs", obs), ("actions", actions)):
        check_range(f"--{name}", number, least=1, most=_LARGEST)
    part = Part("", "box", (obs,), "float32")
    return Spec(ObsSpec((part,)), BoxSpec((-1.0,) * actions, (1.0,) * actions, (actions,)))


def _forms(executor: Executor, planner: Planner | None) -> list[Form]:
    from agentkd.measure.forms import executor_forms, policy_form

    forms = executor_forms(executor)
    if planner is None:
        return forms
    return [*forms, policy_form(_BASE, planner.policy, planner.spec)]


def report(
    options: Options,
    executor: Executor,
    planner: Planner | None,
    latencies: Sequence[Latency],
    timer: float,
) -> Report:
    """Return the times as a report."""
    base = next((each for each in latencies if each.name == _BASE and each.calls), None)
    forms = [
        {
            "name": each.name,
            "latency_us": each.summary(),
            "ratio": math.nan if base is None else base.p50 / each.p50,
            "note": each.note,
        }
        for each in latencies
    ]
    columns = [
        Column("one decision", "µs"),
        *(Column(name, form=",.2f") for name in ("p50", "p99", "p99.9")),
        Column("faster", form=",.1f", help="The ratio of the medians."),
        Column(""),
    ]
    rows = [
        [each.name, each.p50, each.p99, each.p999, form["ratio"], form["note"]]
        for each, form in zip(latencies, forms, strict=True)
    ]
    caption = f"Each call is timed by itself; the timer takes {timer:.2f} µs of each."
    if base is not None:
        caption = f'"Faster" compares medians with the planner. {caption}'
    data = {
        "command": "latency",
        "env": "",
        "executor": None if options.executor is None else str(options.executor),
        "architecture": executor.architecture,
        "executor_parameters": executor.parameters,
        "observation_size": executor.spec.obs.size,
        "planner": [] if options.planner is None else [options.planner],
        "planner_name": "" if planner is None else planner.name,
        "planner_parameters": 0 if planner is None else planner.parameters,
        "decision_latency_us": next(each.summary() for each in latencies if each.name == _ACTS),
        "forms": forms,
        "ratio_to": "" if base is None else base.name,
        "timer_us": timer,
    }
    table = Table(columns, rows, caption)
    sections = [Section("One decision, in every form", "", table)]
    return Report(data, sections, picture=_picture(latencies, options.hz))


def _picture(latencies: Sequence[Latency], hz: float) -> Plot:
    """Show how long decisions took, against the period of a tick."""
    return Plot(
        "How long a decision takes",
        "µs",
        "",
        tuple(Series(each.name, each.edges, each.counts) for each in latencies if each.calls),
        "Both axes are logarithmic, so that a single slow decision is seen.",
        "distributions",
        marks=((f"a period at {hz:g} Hz", 1e6 / hz),),
    )
