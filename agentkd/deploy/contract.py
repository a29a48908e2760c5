"""The contract of an executor's numbers: names, units, order, scaling, history, clock, memory.

It is written into the bundle's manifest beside the formulas by which observations are normalised
and actions scaled, both inside the executor, so that a device's maker needs nothing but the
manifest to connect sensors and motors. What a robot does outside the executor is in it, too: how it
makes the observation of terms, and a joint's target of an action. `agentkd.deploy.contracts` reads
and writes the files in which other tools tell the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_args

from agentkd.dists import action_width
from agentkd.errors import BundleError, ConfigError, LoadError, check_range
from agentkd.executors.executor import Executor, Head
from agentkd.fields import Fields
from agentkd.sizes import MOST
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
_MOST_TERMS = 1024
HIGHEST_SLOT = 4096
"""Of the numbers that a robot knows its joints by."""
OLDEST = 1023
"""The greatest age of what an observation repeats, in ticks."""
History = Literal["term", "time"]
"""How observations of several ticks lie: term after term, each with its history, or tick after
tick."""


@dataclass(frozen=True, slots=True)
class ObsTerm:
    """Numbers of an observation that are measured together, such as the positions of joints."""

    name: str
    size: int | None = None
    """How many numbers of one tick it has; None if untold."""
    history: tuple[int, ...] = (0,)
    """The ages of what is given, in ticks, in the order in which they lie; (0,): the newest."""
    scale: tuple[float, ...] = ()
    """What the caller multiplies it by: one number, or one for each; () if untold."""
    clip: tuple[float, float] | None = None
    """What the caller cuts it off at, before it is scaled; None if untold."""
    units: str = ""
    parts: tuple[str, ...] = ()
    """What its numbers are: axes or joints; () if untold."""


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
    terms: tuple[ObsTerm, ...] = ()
    """What the observation is made of, in order; () if untold."""
    history: History = "term"
    """How the terms' histories lie."""
    obs_clip: float | None = None
    """Where the caller cuts off every number of the observation, after scaling; None if untold."""
    action_scale: tuple[float, ...] = ()
    """The caller's target is scale · action + offset: one scale for each number of the action."""
    action_offset: tuple[float, ...] = ()
    """Of each number; of positions of joints, the default pose."""
    target_low: tuple[float, ...] = ()
    """Where the caller cuts off each target."""
    target_high: tuple[float, ...] = ()
    stiffness: tuple[float, ...] = ()
    """Of the controllers that follow the targets, one for each number of the action."""
    damping: tuple[float, ...] = ()
    slots: tuple[int, ...] = ()
    """The number that the robot knows each joint of the action by."""
    robot: str = ""

    @property
    def described(self) -> int | None:
        """How many numbers the terms make up; None if they do not tell."""
        if not self.terms or any(each.size is None for each in self.terms):
            return None
        return sum(cast(int, each.size) * len(each.history) for each in self.terms)


NAMES = ("obs_names", "obs_units", "action_names", "action_units")
"""Fields of names and units."""
VECTORS = (
    *("action_scale", "action_offset", "target_low", "target_high"),
    *("stiffness", "damping", "slots"),
)
"""Fields with one number for each number of the action."""


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
    check_range("period", period, above=0, below=math.inf)
    for field in VECTORS:
        values, what = getattr(contract, field), field.replace("_", " ")
        if values and len(values) != numbers:
            raise ConfigError(f"{what}: {len(values)} numbers; the action has {numbers}.")
        if not all(map(math.isfinite, values)):
            raise ConfigError(f"{what}: a number is NaN or infinite.")
    check_words(contract)
    described = contract.described
    if described is not None and described != spec.obs.size:
        raise ConfigError(
            f"The contract's terms make up {described} numbers; the executor observes "
            f"{spec.obs.size}."
        )


def check_words(contract: Contract) -> None:
    """Make sure that joints and robot have names, and terms can be what an observation is made of.

    Raises:
        ConfigError: If a name stands twice or cannot be one, or a number is out of range.
    """
    _check_words("robots", [contract.robot], names=False)
    _check_words("action names", contract.action_names, names=True)
    slots = contract.slots
    if not all(0 <= each <= HIGHEST_SLOT for each in slots) or len(set(slots)) < len(slots):
        raise ConfigError(
            f"The joints' numbers are {list(slots)!r:.60}: each its own, 0 to {HIGHEST_SLOT:,}."
        )
    terms = contract.terms
    if len(terms) > _MOST_TERMS:
        raise ConfigError(f"{len(terms):,} terms of an observation; {_MOST_TERMS:,} at most.")
    _check_words("terms", [each.name for each in terms], names=True)
    for each in terms:
        where = f"The term {each.name!r}"
        _check_words("units", [each.units], names=False)
        _check_words(f"parts of {each.name!r}", each.parts, names=True)
        if each.size is not None and not 1 <= each.size <= MOST:
            raise ConfigError(f"{where}: a size of {each.size}; 1 to {MOST:,}.")
        ages = each.history
        if not ages or len(set(ages)) < len(ages) or not all(0 <= a <= OLDEST for a in ages):
            raise ConfigError(f"{where}: a history of {list(ages)!r:.60}; ages, 0 to {OLDEST}.")
        if not all(map(math.isfinite, (*each.scale, *(each.clip or ())))):
            raise ConfigError(f"{where}: its scale or clip is NaN or infinite.")
        counts = [len(values) for values in (each.scale, each.parts) if len(values)]
        if len(each.scale) == 1:
            counts = counts[1:]
        if each.size is not None and any(count != each.size for count in counts):
            raise ConfigError(f"{where}: {counts} scales or parts for {each.size} numbers.")


def _check_words(what: str, words: Sequence[str], *, names: bool) -> None:
    for word in words:
        if len(word) > _LONGEST or not word.isprintable() or (names and not word):
            raise ConfigError(
                f"{word!r} cannot stand among {what}: take up to {_LONGEST} printable characters."
            )
    twice = sorted(word for word, count in Counter(words).items() if count > 1)
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
            **_told_of_terms(contract),
        },
        "normaliser": {"formula": NORMALISER, "clip": executor.clip},
        "action": {
            "size": action_width(action),
            "names": list(contract.action_names),
            "units": list(contract.action_units),
            "scaling": _SCALING[executor.head],
            **{name: list(each) for name in VECTORS if (each := getattr(contract, name))},
        },
        "period": contract.period,
        "memory": {"size": memory, "reset": RESET if memory else ""},
        **({"robot": contract.robot} if contract.robot else {}),
    }


def _told_of_terms(contract: Contract) -> dict[str, Any]:
    """Write what is told of terms; nothing where nothing is, as files from before have it."""
    told: dict[str, Any] = {}
    if contract.obs_clip is not None:
        told["clip"] = contract.obs_clip
    if contract.terms:
        told["terms"] = [_term_to_json(each) for each in contract.terms]
        told["history"] = contract.history
    return told


def _term_to_json(term: ObsTerm) -> dict[str, Any]:
    found = {each.name: getattr(term, each.name) for each in fields(ObsTerm)}
    usual = ObsTerm(term.name)
    told = {n: v for n, v in found.items() if n == "name" or v != getattr(usual, n)}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in told.items()}


def _term_from_json(told: Fields) -> ObsTerm:
    clip = told.numbers("clip", ())
    if len(clip) not in (0, 2):
        raise LoadError(f"The contract: a term's clip is {list(clip)!r:.60}, not two numbers.")
    return ObsTerm(
        told.text("name"),
        None if told.get("size", None) is None else told.whole("size", least=1, most=MOST),
        told.wholes("history", (0,), most=OLDEST),
        told.numbers("scale", ()),
        (clip[0], clip[1]) if clip else None,
        told.text("units", ""),
        told.texts("parts", ()),
    )


def from_json(data: Any, executor: Executor) -> Contract:
    """Read what `to_json` wrote, for the executor that it is about.

    Raises:
        LoadError: If a field is missing or of another type.
        BundleError: If it is about another executor than this.
    """
    told = Fields(data, "The contract")
    obs, action = told.fields("observation"), told.fields("action")
    known = told.get("period") is not None
    contract = Contract(
        obs_names=obs.texts("names"),
        obs_units=obs.texts("units"),
        action_names=action.texts("names"),
        action_units=action.texts("units"),
        period=told.number("period") if known else None,
        terms=tuple(_term_from_json(each) for each in obs.objects("terms", ())),
        history=cast(
            History, obs.choice("history", get_args(History)) if "history" in obs else "term"
        ),
        obs_clip=obs.number("clip") if "clip" in obs else None,
        robot=told.text("robot", ""),
        **{name: action.numbers(name, ()) for name in VECTORS if name != "slots"},
        slots=action.wholes("slots", (), most=HIGHEST_SLOT),
    )
    sizes = [each.whole("size") for each in (obs, action, told.fields("memory"))]
    clip = told.fields("normaliser").number("clip")
    try:
        true = to_json(contract, executor)
    except ConfigError as error:
        raise BundleError(f"Its contract does not fit: {error}") from error
    wanted = [true[name]["size"] for name in ("observation", "action", "memory")]
    if sizes != wanted or clip != executor.clip:
        raise BundleError(
            "Its contract is about another executor: sizes of observation, action and "
            f"memory are {sizes}, and clip {clip}, not {wanted} and {executor.clip}."
        )
    return contract


def parse(names: Sequence[str], units: Sequence[str], period: float | None) -> Contract:
    """Read a contract from names such as "obs=x,y" and units such as "obs=m,,rad".

    Observation and action come at most once; an empty unit is none. `period` is in seconds.

    Raises:
        ConfigError: If a word does not begin with obs= or action=, or does so twice.
    """
    found: dict[str, Any] = {}
    for kind, words in (("names", names), ("units", units)):
        for word in words:
            what, equals, rest = word.partition("=")
            key = f"{what.strip()}_{kind}"
            if not equals or key not in NAMES:
                raise ConfigError(f"--{kind} {word!r}: write obs=x,y or action=u,v.")
            if key in found:
                raise ConfigError(f"--{kind} {what.strip()}= stands twice.")
            found[key] = tuple(each.strip() for each in rest.split(","))
    return replace(Contract(period=period), **found)
