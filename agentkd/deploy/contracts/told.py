"""A contract as a file tells it, and what the readers and writers of such files share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.deploy.contract import VECTORS, Contract, ObsTerm, check_words
from agentkd.errors import ConfigError, LoadError
from agentkd.fields import Fields
from agentkd.sizes import MOST

FURTHEST = 3.4028234663852886e38
"""Stands for a bound that there is not: float32's greatest number."""

UNCLIPPED = (-FURTHEST, FURTHEST)
"""The clip of a term of which a file says that nothing is cut off."""


@dataclass(frozen=True, slots=True)
class Told:
    """A contract, and how many numbers go in and out where that is told; None where it is not.

    With `more` the observation may have more terms: `obs_size` is the least.
    """

    contract: Contract
    obs_size: int | None
    action_size: int | None
    more: bool = False


def told(contract: Contract, obs_size: int | None, action_size: int | None) -> Told:
    """Check what a file told.

    Raises:
        LoadError: If its parts do not go together.
    """
    try:
        check_words(contract)
    except ConfigError as error:
        raise LoadError(str(error)) from error
    described = contract.described
    if described is not None and obs_size is not None and described != obs_size:
        raise LoadError(f"its terms make up {described} numbers, and it says {obs_size}")
    vectors = {name: getattr(contract, name) for name in ("action_names", *VECTORS)}
    for name, values in vectors.items():
        if values and action_size is not None and len(values) != action_size:
            raise LoadError(
                f"{name.replace('_', ' ')} has {len(values)} numbers, and the action {action_size}"
            )
    if contract.period is not None and not 0 < contract.period < math.inf:
        raise LoadError(f"a control period of {contract.period} s")
    return Told(contract, obs_size if described is None else described, action_size)


def numbers(fields: Fields, name: str, count: int | None = None) -> tuple[float, ...]:
    """Read a number, which stands for `count`, a list of numbers, or None: ().

    Of a list of lists the first is read: simulators write one for each environment.
    """
    value = fields.get(name, None)
    if value is None:
        return ()
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return Fields({name: value[0]}, name).numbers(name)
        return fields.numbers(name)
    return (fields.number(name),) * (1 if count is None else count)


def pair(fields: Fields, name: str) -> tuple[float, float] | None:
    """Read two bounds; None where they are untold, UNCLIPPED where there are none."""
    if name not in fields:
        return None
    value = fields.get(name)
    if value is None:
        return UNCLIPPED
    if not isinstance(value, list) or len(value) != 2:
        raise LoadError(f"{name!r} is {value!r:.60}, not two numbers")
    return bounds(value[0], value[1]) or UNCLIPPED


def clip_of(term: ObsTerm) -> list[float] | None:
    """Return where a term is cut off, as YAML has it; None where it is not, or that is untold."""
    return None if term.clip is None or term.clip == UNCLIPPED else list(term.clip)


def bounds(low: Any, high: Any) -> tuple[float, float] | None:
    """Check two bounds; None where both are infinite."""
    ends = (low, high)
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in ends):
        raise LoadError(f"bounds of {ends!r:.60}, not two numbers")
    if any(math.isnan(each) for each in ends) or low > high:
        raise LoadError(f"bounds of {low} and {high}")
    if all(map(math.isinf, ends)):
        return None
    return (max(float(low), -FURTHEST), min(float(high), FURTHEST))


def targets(action: Fields) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read the least and greatest targets of an action's "clip", a list of pairs; () for none."""
    clip = action.get("clip", None)
    if not clip:
        return (), ()
    pairs = clip if isinstance(clip, list) else [clip]
    ends = [bounds(*each) if isinstance(each, list) and len(each) == 2 else None for each in pairs]
    if None in ends:
        raise LoadError(f"the clip of the action is {clip!r:.60}, not two numbers for each")
    low, high = zip(*(each for each in ends if each), strict=True)
    return low, high


def past(length: int) -> tuple[int, ...]:
    """Return the ages of a history whose oldest observation comes first; 0 and 1 are none."""
    return tuple(range(max(length, 1)))[::-1]


def distinct(names: Iterable[str]) -> list[str]:
    """Number names that stand twice."""
    found: list[str] = []
    seen = Counter[str]()
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def scales(term: ObsTerm) -> list[float]:
    """Return one scale for each number of a term; 1 where none is told."""
    given = term.scale or (1.0,)
    return list(given) * (term.size or 1) if len(given) == 1 else list(given)


_CALLED = {
    "terms": "the observation's terms",
    "action_names": "the action's joints",
    "action_scale": "the action's scale",
    "action_offset": "the default pose",
    "stiffness": "the joints' stiffness",
    "damping": "the joints' damping",
    "slots": "the robot's numbers of the joints",
    "period": "the control period",
}


def need(tool: str, contract: Contract, *wanted: str) -> None:
    """Raise ConfigError if fields that a tool's file cannot do without are untold."""
    missing = [_CALLED[field] for field in wanted if not getattr(contract, field)]
    if any(each.size is None for each in contract.terms):
        missing.append("the terms' sizes")
    if missing:
        raise ConfigError(
            f"{tool} needs {', '.join(missing)}, and the executor's file does not tell. Make it "
            "with --contract FILE (agentkd freeze, agentkd distill), from a file that tells."
        )


def straight(tool: str, contract: Contract, order: str = "term") -> None:
    """Raise ConfigError where histories lie otherwise than a tool's: oldest first, `order`."""
    for each in contract.terms:
        if each.history != past(len(each.history)):
            raise ConfigError(
                f"{tool} gives the oldest observation first, and {each.name} has the ages "
                f"{list(each.history)}."
            )
    if contract.history != order and any(len(each.history) > 1 for each in contract.terms):
        raise ConfigError(
            f"{tool} lays histories out {order} after {order}, this contract "
            f"{contract.history} after {contract.history}."
        )


def translated(name: str, words: Mapping[str, str]) -> str:
    """Return the name of a term in other words, or as it is."""
    return words.get(name, name)


def named(contract: Contract) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name each number of the observation, with its unit, from its terms; () where they cannot."""
    terms = contract.terms
    if contract.described is None or contract.described > MOST // 64:
        return (), ()
    ages: Sequence[int] = terms[0].history
    if contract.history == "time" and any(each.history != ages for each in terms):
        return (), ()
    pairs = [
        (f"{term.name}.{part}" + (f"[-{age}]" if age else ""), term.units)
        for term, age in (
            [(term, age) for term in terms for age in term.history]
            if contract.history == "term"
            else [(term, age) for age in ages for term in terms]
        )
        for part in (term.parts or [str(index) for index in range(term.size or 0)])
    ]
    names, units = tuple(name for name, _ in pairs), tuple(unit for _, unit in pairs)
    if len(set(names)) < len(names) or any(len(name) > 64 for name in names):
        return (), ()
    return names, units if any(units) else ()
