"""The contract of an executor's numbers: names, units, order, clock, memory.

It is written into the bundle's manifest beside the formulas by which observations are normalised
and actions scaled, both inside the executor, so that a device's maker needs nothing but the
manifest to connect sensors and motors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.dists import action_width
from agentkd.errors import BundleError, ConfigError
from agentkd.executors.executor import Executor, Head
from agentkd.fields import Fields
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, Spec

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
    """What the numbers of an executor mean, as far as its maker told."""

    obs_names: tuple[str, ...] = ()
    """Of the observation's numbers, in their order; () if untold."""
    obs_units: tuple[str, ...] = ()
    """Likewise, such as "m/s"; "" for a number without a unit."""
    action_names: tuple[str, ...] = ()
    """Of the action's numbers; of one choice, of what it chooses from; of several, of each."""
    action_units: tuple[str, ...] = ()
    """Of the action's numbers."""
    period: float | None = None
    """Of the control clock, seconds; None if untold."""


def check(contract: Contract, spec: Spec) -> None:
    """Make sure that a contract fits an environment.

    Raises:
        ConfigError: If there are more or fewer names or units than numbers, a name stands twice or
            cannot be one, or the period is not a time.
    """
    named = _named(spec.action)
    numbers = named if isinstance(spec.action, BoxSpec) else 0
    for field, wanted in (
        ("obs_names", spec.obs.size),
        ("obs_units", spec.obs.size),
        ("action_names", named),
        ("action_units", numbers),
    ):
        words, what = getattr(contract, field), field.replace("_", " ")
        if words and len(words) != wanted:
            raise ConfigError(
                f"{len(words)} {what} for {wanted} numbers or "
                "choices: give each its own, in order, or none."
            )
        _check_words(what, words, names="names" in field)
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
    return action.n if isinstance(action, DiscreteSpec) else action_width(action)


def to_json(contract: Contract, executor: Executor) -> dict[str, Any]:
    """Write a contract as the manifest holds it.

    Raises:
        ConfigError: As `check`.
    """
    check(contract, executor.spec)
    action, memory = executor.spec.action, executor.memory
    return {
        "observation": {
            "size": executor.spec.obs.size,
            "names": list(contract.obs_names),
            "units": list(contract.obs_units),
        },
        "normaliser": {"formula": NORMALISER, "clip": executor.clip},
        "action": {
            "size": action_width(action),
            "names": list(contract.action_names),
            "units": list(contract.action_units),
            "scaling": _SCALING[executor.head],
        },
        "period": contract.period,
        "memory": {"size": memory, "reset": RESET if memory else ""},
    }


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
    told = [each.whole("size") for each in (obs, action, fields.fields("memory"))]
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
    """Read a contract from names such as "obs=x,y" and units such as "obs=m,,rad".

    Observation and action come at most once; an empty unit is none. `period` is in seconds.

    Raises:
        ConfigError: If a word does not begin with obs= or action=, or does so twice.
    """
    known = ("obs_names", "obs_units", "action_names", "action_units")
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
    return Contract(**found, period=period)
