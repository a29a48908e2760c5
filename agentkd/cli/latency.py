"""`agentkd latency`: how long one decision takes, in every form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from agentkd.errors import ConfigError, SpecError

if TYPE_CHECKING:
    from agentkd.cli.terminal import Console
    from agentkd.executors.executor import Executor
    from agentkd.measure.energy import Bill
    from agentkd.measure.latency import Form, Latency
    from agentkd.planners import Planner
    from agentkd.types import Floats

_LARGEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
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
    vecnormalize: str | None = None
    """Statistics of the planner's normaliser, if not beside it; "off" for none."""
    algorithm: str | None = None
    """The SB3 algorithm, if the save does not tell."""
    unpickle: bool = False
    """Read a save by running the code in it. Only for files whose maker you trust."""


def run(options: Options) -> int:
    """Time every form in turns, and print the table."""
    from agentkd.cli.terminal import Console
    from agentkd.measure.latency import measure, observations, timer
    from agentkd.report.report import prepare_out

    _one_thread()
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
    from rich.text import Text

    console = Console()
    console.print(
        Text.assemble(
            "executor ",
            (executor.architecture, "cyan"),
            f", {executor.parameters:,} parameters: {executor.spec.obs.size} numbers in, "
            f"{_width(executor)} out",
        )
    )
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
    bill = _bill(console, options, forms, obs)
    from agentkd.cli.latency_report import show_and_write

    show_and_write(console, options, executor, planner, latencies, timer(), bill)
    return 0


def _with_other(
    options: Options, executor: Executor, latencies: tuple[Latency, ...]
) -> tuple[Latency, ...]:
    """Have another Python time what this one cannot."""
    from agentkd.measure.forms_torch import EXECUTORCH
    from agentkd.measure.other_python import time_elsewhere

    return tuple(
        time_elsewhere(
            str(options.other_python),
            executor,
            EXECUTORCH,
            seconds=options.seconds,
            rounds=options.rounds,
        )
        if each.name == EXECUTORCH and not each.calls
        else each
        for each in latencies
    )


def _bill(console: Console, options: Options, forms: list[Form], obs: Floats) -> Bill | None:
    """Measure what decisions take of energy; None if that is left out."""
    from agentkd.measure import energy

    if not options.energy_seconds:
        return None
    meter, missing = energy.find_rapl()
    with console.status("energy"):
        return energy.measure(
            forms,
            obs,
            seconds=options.energy_seconds,
            watts=options.watts,
            meter=meter,
            missing=missing,
        )


def _one_thread() -> None:
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)


def _width(executor: Executor) -> int:
    return executor.out


def _subjects(options: Options) -> tuple[Executor, Planner | None]:
    """Read or make the executor, and load the planner."""
    from agentkd.deploy.bundle import read_bundle
    from agentkd.executors.architecture import initial

    sized = options.obs is not None or options.actions is not None
    if sized and (options.executor is not None or options.planner is not None):
        raise ConfigError(
            "--obs and --actions are for an executor made up here; a file or a planner "
            "knows its own."
        )
    executor = None
    if options.executor is not None:
        executor = read_bundle(options.executor).executor
    planner = _planner(options, executor)
    if executor is None:
        spec = planner.spec if planner is not None else _made_up(options)
        executor = initial(options.architecture, spec)
    return executor, planner


def _planner(options: Options, executor: Executor | None) -> Planner | None:
    if options.planner is None:
        return None
    from agentkd.planners import load_planner

    spec = None if executor is None else executor.spec
    planner = load_planner(
        options.planner,
        spec,
        vecnormalize=options.vecnormalize,
        algorithm=options.algorithm,
        allow_pickle=options.unpickle,
    )
    if executor is not None and planner.spec.obs.size != executor.spec.obs.size:
        raise SpecError(
            f"{options.executor} takes {executor.spec.obs.size} numbers, and "
            f"{options.planner} {planner.spec.obs.size}: they are for different "
            "environments."
        )
    return planner


def _made_up(options: Options) -> Any:
    from agentkd.spec import BoxSpec, ObsSpec, Part, Spec

    obs = 17 if options.obs is None else options.obs
    actions = 6 if options.actions is None else options.actions
    for name, number in (("obs", obs), ("actions", actions)):
        if not 1 <= number <= _LARGEST:
            raise ConfigError(f"--{name} {number}: from 1 to {_LARGEST:,}.")
    part = Part("", "box", (obs,), "float32")
    return Spec(ObsSpec((part,)), BoxSpec((-1.0,) * actions, (1.0,) * actions, (actions,)))


def _forms(options: Options, executor: Executor, planner: Planner | None) -> list[Form]:
    from agentkd.measure.forms import executor_forms, missing, policy_form
    from agentkd.measure.latency import Form

    forms = executor_forms(executor)
    ours = "planner here"
    try:
        from agentkd.measure.sb3_model import NAME, sb3_form
        from agentkd.planners.adapt import from_object
    except ModuleNotFoundError as error:
        reason = missing(error, "train")
        return [*forms, Form("SB3 predict", None, reason), Form(ours, None, reason)]
    predict, model = sb3_form(options.planner, executor.spec, options.algorithm)
    if planner is None and model is not None:
        planner = from_object(model, "a fresh model", executor.spec)
    forms.append(predict)
    if planner is None:
        return [*forms, Form(ours, None, f"nothing to compare with: no {NAME}")]
    return [*forms, policy_form(ours, planner.policy, planner.spec)]
