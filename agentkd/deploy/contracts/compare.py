"""What differs between two contracts, by name, each with both values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentkd.deploy.bundle import Bundle
from agentkd.deploy.contract import NAMES, Contract, ObsTerm
from agentkd.deploy.contracts.told import UNCLIPPED, Told, named, scales
from agentkd.dists import action_width

_RELATIVE, _ABSOLUTE = 5e-3, 5e-4
"""How far numbers may be apart: tools round to three digits (Unitree) or decimals (mjlab)."""
_MANY = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing that two contracts may tell.

    Attributes:
        name: Such as "observation order".
        status: "untold" if one of them does not tell it.
        here: The first contract's value, as text; "" if untold.
        there: The other's.
    """

    name: str
    status: Literal["agrees", "differs", "untold"]
    here: str = ""
    there: str = ""


def of_bundle(bundle: Bundle) -> Told:
    """Return the contract of an executor's file, with its sizes."""
    spec = bundle.executor.spec
    return Told(bundle.contract, spec.obs.size, action_width(spec.action))


def compare(here: Told, there: Told) -> Iterator[Finding]:
    """Compare two contracts; what neither tells is not mentioned."""
    mine, its = here.contract, there.contract
    yield from _one("robot", mine.robot, its.robot)
    yield from _sizes(here.obs_size, there.obs_size, more=there.more)
    if there.more and 0 < len(its.terms) < len(mine.terms):
        mine = _shared(mine, its)
    yield from _terms(mine, its)
    yield from _close("observation clip", mine.obs_clip, its.obs_clip)
    yield from _one("action size", here.action_size, there.action_size)
    yield from _list("joint order", mine.action_names, its.action_names)
    joints = mine.action_names or its.action_names
    for name, field in (
        ("action scale", "action_scale"),
        ("default pose", "action_offset"),
        ("lowest targets", "target_low"),
        ("highest targets", "target_high"),
        ("stiffness", "stiffness"),
        ("damping", "damping"),
    ):
        yield from _vector(name, getattr(mine, field), getattr(its, field), joints)
    yield from _list("joint numbers", mine.slots, its.slots)
    ours, theirs = (None if each.period is None else 1 / each.period for each in (mine, its))
    yield from _close("control rate", ours, theirs, " Hz")


def words_apart(here: Contract, there: Contract) -> Iterator[Finding]:
    """Compare the names and units of numbers; the first difference of each list is given.

    Names that both derive from their terms say no more than the terms, which `compare` compares.
    """
    derived = all(bool(each.terms) and named(each)[0] == each.obs_names for each in (here, there))
    for field in NAMES:
        mine, its = getattr(here, field), getattr(there, field)
        if not (mine and its) or mine == its or (derived and field.startswith("obs_")):
            continue
        if len(mine) != len(its):
            yield Finding(field, "differs", f"{len(mine)} words", f"{len(its)} words")
            continue
        at = next(i for i, pair in enumerate(zip(mine, its, strict=True)) if pair[0] != pair[1])
        yield Finding(f"{field}, number {at}", "differs", mine[at] or "none", its[at] or "none")


def _sizes(here: int | None, there: int | None, *, more: bool) -> Iterator[Finding]:
    """Compare the observation's size; with `more` that of `there` is the least."""
    if more and here and there and here != there:
        status: Literal["untold", "differs"] = "untold" if there < here else "differs"
        yield Finding("observation size", status, str(here), f"at least {there}")
    else:
        yield from _one("observation size", here, there)


def _shared(mine: Contract, its: Contract) -> Contract:
    """Leave out the terms that a file does not describe, if it has the others in their order."""
    names = {each.name for each in its.terms}
    shared = tuple(each for each in mine.terms if each.name in names)
    same = [each.name for each in shared] == [each.name for each in its.terms]
    return replace(mine, terms=shared) if same else mine


def _one(name: str, here: Any, there: Any) -> Iterator[Finding]:
    """Compare two values, of which None and "" are untold."""
    texts = ["" if each in (None, "") else str(each) for each in (here, there)]
    yield from _found(name, here == there, *texts)


def _found(name: str, same: bool, here: str, there: str) -> Iterator[Finding]:
    if here and there:
        yield Finding(name, "agrees" if same else "differs", here, there)
    elif here or there:
        yield Finding(name, "untold", here, there)


def near(here: float, there: float) -> bool:
    """Whether two numbers are the same but for what tools round."""
    return math.isclose(here, there, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _close(name: str, here: float | None, there: float | None, unit: str = "") -> Iterator[Finding]:
    texts = ["" if each is None else f"{each:g}{unit}" for each in (here, there)]
    same = here is not None and there is not None and near(here, there)
    yield from _found(name, same, *texts)


def _list(name: str, here: Sequence[Any], there: Sequence[Any]) -> Iterator[Finding]:
    """Compare two lists; of long ones the first difference is shown."""
    if here and there and here != there and max(len(here), len(there)) > _MANY:
        places = [i for i, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]]
        if places:
            at = places[0]
            yield Finding(f"{name}, number {at}", "differs", str(here[at]), str(there[at]))
            return
    texts = [", ".join(map(str, each[:_MANY])) for each in (here, there)]
    counts = [f" ({len(each)} in all)" if len(each) > _MANY else "" for each in (here, there)]
    shown = (text + count for text, count in zip(texts, counts, strict=True))
    yield from _found(name, here == there, *shown)


def _vector(
    name: str, here: Sequence[float], there: Sequence[float], joints: Sequence[str] = ()
) -> Iterator[Finding]:
    """Compare numbers; where they differ, the first such one is shown."""
    if here and there and len(here) == len(there):
        pairs = enumerate(zip(here, there, strict=True))
        apart = [at for at, (mine, its) in pairs if not near(mine, its)]
        if apart and len(set(here)) + len(set(there)) > 2:
            at = apart[0]
            where = joints[at] if len(joints) == len(here) else f"number {at}"
            yield Finding(f"{name} of {where}", "differs", f"{here[at]:g}", f"{there[at]:g}")
            return
        texts = [_numbers(each) for each in (here, there)]
        yield from _found(name, not apart, *texts)
        return
    texts = [f"{len(each)} numbers" if each else "" for each in (here, there)]
    yield from _found(name, False, *texts)


def _numbers(values: Sequence[float]) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else f"{len(values)} numbers"


def _terms(mine: Contract, its: Contract) -> Iterator[Finding]:
    """Compare what observations are made of."""
    order = [tuple(each.name for each in contract.terms) for contract in (mine, its)]
    if not all(order):
        # Without terms there may still be names of the numbers.
        if any(order) or not (mine.obs_names and its.obs_names):
            yield from _found("observation order", False, *map(", ".join, order))
        else:
            yield from _list("observation order", mine.obs_names, its.obs_names)
        return
    yield from _found("observation order", order[0] == order[1], *map(", ".join, order))
    if order[0] != order[1]:
        return
    pairs = list(zip(mine.terms, its.terms, strict=True))
    yield from _each("size", pairs, lambda term: term.size or "")
    yield from _each("history length", pairs, lambda term: len(term.history))
    if all(len(here.history) == len(there.history) for here, there in pairs):
        long = [pair for pair in pairs if len(pair[0].history) > 1]
        yield from _each("history order", long, lambda term: f"ages {list(term.history)}")
        if len(long) > 0 and len(pairs) > 1:
            yield from _one("history layout", mine.history, its.history)
    for here, there in pairs:
        found = [
            *_list(f"parts of {here.name}", here.parts, there.parts),
            *_one(f"unit of {here.name}", here.units, there.units),
        ]
        yield from (each for each in found if each.status == "differs")
    yield from _first(_clips(pairs))
    yield from _first(_scales(pairs))


def _scales(pairs: Sequence[tuple[ObsTerm, ObsTerm]]) -> Iterator[Finding]:
    for here, there in pairs:
        size = here.size or there.size
        mine, its = (
            scales(replace(each, size=size)) if each.scale else () for each in (here, there)
        )
        yield from _vector(f"scale of {here.name}", mine, its)


def _clips(pairs: Sequence[tuple[ObsTerm, ObsTerm]]) -> Iterator[Finding]:
    for here, there in pairs:
        mine, its = here.clip or (), there.clip or ()
        texts = [
            "none" if each == UNCLIPPED else str(list(each)) if each else "" for each in (mine, its)
        ]
        same = all(near(*ends) for ends in zip(mine, its, strict=False))
        yield from _found(f"clip of {here.name}", same, *texts)


def _first(found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the first that differs, or else the first that is untold; what agrees is not shown."""
    kept = list(found)
    for status in ("differs", "untold"):
        for each in kept:
            if each.status == status:
                yield each
                return


def _each(name: str, pairs: Sequence[tuple[ObsTerm, ObsTerm]], told: Any) -> Iterator[Finding]:
    """Compare a value of each term; the first that differs is shown."""
    values = [(here.name, told(here), told(there)) for here, there in pairs]
    for term, here, there in values:
        if "" not in (here, there) and here != there:
            yield Finding(f"{name} of {term}", "differs", str(here), str(there))
            return
    both = [here for _, here, there in values if "" not in (here, there)]
    if both:
        shown = str(both[0]) if len(set(map(str, both))) == 1 else "of each term"
        yield Finding(name, "agrees", shown, shown)
