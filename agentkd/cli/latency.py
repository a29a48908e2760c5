"""`agentkd latency`: how long one decision takes, in every form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from agentkd.cli.options import Access, access
from agentkd.cli.terminal import View
from agentkd.errors import ConfigError, SpecError
from agentkd.measure.latency import Form, Latency, measure, observations, timer
from agentkd.report.console import publish
from agentkd.report.model import Column, Report, Section, Table
from agentkd.report.write import prepare_out
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats
from agentkd.views import environment

if TYPE_CHECKING:
    from agentkd.executors.executor import Executor
    from agentkd.measure.energy import Bill
    from agentkd.planners import Planner

_LARGEST = 1_000_000
_BASES = ("SB3 predict", "planner here")
_ACTS = "Agent.act"


@dataclass(frozen=True, kw_only=True)
class Options(Access):
    """Measure how long one decision takes, in every form.

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
    energy_seconds: float = 1.0
    """How long each form decides without a pause to see what that takes of energy, at least 1; 0
    leaves it out."""
    watts: float = 5.0
    """Power of a busy core, for the estimate of energy where it cannot be measured."""
    other_python: Path | None = None
    """A Python that has ExecuTorch, where this one has not."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""


def run(options: Options) -> int:
    """Time every form in turns, and print the table."""
    with suppress(ModuleNotFoundError):
        import torch

        torch.set_num_threads(1)
    if not options.seconds > 0 or options.rounds < 1:
        raise ConfigError(
            f"--seconds {options.seconds:g} --rounds {options.rounds}: above 0, and at least 1."
        )
    if not (options.energy_seconds == 0 or options.energy_seconds >= 1):
        raise ConfigError(
            f"--energy-seconds {options.energy_seconds:g}: at least 1, or 0 for none."
        )
    if not options.watts > 0:
        raise ConfigError(f"--watts {options.watts:g}: it has to be above 0.")
    executor, planner = _subjects(options)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    shape = f"{executor.spec.obs.size} numbers in, {executor.out} out"
    size = f", {executor.parameters:,} parameters: {shape}"
    console = View("executor ", (executor.architecture, "cyan"), size).console
    forms = _forms(options, executor, planner)
    obs = observations(executor.spec, executor.mean)
    with console.status("") as status:

        def show(done: int, of: int) -> None:
            status.update(f"timing, round {done} of {of}")

        latencies = measure(
            forms, obs, seconds=options.seconds, rounds=options.rounds, progress=show
        )
    if options.other_python is not None:
        latencies = _with_other(options, executor, latencies)
    with console.status("energy"):
        bill = _bill(options, forms, obs)
    found = report(options, executor, planner, latencies, timer(), bill)
    publish(console, found, options.out)
    return 0


def _with_other(
    options: Options, executor: Executor, latencies: tuple[Latency, ...]
) -> tuple[Latency, ...]:
    """Have another Python time what this one cannot."""
    from agentkd.measure.forms import EXECUTORCH, time_elsewhere

    python = str(options.other_python)
    how: Any = {"seconds": options.seconds, "rounds": options.rounds}
    return tuple(
        time_elsewhere(python, executor, **how)
        if each.name == EXECUTORCH and not each.calls
        else each
        for each in latencies
    )


def _bill(options: Options, forms: list[Form], obs: Floats) -> Bill | None:
    """Measure what decisions take of energy; None if that is left out."""
    from agentkd.measure import energy

    if not options.energy_seconds:
        return None
    meter, missing = energy.find_rapl()
    how: Any = {"seconds": options.energy_seconds, "watts": options.watts}
    return energy.measure(forms, obs, meter=meter, missing=missing, **how)


def _subjects(options: Options) -> tuple[Executor, Planner | None]:
    """Read or make the executor, and load the planner."""
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
        spec = None if executor is None else environment(executor.spec)
        planner = load_planner(options.planner, spec, **access(options))
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
        if not 1 <= number <= _LARGEST:
            raise ConfigError(f"--{name} {number}: from 1 to {_LARGEST:,}.")
    part = Part("", "box", (obs,), "float32")
    return Spec(ObsSpec((part,)), BoxSpec((-1.0,) * actions, (1.0,) * actions, (actions,)))


def _forms(options: Options, executor: Executor, planner: Planner | None) -> list[Form]:
    from agentkd.measure.forms import executor_forms, missing, policy_form

    forms = executor_forms(executor)
    ours = "planner here"
    try:
        from agentkd.measure.sb3_model import NAME, sb3_form
        from agentkd.planners.adapt import from_object
    except ModuleNotFoundError as error:
        reason = missing(error)
        return [*forms, Form("SB3 predict", None, reason), Form(ours, None, reason)]
    predict, model = sb3_form(options.planner, executor.spec, options.algorithm)
    if planner is None and model is not None:
        planner = from_object(model, "a fresh model", executor.spec)
    forms.append(predict)
    if planner is None:
        return [*forms, Form(ours, None, f"nothing to compare with: no {NAME}")]
    return [*forms, policy_form(ours, planner.policy, planner.spec)]


def base_of(latencies: Sequence[Latency]) -> Latency | None:
    """Return what ratios are against: SB3, or else the planner as it runs here."""
    named = {each.name: each for each in latencies if each.calls}
    return next((named[name] for name in _BASES if name in named), None)


def report(
    options: Options,
    executor: Executor,
    planner: Planner | None,
    latencies: Sequence[Latency],
    timer: float,
    bill: Bill | None,
) -> Report:
    """Return the times, and the energy if it was measured, as a report."""
    base = base_of(latencies)
    energy = {} if bill is None else {e.name: e.microjoules for e in bill.rows}
    forms = [
        {
            "name": each.name,
            "latency_us": each.summary(),
            "ratio": math.nan if base is None else base.p50 / each.p50,
            "note": each.note,
            "energy_uj": energy.get(each.name, math.nan),
        }
        for each in latencies
    ]
    columns = [
        Column("one decision", "µs"),
        *(Column(name, form=",.2f") for name in ("p50", "p99", "p99.9")),
        Column("faster", form=",.1f", help="The ratio of the medians."),
        *([] if bill is None else [Column("µJ", form=",.1f")]),
        Column(""),
    ]
    shown = ("ratio", "note") if bill is None else ("ratio", "energy_uj", "note")
    rows = [
        [each.name, each.p50, each.p99, each.p999, *(form[name] for name in shown)]
        for each, form in zip(latencies, forms, strict=True)
    ]
    caption = f"Each call is timed by itself; the timer takes {timer:.2f} µs of each."
    if base is not None:
        caption = f'"Faster" compares medians with {base.name}. {caption}'
    if options.planner is None:
        caption = f"No --planner: SB3's model is an untrained one. {caption}"
    watts = math.nan
    if bill is not None:
        caption = f"{caption} {bill.text}"
        watts = options.watts if bill.source == "estimate" else bill.idle_watts
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
        "energy_source": "" if bill is None else bill.source,
        "energy_watts": watts,
    }
    table = Table(columns, rows, caption)
    return Report(data, [Section("One decision, in every form", "", table)])
