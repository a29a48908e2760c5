"""What `agentkd eval` says and writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from agentkd.measure.evaluate import Evaluation
from agentkd.measure.intervals import Interval, mean_interval, retention
from agentkd.report.comparison import Candidate, Measured
from agentkd.report.report import Plot, Section, Series, Table, write_report

if TYPE_CHECKING:
    from agentkd.cli.eval import Options
    from agentkd.cli.eval_view import EvalView
    from agentkd.distillation.attack import Assault, Attack

_COLUMNS = (
    "policy",
    "return",
    "95 % interval",
    "retention",
    "agreement",
    "parameters",
    "µs p50 / p99 / p99.9",
)
_WIDE = 120
"""From how many characters on a terminal has room for names beside the figures."""
_NOTHING = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was measured.

    Attributes:
        random: Random actions; None if it ended before.
        measured: The policies, the reference first.
        reference: What retention and agreement are against; None if there is none.
        states: How many states agreement was taken on.
        interrupted: Whether Ctrl-C ended it.
        attack: What observations were attacked with; None if they were not.
        assaults: What came of it, for each policy; fewer, if it was interrupted.
    """

    random: Evaluation | None
    measured: tuple[Measured, ...]
    reference: Candidate | None
    states: int
    interrupted: bool
    attack: Attack | None = None
    assaults: tuple[Assault, ...] = ()


def write(options: Options, outcome: Comparison, view: EvalView) -> int:
    """Print the table, and write the report if a folder was named.

    Returns:
        The command's exit status: 0, 1 if a policy failed, 130 after Ctrl-C.
    """
    data = _data(options, outcome)
    rows = [_cells(each) for each in data["policies"]]
    if outcome.random is not None:
        interval = _interval(data["random_return_interval"])
        rows.append(["random actions", _number(data["random_return"]), interval, *[""] * 4])
    notes = _notes(options, outcome)
    _print(view, data, rows, notes)
    sections = []
    if outcome.attack is not None:
        from agentkd.cli import eval_attack

        eval_attack.show(view.console, data)
        sections.append(eval_attack.section(data))
    if options.out is not None:
        section = Section(
            "Side by side",
            " ".join(notes),
            Table(_COLUMNS, rows, _caption(options, outcome)),
            _plots(data),
        )
        write_report(options.out, data, [section, *sections])
        view.console.print(Text(f"report    {options.out / 'report.html'}"))
    if outcome.interrupted:
        return 130
    return 1 if any(each.fault for each in outcome.measured) else 0


def _returns(measured: Measured | None) -> tuple[float, ...]:
    if measured is None or measured.evaluation is None:
        return ()
    return measured.evaluation.returns


def _data(options: Options, outcome: Comparison) -> dict[str, Any]:
    reference = next(
        (each for each in outcome.measured if each.candidate is outcome.reference), None
    )
    random = () if outcome.random is None else outcome.random.returns
    policies = []
    for each in outcome.measured:
        returns = _returns(each)
        kept = _NOTHING
        if reference is not None and returns and random:
            kept = retention(returns, _returns(reference), random)
        policies.append(_policy(each, mean_interval(returns), kept))
    floor = mean_interval(random)
    data: dict[str, Any] = {
        "command": "eval",
        "env": options.env,
        "episodes": options.episodes,
        "seed": options.seed,
        "reference": None if outcome.reference is None else outcome.reference.ref,
        "agreement_states": outcome.states,
        "policies": policies,
        "random_return": floor.mean,
        "random_return_interval": [floor.low, floor.high],
        "returns": {"random": list(random)},
        "interrupted": outcome.interrupted,
    }
    if outcome.attack is not None:
        from agentkd.cli import eval_attack

        eval_attack.add(data, outcome.attack, outcome.assaults, _returns(reference), outcome.random)
    _add_headline(data, outcome)
    return data


def _policy(measured: Measured, reached: Interval, kept: Interval) -> dict[str, Any]:
    candidate, evaluation = measured.candidate, measured.evaluation
    latency = measured.latency
    return {
        "ref": candidate.ref,
        "kind": candidate.kind,
        "name": candidate.about,
        "digest": candidate.digest,
        "parameters": candidate.parameters,
        "return": reached.mean,
        "return_interval": [reached.low, reached.high],
        "retention": kept.mean,
        "retention_interval": [kept.low, kept.high],
        "retention_note": kept.reason,
        "agreement": measured.agreement,
        "decision_latency_us": None if latency is None else latency.summary(),
        "returns": [] if evaluation is None else list(evaluation.returns),
        "lengths": [] if evaluation is None else list(evaluation.lengths),
        "episodes_cut": 0 if evaluation is None else evaluation.cut,
        "seed": candidate.seed,
        "fault": measured.fault,
    }


def _add_headline(data: dict[str, Any], outcome: Comparison) -> None:
    """Put the reference's and the first executor's figures where programs look."""
    by_candidate = {
        id(each.candidate): policy
        for each, policy in zip(outcome.measured, data["policies"], strict=True)
    }
    planner = by_candidate.get(id(outcome.reference))
    if planner is not None:
        data["planner_name"] = planner["name"]
        data["planner_return"] = planner["return"]
        data["planner_return_interval"] = planner["return_interval"]
        data["planner_parameters"] = planner["parameters"]
        data["returns"]["planner"] = planner["returns"]
    executor = next(
        (p for p in data["policies"] if p["kind"] == "executor" and p is not planner), None
    )
    if executor is not None:
        data["executor_return"] = executor["return"]
        data["executor_return_interval"] = executor["return_interval"]
        data["executor_parameters"] = executor["parameters"]
        data["architecture"] = executor["name"].removeprefix("executor ")
        data["returns"]["executor"] = executor["returns"]
        for key in ("retention", "retention_interval", "agreement"):
            data[key] = executor[key]
        data["decision_latency_us"] = executor["decision_latency_us"]


def _number(value: float, digits: int = 1) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def _time(us: float) -> str:
    return f"{us:,.1f}" if us < 100 else f"{us:,.0f}"


def _interval(pair: Sequence[float]) -> str:
    if any(math.isnan(end) for end in pair):
        return ""
    digits = 1 if max(abs(end) for end in pair) < 1000 else 0
    return " … ".join(f"{end:,.{digits}f}" for end in pair)


def _cells(policy: dict[str, Any]) -> list[str]:
    name = f"{policy['ref']} ({policy['name']})"
    if policy["fault"]:
        return [name, "failed", *[""] * 5]
    latency = policy["decision_latency_us"]
    times = ""
    if latency is not None and latency["count"]:
        times = " / ".join(_time(latency[key]) for key in ("p50", "p99", "p99.9"))
    return [
        name,
        _number(policy["return"]),
        _interval(policy["return_interval"]),
        _number(policy["retention"], 3),
        _number(policy["agreement"], 3),
        f"{policy['parameters']:,}" if policy["parameters"] else "",
        times,
    ]


def _caption(options: Options, outcome: Comparison) -> str:
    agreed = (
        f" Agreement on {outcome.states:,} states that {outcome.reference.ref} visited."
        if outcome.reference is not None
        else ""
    )
    return (
        f"{options.episodes} episodes each, from seed {options.seed}. Retention: 0 is "
        f"random actions, 1 the reference.{agreed}"
    )


def _notes(options: Options, outcome: Comparison) -> list[str]:
    """What a reader has to know to read the table rightly."""
    notes = []
    if outcome.interrupted:
        notes.append("Interrupted: these are the policies measured until then.")
    if outcome.reference is None:
        notes.append("No planner to compare with: give one, or name a policy with --reference.")
    for each in outcome.measured:
        candidate = each.candidate
        name = f"{candidate.ref} ({candidate.about})"
        if each.fault:
            notes.append(f"{name} failed: {each.fault}")
        if each.evaluation is not None and each.evaluation.cut:
            notes.append(f"{name}: {each.evaluation.cut} episodes were cut off.")
        if candidate.kind == "saved" and (
            candidate.seed != options.seed or len(candidate.returns) != options.episodes
        ):
            first = "unknown" if candidate.seed is None else candidate.seed
            notes.append(
                f"{name} lived other episodes: {len(candidate.returns)}, from seed {first}."
            )
    return notes


def _plots(data: dict[str, Any]) -> tuple[Plot, ...]:
    series = []
    for policy in data["policies"]:
        if policy["returns"]:
            low, high = policy["return_interval"]
            name = f"{policy['ref']} ({policy['name']})"
            series.append(Series(name, policy["returns"], [policy["return"]], [low], [high]))
    floor = data["returns"]["random"]
    if floor:
        low, high = data["random_return_interval"]
        series.append(Series("random actions", floor, [data["random_return"]], [low], [high]))
    if not series:
        return ()
    note = "A dot is an episode; the diamond is the mean, the bar its 95 % interval."
    return (Plot("Returns", "return", "", tuple(series), note, kind="rows"),)


def _print(
    view: EvalView, data: dict[str, Any], rows: Sequence[Sequence[str]], notes: list[str]
) -> None:
    console = view.console
    wide = console.width >= _WIDE
    if not wide:
        # Names do not fit beside the figures: they get numbers, and stand above.
        for index, policy in enumerate(data["policies"], 1):
            size = f", {policy['parameters']:,} parameters" if policy["parameters"] else ""
            text = f"{index:>2}  {policy['ref']}  ({policy['name']}{size})"
            console.print(Text(text), soft_wrap=True)
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.add_column("policy" if wide else "", overflow="fold", min_width=6)
    for column in (*_COLUMNS[1:-1], "p50 µs", "p99", "p99.9"):
        if wide or column != "parameters":
            grid.add_column(column.replace("agreement", "agrees"), justify="right")
    for index, row in enumerate(rows, 1):
        name, *figures, times = row
        if not wide:
            name = "random" if index > len(data["policies"]) else f"{index:>2}"
            figures.pop()
        cells = [name, *figures, *(times.split(" / ") if times else [""] * 3)]
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(grid)
    if data["reference"] is not None:
        text = f"Retention and agreement are against {data['reference']}."
        console.print(Text(text, "dim"))
    for note in notes:
        console.print(Text(note, "yellow"))
