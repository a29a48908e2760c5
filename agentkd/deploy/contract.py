"""The contract of an executor's numbers: names, units, order, clock, memory.

It is written into the bundle's manifest beside the formulas by which observations are normalised
and actions scaled, both inside the executor, so that a device's maker needs nothing but the
manifest to connect sensors and motors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from agentkd.errors import BundleError, ConfigError
from agentkd.executors.executor import Executor, Head
from agentkd.fields import Fields
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec

NORMALISER = "clip((obs - mean) * scale, -clip, clip)"
RESET = "zeros at the first step of an episode"
_SCALING: Mapping[Head, str] = {
    "categorical": "start + the place of the greatest score; of equal ones the first",
    "multicategorical": "for each choice the place of its greatest score",
    "bernoulli": "1 where the score is above 0, else 0",
    "squashed": "low + (tanh(y) + 1) / 2 * (high - low), within low and high",
    "clipped": "y, within low and high",
}
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Contract:
    """What the numbers of an executor mean, as far as its maker told.

    Attributes:
        obs_names: Of the observation's numbers, in their order; () if untold.
        obs_units: Likewise, such as "m/s"; "" for a number without a unit.
        action_names: Of the action's numbers; of one choice, of what it chooses from; of several
            choices, of the choices.
        action_units: Of the action's numbers.
        period: Of the control clock, seconds; None if untold.
    """

    obs_names: tuple[str, ...] = ()
    obs_units: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    action_units: tuple[str, ...] = ()
    period: float | None = None


def check(contract: Contract, spec: Spec) -> None:
    """Make sure that a contract fits an environment.

    Raises:
        ConfigError: If there are more or fewer names or units than numbers, a name stands twice or
            cannot be one, or the period is no time.
    """
    named = _named(spec.action)
    numbers = named if isinstance(spec.action, BoxSpec) else 0
    for field, wanted in (
        ("obs_names", spec.obs.size),
        ("obs_units", spec.obs.size),
        ("action_names", named),
        ("action_units", numbers),
    ):
        words = getattr(contract, field)
        if words and len(words) != wanted:
            raise ConfigError(
                f"{len(words)} {field.replace('_', ' ')} for {wanted} numbers or "
                "choices: give each its own, in order, or none."
            )
        _check_words(field.replace("_", " "), words, names="names" in field)
    period = contract.period
    if period is not None and not (math.isfinite(period) and period > 0):
        raise ConfigError(f"A period of {period} s: it has to be above 0.")


def _check_words(what: str, words: Sequence[str], *, names: bool) -> None:
    for word in words:
        if len(word) > _LONGEST or not word.isprintable() or (names and not word):
            raise ConfigError(
                f"{word!r} cannot stand among {what}: take up to {_LONGEST} printable characters."
            )
    twice = sorted({word for word in words if words.count(word) > 1})
    if names and twice:
        raise ConfigError(f"{twice[0]!r} stands twice among {what}.")


def _named(action: ActionSpec) -> int:
    """How many things of an action can be named."""
    match action:
        case DiscreteSpec(n, _) | MultiBinarySpec(n):
            return n
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case BoxSpec(low, _, _):
            return len(low)


def to_json(contract: Contract, executor: Executor) -> dict[str, Any]:
    """Write a contract as the manifest holds it.

    Raises:
        ConfigError: As `check`.
    """
    check(contract, executor.spec)
    memory = _memory(executor)
    return {
        "observation": {
            "size": executor.spec.obs.size,
            "names": list(contract.obs_names),
            "units": list(contract.obs_units),
        },
        "normaliser": {"formula": NORMALISER, "clip": executor.clip},
        "action": {
            "size": 1 if executor.head == "categorical" else _named(executor.spec.action),
            "names": list(contract.action_names),
            "units": list(contract.action_units),
            "scaling": _SCALING[executor.head],
        },
        "period": contract.period,
        "memory": {"size": memory, "reset": RESET if memory else ""},
    }


def _memory(executor: Executor) -> int:
    """How many numbers an executor remembers from step to step."""
    return executor.memory


def from_json(data: Any, executor: Executor) -> Contract:
    """Read what `to_json` wrote, for the executor that it is about.

    Raises:
        LoadError: If a field is missing or of another type.
        BundleError: If it is about another executor than this.
    """
    fields = Fields(data, "The contract")
    obs, action = fields.fields("observation"), fields.fields("action")
    known = fields.get("period") is not None
    contract = Contract(
        obs_names=obs.texts("names"),
        obs_units=obs.texts("units"),
        action_names=action.texts("names"),
        action_units=action.texts("units"),
        period=fields.number("period") if known else None,
    )
    told = [obs.whole("size"), action.whole("size")]
    told += [fields.fields("memory").whole("size")]
    clip = fields.fields("normaliser").number("clip")
    try:
        true = to_json(contract, executor)
    except ConfigError as error:
        raise BundleError(f"Its contract does not fit: {error}") from error
    wanted = [true[name]["size"] for name in ("observation", "action", "memory")]
    if told != wanted or clip != executor.clip:
        raise BundleError(
            "Its contract is about another executor: sizes of observation, action and "
            f"memory are {told}, and clip {clip}, not {wanted} and {executor.clip}."
        )
    return contract


def parse(names: Sequence[str], units: Sequence[str], period: float | None) -> Contract:
    """Read a contract from words such as "obs=x,y" and "action=left,right".

    Args:
        names: Of observation and action, each at most once.
        units: Likewise; an empty one is none: "obs=m,,rad".
        period: In seconds.

    Raises:
        ConfigError: If a word does not begin with obs= or action=, or does so twice.
    """
    known = [each.name for each in fields(Contract) if each.name != "period"]
    found: dict[str, tuple[str, ...]] = {}
    for kind, words in (("names", names), ("units", units)):
        for word in words:
            what, equals, rest = word.partition("=")
            key = f"{what.strip()}_{kind}"
            if not equals or key not in known:
                raise ConfigError(f"--{kind} {word!r}: write obs=x,y or action=u,v.")
            if key in found:
                raise ConfigError(f"--{kind} {what.strip()}= stands twice.")
            found[key] = tuple(each.strip() for each in rest.split(","))
    return Contract(
        obs_names=found.get("obs_names", ()),
        obs_units=found.get("obs_units", ()),
        action_names=found.get("action_names", ()),
        action_units=found.get("action_units", ()),
        period=period,
    )
