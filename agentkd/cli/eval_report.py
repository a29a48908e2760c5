"""The report of `agentkd eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agentkd.cli.options.eval import Options
from agentkd.cli.returns import COLUMNS, add_headline, cells, reached
from agentkd.measure.evaluate import Evaluation
from agentkd.report.comparison import Candidate, Measured
from agentkd.report.model import Column, Plot, Report, Section, Series, Table

if TYPE_CHECKING:
    from agentkd.distillation.attack import Attack

_AGREES = Column("agreement", form=",.3f", help="With the reference, on states that it visited.")
_ALL = (
    *("policy", *COLUMNS, _AGREES, Column("parameters", form=",", spare=True)),
    Column("p50", "µs", ",.1f", "One decision, the median."),
    *(Column("p99", form=",.1f"), Column("p99.9", form=",.1f")),
)
_SHARE = Column("attacked", form=",.3f")
_BOTH = (
    *("policy", COLUMNS[0], Column("attacked", form=",.1f")),
    *(COLUMNS[2], _SHARE, _AGREES, _SHARE),
)


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
        attacked: What came of it, for each policy; empty if it was interrupted.
    """

    random: Evaluation | None
    measured: tuple[Measured, ...]
    reference: Candidate | None
    states: int
    interrupted: bool
    attack: Attack | None = None
    attacked: tuple[Measured, ...] = ()


def report(options: Options, outcome: Comparison) -> Report:
    """Return what was measured as a report."""
    random = () if outcome.random is None else outcome.random.returns
    best = next(
        (
            _returns(each.evaluation)
            for each in outcome.measured
            if each.candidate is outcome.reference
        ),
        (),
    )
    policies = [
        _policy(each) | reached(_returns(each.evaluation), best, random)
        for each in outcome.measured
    ]
    data: dict[str, Any] = {
        "command": "eval",
        "env": options.env,
        "episodes": options.episodes,
        "seed": options.seed,
        "reference": None if outcome.reference is None else outcome.reference.ref,
        "agreement_states": outcome.states,
        "policies": policies,
        "interrupted": outcome.interrupted,
    }
    floor = reached(random, best, random)
    add_headline(data, "random", floor)
    sections = [_side_by_side(options, outcome, policies, floor)]
    if outcome.attack is not None:
        data["attack"] = asdict(outcome.attack)
        for policy, each in zip(policies, outcome.attacked, strict=False):
            off = reached(_returns(each.evaluation), best, random)
            policy["attacked"] = off | {"agreement": each.agreement, "note": each.fault}
        sections.append(_under_attack(data))
    _add_headline(data)
    return Report(data, sections)


def _returns(lived: Evaluation | None) -> tuple[float, ...]:
    return () if lived is None else lived.returns


def _policy(measured: Measured) -> dict[str, Any]:
    candidate, lived, latency = (measured.candidate, measured.evaluation, measured.latency)
    return {
        "ref": candidate.ref,
        "kind": candidate.kind,
        "name": candidate.about,
        "digest": candidate.digest,
        "parameters": candidate.parameters,
        "agreement": measured.agreement,
        "decision_latency_us": None if latency is None else latency.summary(),
        "lengths": [] if lived is None else list(lived.lengths),
        "episodes_cut": 0 if lived is None else lived.cut,
        "seed": candidate.seed,
        "fault": measured.fault,
    }


def _add_headline(data: dict[str, Any]) -> None:
    """Put the reference's and the first executor's figures where programs look."""
    policies = data["policies"]
    planner = policies[0] if policies and data["reference"] is not None else None
    if planner is not None:
        data["planner_name"] = planner["name"]
        data["planner_parameters"] = planner["parameters"]
        add_headline(data, "planner", planner)
    for each in policies:
        if each["kind"] == "executor" and each is not planner:
            data["executor_parameters"] = each["parameters"]
            data["architecture"] = each["name"].removeprefix("executor ")
            data |= {key: each[key] for key in ("agreement", "decision_latency_us")}
            add_headline(data, "executor", each)
            return


def _name(policy: dict[str, Any]) -> str:
    return f"{policy['ref']} ({policy['name']})"


def _side_by_side(
    options: Options, outcome: Comparison, policies: list[dict[str, Any]], floor: dict[str, Any]
) -> Section:
    rows: list[list[Any]] = []
    for each in policies:
        latency = each["decision_latency_us"] or {}
        times = [latency.get(key) for key in ("p50", "p99", "p99.9")]
        figures = ["failed", None, None] if each["fault"] else cells(each)
        size = each["parameters"] or None
        rows.append([_name(each), *figures, each["agreement"], size, *times])
    if outcome.random is not None:
        rows.append(["random actions", *cells(floor), *[None] * 5])
    shown = [*((_name(each), each) for each in policies), ("random actions", floor)]
    plot = Plot(
        "Returns",
        "return",
        "",
        tuple(
            Series(name, p["returns"], [p["return"]], *zip(p["return_interval"]))
            for name, p in shown
            if p["returns"]
        ),
        "A dot is an episode; the diamond is the mean, the bar its 95 % interval.",
        kind="rows",
    )
    caption = (
        f"{options.episodes} episodes each, from seed {options.seed}. Retention: 0 is "
        "random actions, 1 the reference."
    )
    if outcome.reference is not None:
        caption += f" Agreement on {outcome.states:,} states that {outcome.reference.ref} visited."
    table = Table(_ALL, rows, caption)
    notes = tuple(_notes(options, outcome))
    return Section("Side by side", "", table, (plot,), notes)


def _notes(options: Options, outcome: Comparison) -> Sequence[str]:
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


def _under_attack(data: dict[str, Any]) -> Section:
    rows, notes = [], []
    for policy in data["policies"]:
        off = policy.get("attacked", {})
        if off.get("returns"):
            pairs = [(policy[k], off[k]) for k in ("return", "retention", "agreement")]
            rows.append([_name(policy), *(value for pair in pairs for value in pair)])
        if off.get("note"):
            notes.append(f"{policy['ref']} was not attacked: {off['note']}")
    attack = data["attack"]
    steps = f" in {attack['steps']} steps" if attack["by"] == "pgd" else ""
    title = f"Under {attack['by']} of {attack['eps']:g}{steps}, beside without"
    caption = (
        "In units of the spread of each number of an observation. Retention is against "
        "the reference without attack."
    )
    return Section(title, "", Table(_BOTH, rows, caption), notes=tuple(notes))
