"""Policies side by side: planners, executors, and returns of earlier reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentkd.errors import AgentkdError, ConfigError
from agentkd.executors.executor import Executor
from agentkd.measure.agreement import Sample
from agentkd.measure.evaluate import Evaluation, Watch, evaluate
from agentkd.measure.forms import acting_form, policy_form
from agentkd.measure.latency import Form, Latency, measure, observations
from agentkd.planners import Planner, load_planner
from agentkd.report.write import read_report
from agentkd.spec import Spec

Kind = Literal["planner", "executor", "saved"]

_REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something to compare.

    Attributes:
        ref: What the user called it.
        kind: Whether it acts now, or its returns are those of an earlier report.
        about: What it is, such as "PPO" or "arm runtime".
        planner: What acts; None for what is saved.
        returns: What it reached, where that is saved.
        parameters: How many trained numbers act; 0 when unknown.
        digest: SHA-256 of its file, "" when there is none.
        seed: The first seed that the saved returns were measured on; None if unknown.
    """

    ref: str
    kind: Kind
    about: str
    planner: Planner | None
    returns: tuple[float, ...] = ()
    parameters: int = 0
    digest: str = ""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate and what was measured.

    Attributes:
        candidate: Of whom.
        evaluation: Its episodes; those of a report have no lengths. None after a fault.
        agreement: With the reference on states the reference visited; NaN if unknown.
        latency: Of one decision; None where nothing acts.
        fault: What went wrong, "" if nothing did.
    """

    candidate: Candidate
    evaluation: Evaluation | None
    agreement: float = math.nan
    latency: Latency | None = None
    fault: str = ""


def candidates(ref: str, env: str, spec: Spec, access: Mapping[str, Any]) -> list[Candidate]:
    """Load the policies that a reference names.

    Args:
        ref: A planner's reference, an executor file, a report.json, or a folder with one.
        env: The environment's name, which a report has to be about.
        spec: The environment, which a policy has to fit.
        access: How references are read: `load_planner`'s own options, by name.

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
    return [Candidate(ref, kind, known.name, known, (), known.parameters, known.digest)]


def saved(path: Path, ref: str, env: str) -> list[Candidate]:
    """Return the policies of an earlier report, with their returns.

    Raises:
        LoadError: If it is no report.
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
            candidate = Candidate(
                ref=ref,
                kind="saved",
                about=name,
                planner=None,
                returns=tuple(map(float, returns)),
                parameters=max(0, size) if isinstance(size, int) else 0,
                seed=seed if isinstance(seed, int) else None,
            )
            found.append(candidate)
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


def live(
    candidate: Candidate,
    env: str,
    spec: Spec,
    *,
    episodes: int,
    seed: int,
    progress: Watch | None = None,
    visited: Sample | None = None,
) -> Measured:
    """Let a candidate live its episodes; what it raises is in `Measured.fault`."""
    if candidate.planner is None:
        return Measured(candidate, Evaluation(candidate.returns, ()))
    try:
        evaluation = evaluate(
            env,
            candidate.planner.policy,
            episodes=episodes,
            seed=seed,
            spec=spec,
            progress=progress,
            visited=visited,
        )
    except AgentkdError as error:
        return Measured(candidate, None, fault=str(error))
    return Measured(candidate, evaluation)


def latencies(
    found: Sequence[Candidate], sample: Sample, spec: Spec, *, seconds: float
) -> list[Latency | None]:
    """Time one decision of each candidate that acts, in turns, `seconds` each.

    Observations are the sample's, or made up where it is empty.
    """
    forms: dict[int, Form] = {}
    for index, each in enumerate(found):
        if each.planner is None:
            continue
        policy = each.planner.policy
        if isinstance(policy, Executor):
            forms[index] = acting_form(policy)
        else:
            forms[index] = policy_form("planner", policy, spec)
    obs = sample.obs[:64] if sample.size else observations(spec)
    times = measure(list(forms.values()), obs, seconds=seconds, rounds=10)
    by_index = dict(zip(forms, times, strict=True))
    return [by_index.get(index) for index in range(len(found))]
