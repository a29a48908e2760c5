"""The same policies on observations that are off, beside what they were without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.distillation.attack import Assault, Attack, Attacked, units
from agentkd.errors import AgentkdError, ConfigError
from agentkd.measure.agreement import Sample, agreement_with
from agentkd.measure.evaluate import Evaluation, evaluate
from agentkd.measure.intervals import mean_interval, retention
from agentkd.report.comparison import Candidate, Measured
from agentkd.report.report import Section, Table

if TYPE_CHECKING:
    from agentkd.cli.eval import Options
    from agentkd.cli.eval_view import EvalView
    from agentkd.spec import Spec

_COLUMNS = ("policy", "return", "attacked", "retention", "attacked", "agreement", "attacked")


def attack_of(options: Options) -> Attack | None:
    """Give the attack that is asked for, if one is.

    Raises:
        ConfigError: If it is invalid.
    """
    if options.attack is None:
        return None
    return Attack(options.attack, options.epsilon, options.attack_steps)


def whose_states(found: Sequence[Candidate], reference: Candidate | None) -> Candidate | None:
    """Whose visited states an attack's size is counted in: the first that acts.

    Raises:
        ConfigError: If nobody does.
    """
    if reference is not None:
        return reference
    for each in found:
        if each.planner is not None:
            return each
    raise ConfigError("--attack needs a policy that acts; these are earlier reports.")


def assault(
    options: Options,
    attack: Attack,
    done: Sequence[Measured],
    seen: Sample,
    agreed: Sample,
    spec: Spec,
    view: EvalView,
) -> tuple[Assault, ...]:
    """Let every policy live its episodes again, under attack.

    Args:
        options: The command's.
        attack: What is done to observations.
        done: What lived without it.
        seen: States of which the spread is the attack's unit.
        agreed: What the reference did, and where.
        spec: The environment.
        view: Where to show how far it is.
    """
    out: list[Assault] = []
    for each in done:
        planner = each.candidate.planner
        if planner is None or each.fault or not seen.size:
            out.append(Assault(None))
            continue
        try:
            unit = units(seen.obs, spec.obs)
            policy = Attacked(planner.policy, attack, unit, options.seed)
            with view.watch(f"{each.candidate.ref} under {attack.by}") as watch:
                got = evaluate(
                    options.env,
                    policy,
                    episodes=options.episodes,
                    seed=options.seed,
                    spec=spec,
                    progress=watch,
                )
            out.append(Assault(got, agreement_with(agreed, policy, spec)))
        except AgentkdError as error:
            out.append(Assault(None, why=str(error)))
    return tuple(out)


def add(
    data: dict[str, Any],
    attack: Attack,
    assaults: Sequence[Assault],
    reference: Sequence[float],
    random: Evaluation | None,
) -> None:
    """Put what was measured under attack into a report's data, policy by policy.

    Args:
        data: The report's.
        attack: What was done.
        assaults: What came of it, in the order of the policies.
        reference: Returns of the reference without attack.
        random: Random actions.
    """
    data["attack"] = asdict(attack)
    floor = () if random is None else random.returns
    for policy, each in zip(data["policies"], assaults, strict=False):
        returns = () if each.evaluation is None else each.evaluation.returns
        reached, kept = mean_interval(returns), None
        if returns and reference and floor:
            kept = retention(returns, reference, floor)
        policy["attacked"] = {
            "return": reached.mean,
            "return_interval": [reached.low, reached.high],
            "retention": math.nan if kept is None else kept.mean,
            "retention_interval": [math.nan] * 2 if kept is None else [kept.low, kept.high],
            "agreement": each.agreement,
            "returns": list(returns),
            "note": each.why,
        }


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def _rows(data: dict[str, Any]) -> list[list[str]]:
    rows = []
    for policy in data["policies"]:
        off = policy.get("attacked")
        if off is None or not off["returns"]:
            continue
        cells = [f"{policy['ref']} ({policy['name']})"]
        for key, digits in (("return", 1), ("retention", 3), ("agreement", 3)):
            cells += [_number(policy[key], digits), _number(off[key], digits)]
        rows.append(cells)
    return rows


def _title(data: dict[str, Any]) -> str:
    attack = data["attack"]
    steps = f" in {attack['steps']} steps" if attack["by"] == "pgd" else ""
    return f"Under {attack['by']} of {attack['eps']:g}{steps}"


def _notes(data: dict[str, Any]) -> list[str]:
    return [
        f"{policy['ref']} was not attacked: {policy['attacked']['note']}"
        for policy in data["policies"]
        if policy.get("attacked", {}).get("note")
    ]


def section(data: dict[str, Any]) -> Section:
    """Both side by side, for the report."""
    caption = (
        "In units of the spread of each number of an observation. Retention is against "
        "the reference without attack."
    )
    return Section(_title(data), " ".join(_notes(data)), Table(_COLUMNS, _rows(data), caption))


def show(console: Console, data: dict[str, Any]) -> None:
    """Both side by side, on screen."""
    console.print(Text(f"{_title(data)}, beside without", "bold"))
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(_COLUMNS):
        name = column.replace("agreement", "agrees")
        grid.add_column(name, justify="right" if index else "left", overflow="fold", min_width=6)
    for row in _rows(data):
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)
    for note in _notes(data):
        console.print(Text(note, "yellow"))
