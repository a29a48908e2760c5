"""One decision in every form: ours, other runtimes and SB3's `predict`, with their energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from agentkd.cli import latency
from agentkd.cli.options import Access
from agentkd.errors import ConfigError, check_range
from agentkd.measure.forms import executor_forms, policy_form
from agentkd.measure.latency import Form, measure, observations
from agentkd.planners.adapt import from_object
from agentkd.report.model import Section
from benchmarks import energy
from benchmarks.forms import EXECUTORCH, other_forms, time_elsewhere
from benchmarks.pythons import Elsewhere
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table
from benchmarks.sb3_model import NAME, sb3_form

_PLANNER = "planner here"


@dataclass(frozen=True, kw_only=True)
class Options(Place, Elsewhere):
    """Time one decision in every form, in turns, and see what it takes of energy.

    Example: python -m benchmarks latency FILE --planner DIR/tqc-HalfCheetah-v5
    """

    executor: tyro.conf.Positional[Path | None] = None
    """An executor file (.akd); without one, an untrained --architecture."""
    architecture: str = "mlp:64,64"
    """The executor's architecture, where there is no file."""
    planner: str | None = None
    """An SB3 save or its folder, or module:attribute; without one, SB3's model is a fresh one."""
    algorithm: str | None = None
    """The SB3 algorithm, if the save does not tell."""
    seconds: float = 1.0
    """How long each form is timed."""
    rounds: int = 20
    """In how many turns."""
    energy_seconds: float = 1.0
    """How long each form decides without a pause to see what that takes of energy, at least 1; 0
    leaves it out."""
    watts: float = energy.WATTS
    """Power of a busy core, for the estimate of energy where it cannot be measured."""


def works(options: Options) -> Iterator[Work]:
    """Check the options; all forms are one measurement, because they take turns."""
    check_range("--seconds", options.seconds, above=0)
    check_range("--rounds", options.rounds, least=1)
    if options.energy_seconds and not options.energy_seconds >= energy.SHORTEST:
        raise ConfigError(
            f"--energy-seconds {options.energy_seconds:g}: at least 1, or 0 for none."
        )
    check_range("--watts", options.watts, above=0)
    options.find("executorch")
    yield Work("one decision", {}, partial(timed, options))


def timed(options: Options) -> Mapping[str, Any]:
    """Time all forms in turns, then let each decide without a pause."""
    given = latency.Options(
        executor=options.executor,
        architecture=options.architecture,
        planner=options.planner,
        saves=Access(algorithm=options.algorithm),
    )
    executor, planner = latency.subjects(given)
    predict, model = sb3_form(options.planner, executor.spec, options.algorithm)
    if planner is None and model is not None:
        planner = from_object(model, "a fresh model", executor.spec)
    forms = [*executor_forms(executor), *other_forms(executor), predict]
    if planner is None:
        forms.append(Form(_PLANNER, None, f"nothing to compare with: no {NAME}"))
    else:
        forms.append(policy_form(_PLANNER, planner.policy, planner.spec))
    obs = observations(executor.spec, executor.mean)
    how: Any = {"seconds": options.seconds, "rounds": options.rounds}
    found = list(measure(forms, obs, **how))
    at = next(i for i, each in enumerate(found) if each.name == EXECUTORCH)
    python = options.find("executorch")
    if python is not None and not found[at].calls:
        found[at] = time_elsewhere(str(python), executor, **how)
    bill = None
    if options.energy_seconds:
        meter, missing = energy.find_rapl()
        how = {"seconds": options.energy_seconds, "watts": options.watts}
        bill = energy.measure(forms, obs, meter=meter, missing=missing, **how)
    costs = {} if bill is None else {each.name: each.microjoules for each in bill.rows}
    return {
        "architecture": executor.architecture,
        "observation_size": executor.spec.obs.size,
        "energy": "" if bill is None else bill.text,
        "forms": [
            {
                "name": each.name,
                "p50": each.p50,
                "p99": each.p99,
                "p99.9": each.p999,
                "calls": each.calls,
                "energy_uj": costs.get(each.name),
                "note": each.note,
            }
            for each in found
        ],
    }


def base_of(forms: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return what ratios are against: SB3, or else the planner as it runs here."""
    named = {each["name"]: each for each in forms if each["calls"]}
    return named.get(NAME) or named.get(_PLANNER)


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show each form's time, energy, and how much faster it is than SB3."""
    sections = []
    for result in results:
        base = base_of(result["forms"])
        rows = [
            {**each, "faster": None if base is None else base["p50"] / each["p50"]}
            for each in result["forms"]
        ]
        columns = [
            Column("one decision", "name"),
            *(Column(f"{name}, µs", name, ",.2f") for name in ("p50", "p99", "p99.9")),
            Column("faster", "faster", ",.1f"),
            *([Column("µJ", "energy_uj", ",.1f")] if result["energy"] else []),
            Column("", "note"),
        ]
        caption = result["energy"]
        if base is not None:
            caption = f'"Faster" compares medians with {base["name"]}. {caption}'.strip()
        if options.planner is None:
            caption = f"No --planner: SB3's model is an untrained one. {caption}"
        title = f"{result['architecture']}, {result['observation_size']} numbers in"
        sections.append(Section(title, "", table(columns, rows, caption)))
    return Findings(sections)


BENCHMARK = Benchmark("latency", works, findings)
run = BENCHMARK.run
