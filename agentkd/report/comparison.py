"""Policies side by side: planners, executors, and returns of earlier reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentkd.errors import AgentkdError, ConfigError
from agentkd.executors.executor import Executor
from agentkd.measure.agreement import Sample
from agentkd.measure.evaluate import Evaluation, evaluate
from agentkd.measure.forms import acting_form, policy_form
from agentkd.measure.latency import Form, Latency, measure, observations
from agentkd.planners import Planner, load_planner
from agentkd.report.model import Column, Report, Section, Table
from agentkd.report.returns import COLUMNS, add_headline, cells, episodes_plot, kept_plots, reached
from agentkd.report.write import read_report
from agentkd.spec import Spec

if TYPE_CHECKING:
    from agentkd.distillation.attack import Attack

Kind = Literal["planner", "executor", "saved"]

_REPORT = "report.json"
_TOLD = ("ref", "kind", "digest", "parameters", "seed", "agreement", "fault")
"""Fields of a candidate that a report repeats."""
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
class Candidate:
    """Something to compare, and what was measured of it.

    Attributes:
        ref: What the user called it.
        about: What it is, such as "PPO" or "arm runtime".
        planner: What acts; None for what is saved.
        parameters: How many trained numbers act; 0 when unknown.
        digest: SHA-256 of its file, "" when there is none.
        seed: The first seed that saved returns were measured on; None if unknown.
        evaluation: Its episodes; those of a report have no lengths. None after a fault.
        agreement: With the reference on states the reference visited; NaN if unknown.
        latency: Of one decision; None where nothing acts.
        fault: What went wrong, "" if nothing did.
    """

    ref: str
    kind: Kind
    about: str
    planner: Planner | None
    parameters: int = 0
    digest: str = ""
    seed: int | None = None
    evaluation: Evaluation | None = None
    agreement: float = math.nan
    latency: Latency | None = None
    fault: str = ""

    @property
    def returns(self) -> tuple[float, ...]:
        """Of its episodes; () before them, or after a fault."""
        return () if self.evaluation is None else self.evaluation.returns

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.ref} ({self.about})"


def candidates(ref: str, env: str, spec: Spec, access: Mapping[str, Any]) -> list[Candidate]:
    """Load the policies that a reference names, for `load_planner` or to a report.json.

    A report has to be about `env`, and a policy to fit `spec`. `access` are `load_planner`'s own
    options, by name.

    Raises:
        AgentkdError: If it leads nowhere, is damaged, or is for another environment.
    """
    path = Path(ref)
    if path.name.endswith(".json"):
        return saved(path, ref, env)
    if (path / _REPORT).is_file():
        return saved(path / _REPORT, ref, env)
    known = load_planner(ref, spec, **access)
    kind: Kind = "executor" if isinstance(known.policy, Executor) else "planner"
    return [Candidate(ref, kind, known.name, known, known.parameters, known.digest)]


def saved(path: Path, ref: str, env: str) -> list[Candidate]:
    """Return the policies of an earlier report, with their returns.

    Raises:
        LoadError: If it is not a report.
        ConfigError: If it holds no returns, or is of another environment.
    """
    data = read_report(path)
    if data.get("env") != env:
        raise ConfigError(f"{path} is about {data.get('env') or 'no environment'}, not {env}.")
    seed = data.get("eval_seed", data.get("seed"))
    found = []
    for name, returns, size in _policies(data):
        numbers = isinstance(returns, list) and all(
            isinstance(each, (int, float)) for each in returns
        )
        if numbers and returns:
            known = max(0, size) if isinstance(size, int) else 0
            first = seed if isinstance(seed, int) else None
            lived = Evaluation(tuple(map(float, returns)), ())
            one = Candidate(ref, "saved", name, None, known, seed=first, evaluation=lived)
            found.append(one)
    if not found:
        raise ConfigError(
            f"{path} holds no returns: it is of the command "
            f"{data.get('command', '?')!r}. Reports of distill, run and eval do."
        )
    return found


def _policies(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, returns and parameters of each policy in a report, unchecked."""

    def items(key: str) -> list[tuple[str, Any]]:
        value = data.get(key)
        return list(value.items()) if isinstance(value, Mapping) else []

    for name, returns in sorted(items("returns"), reverse=True):
        if name in ("planner", "executor"):
            yield name, returns, data.get(f"{name}_parameters")
    for name, arm in items("arms"):
        if isinstance(arm, Mapping):
            size = data.get(f"{name}_parameters")
            yield f"arm {name}", arm.get("returns"), size
    policies = data.get("policies")
    for each in policies if isinstance(policies, list) else []:
        if isinstance(each, Mapping):
            yield str(each.get("ref")), each.get("returns"), each.get("parameters")


def live(candidate: Candidate, env: str, **how: Any) -> Candidate:
    """Let a candidate live its episodes, as `evaluate` does; what it raises is its fault."""
    if candidate.planner is None:
        return candidate
    try:
        return replace(candidate, evaluation=evaluate(env, candidate.planner.policy, **how))
    except AgentkdError as error:
        return replace(candidate, fault=str(error))


def timed(
    found: Sequence[Candidate], sample: Sample, spec: Spec, *, seconds: float
) -> list[Candidate]:
    """Time one decision of each candidate that acts and has no fault, in turns, `seconds` each.

    Observations are the sample's, or made up where it is empty.
    """
    forms: dict[int, Form] = {}
    for index, each in enumerate(found):
        if each.planner is None or each.fault:
            continue
        policy = each.planner.policy
        if isinstance(policy, Executor):
            forms[index] = acting_form(policy)
        else:
            forms[index] = policy_form("planner", policy, spec)
    obs = sample.obs[:64] if sample.size else observations(spec)
    times = measure(list(forms.values()), obs, seconds=seconds, rounds=10)
    by_index = dict(zip(forms, times, strict=True))
    return [replace(each, latency=by_index.get(index)) for index, each in enumerate(found)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was measured.

    Attributes:
        seed: Of the first episode.
        random: Random actions; None if it ended before.
        measured: The policies, the reference first.
        reference: What retention and agreement are against; None if there is none.
        states: How many states agreement was taken on.
        attack: What observations were attacked with; None if they were not.
        attacked: What came of it, for each policy; empty if it was interrupted.
    """

    env: str
    episodes: int
    seed: int
    random: Evaluation | None
    measured: tuple[Candidate, ...]
    reference: Candidate | None
    states: int
    interrupted: bool
    attack: Attack | None = None
    attacked: tuple[Candidate, ...] = ()

    def report(self) -> Report:
        """Return what was measured as a report."""
        random = () if self.random is None else self.random.returns
        best = self.measured[0].returns if self.measured and self.reference is not None else ()
        policies = [_policy(each) | reached(each.returns, best, random) for each in self.measured]
        data: dict[str, Any] = {
            "command": "eval",
            **{name: getattr(self, name) for name in ("env", "episodes", "seed", "interrupted")},
            "reference": None if self.reference is None else self.reference.ref,
            "agreement_states": self.states,
            "policies": policies,
        }
        floor = reached(random, best, random)
        add_headline(data, "random", floor)
        sections = [self._side_by_side(policies, floor)]
        if self.attack is not None:
            data["attack"] = asdict(self.attack)
            for policy, each in zip(policies, self.attacked, strict=False):
                off = reached(each.returns, best, random)
                policy["attacked"] = off | {"agreement": each.agreement, "note": each.fault}
            sections.append(_under_attack(data))
        _add_headlines(data)
        shown = {_name(each): each for each in policies} | {"random actions": floor}
        return Report(data, sections, lead=_lead(data), picture=episodes_plot(shown))

    def _side_by_side(self, policies: list[dict[str, Any]], floor: dict[str, Any]) -> Section:
        rows: list[list[Any]] = []
        for each in policies:
            latency = each["decision_latency_us"] or {}
            times = [latency.get(key) for key in ("p50", "p99", "p99.9")]
            figures = ["failed", None, None] if each["fault"] else cells(each)
            size = each["parameters"] or None
            rows.append([_name(each), *figures, each["agreement"], size, *times])
        if self.random is not None:
            rows.append(["random actions", *cells(floor), *[None] * 5])
        caption = (
            f"{self.episodes} episodes each, from seed {self.seed}. Retention: 0 is "
            "random actions, 1 the reference."
        )
        if self.reference is not None:
            caption += f" Agreement on {self.states:,} states that {self.reference.ref} visited."
        table = Table(_ALL, rows, caption)
        plots = tuple(kept_plots({_name(each): each for each in policies}))
        return Section("Side by side", "", table, plots, tuple(self._notes()))

    def _notes(self) -> Iterator[str]:
        if self.interrupted:
            yield "Interrupted: these are the policies measured until then."
        if self.reference is None:
            yield "No planner to compare with: give one, or name a policy with --reference."
        for each in self.measured:
            if each.fault:
                yield f"{each.name} failed: {each.fault}"
            if each.evaluation is not None and each.evaluation.cut:
                yield f"{each.name}: {each.evaluation.cut} episodes were cut off."
            lived = each.seed, len(each.returns)
            if each.kind == "saved" and lived != (self.seed, self.episodes):
                first = "unknown" if each.seed is None else each.seed
                yield f"{each.name} lived other episodes: {lived[1]}, from seed {first}."


def _lead(data: Mapping[str, Any]) -> str:
    """Say what the first policy beside the reference keeps of it; "" where that is not known."""
    if data["reference"] is None:
        return ""
    for each in data["policies"][1:]:
        low, high = each["retention_interval"]
        if math.isfinite(each["retention"]) and math.isfinite(low) and math.isfinite(high):
            return (
                f"{each['ref']} keeps {each['retention']:.1%} of what {data['reference']} returns "
                f"(95 % interval {low:.1%} … {high:.1%}). Its mean return is {each['return']:,.1f} "
                f"over {len(each['returns'])} episodes, the reference's "
                f"{data['policies'][0]['return']:,.1f}."
            )
    return ""


def _policy(each: Candidate) -> dict[str, Any]:
    lived, latency = each.evaluation, each.latency
    return {
        **{name: getattr(each, name) for name in _TOLD},
        "name": each.about,
        "decision_latency_us": None if latency is None else latency.summary(),
        "lengths": [] if lived is None else list(lived.lengths),
        "episodes_cut": 0 if lived is None else lived.cut,
    }


def _add_headlines(data: dict[str, Any]) -> None:
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
