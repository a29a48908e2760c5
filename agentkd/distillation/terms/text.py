"""Terms as one line of text: "soft:tau=2 + 0.3 hard + 0.1 adversarial:until=0.5".

    line    = term, {"+", term}
    term    = [factor, ["*"]], name, [":", options]
    options = key, "=", value, {",", key, "=", value}

The keys are the fields of the term's dataclass, and so are their defaults.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from agentkd.errors import ConfigError, check_choice, did_you_mean

_HOMES = {
    "action": ("answers", "Action"),
    "adversarial": ("adversarial", "Adversarial"),
    "attention": ("inside", "Attention"),
    "hard": ("answers", "Hard"),
    "match": ("answers", "Match"),
    "robust": ("robust", "Robust"),
    "slopes": ("inside", "Slopes"),
    "soft": ("answers", "Soft"),
}
"""The module and class of each term; a new term is a class, and a line here."""

_PLUS = re.compile(r"(?<![\d.][eE])\+")
_TERM = re.compile(
    r"\s*(?:(?P<weight>[-\d.][-+\w.]*)(?:\s*\*\s*|\s+))?"
    r"(?P<name>[A-Za-z][\w-]*)\s*(?::(?P<options>.*))?",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Weighted:
    """A `term.Term` and its factor in the sum, above 0."""

    term: Any
    weight: float = 1.0


Terms = tuple[Weighted, ...]


@cache
def _known() -> Mapping[str, type[Any]]:
    return {
        name: getattr(import_module(f"{__package__}.{module}"), kind)
        for name, (module, kind) in _HOMES.items()
    }


def term_names() -> tuple[str, ...]:
    """The names of all terms."""
    return tuple(_HOMES)


def name_of(term: Any) -> str:
    """A term's name in the text; the name of its class where the term is not ours."""
    names = {kind: name for name, kind in _known().items()}
    return names.get(type(term), type(term).__name__)


def parse_terms(text: str) -> Terms:
    """Read a line of terms.

    Raises:
        ConfigError: If it cannot be read, with the nearest name where one is unknown.
    """
    found = []
    for name, weight, options in _split(text):
        kind = _known()[name]
        hints = typing.get_type_hints(kind)
        keys = [field.name for field in dataclasses.fields(kind)]
        given = _given(name, options, keys)
        values = {key: _value(hints[key], word, f"{name}:{key}") for key, word in given.items()}
        found.append(Weighted(kind(**values), weight))
    return tuple(found)


def check_terms(text: str) -> None:
    """Check names, factors and options' keys of a line of terms, without torch.

    Raises:
        ConfigError: As `parse_terms`, which checks the options' values as well.
    """
    for name, _, options in _split(text):
        _given(name, options, _fields(name))


def _fields(name: str) -> list[str]:
    """A term's options, read from its source: importing it would import torch."""
    module, kind = _HOMES[name]
    source = Path(__file__).with_name(f"{module}.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    body = next(
        each.body for each in tree.body if isinstance(each, ast.ClassDef) and each.name == kind
    )
    targets = (each.target for each in body if isinstance(each, ast.AnnAssign))
    return [each.id for each in targets if isinstance(each, ast.Name)]


def _split(text: str) -> Iterator[tuple[str, float, str]]:
    """Give each term's name, factor and options."""
    pieces = [piece.strip() for piece in _PLUS.split(text)]
    if not all(pieces):
        raise ConfigError(
            f"{text!r} is no sum of terms: there is nothing beside a '+'. Write for "
            "example 'match', or 'soft:tau=2 + 0.3 hard'."
        )
    for piece in pieces:
        match = _TERM.fullmatch(piece)
        if match is None:
            raise ConfigError(
                f"{piece!r} is not a term. A term is a name with an optional factor before it "
                "and options behind it: '0.3 hard:smoothing=0.1'."
            )
        name, factor = match["name"], match["weight"]
        check_choice("term", name, _HOMES)
        try:
            weight = 1.0 if factor is None else float(factor)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ConfigError(f"The factor in {piece!r} is {factor}; it is a number above 0.")
        yield name, weight, match["options"] or ""


def _given(name: str, options: str, keys: list[str]) -> dict[str, str]:
    """Read "key=value,key=value"."""
    given: dict[str, str] = {}
    for piece in filter(None, map(str.strip, options.split(","))):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if key not in keys:
            known = did_you_mean(key, keys) if keys else " It has none."
            raise ConfigError(f"{name!r} has no option {key!r}.{known}")
        if not equals or not value:
            raise ConfigError(f"{name!r}: write {key}=VALUE, not {piece!r}.")
        if key in given:
            raise ConfigError(f"{name!r} is given {key} twice.")
        given[key] = value
    return given


def _value(hint: Any, text: str, where: str) -> Any:
    """Read a value as what its hint says; of several, the first that it can be."""
    several = typing.get_origin(hint) in (typing.Union, types.UnionType)
    words: list[str] = []
    numbers: list[type] = []
    for choice in typing.get_args(hint) if several else (hint,):
        if typing.get_origin(choice) is Literal:
            words += typing.get_args(choice)
        elif choice is not type(None):
            numbers.append(choice)
    if text in words:
        return text
    for kind in numbers:
        try:
            return kind(text)
        except ValueError:
            continue
    wanted = ["a whole number" if n is int else "a number" for n in numbers]
    wanted += [repr(word) for word in words]
    raise ConfigError(f"{where} is {text!r}; it is {' or '.join(wanted)}.")


def to_text(terms: Terms) -> str:
    """Write terms as `parse_terms` reads them; defaults are left out."""
    found = []
    for each in terms:
        term = each.term
        given = [
            f"{field.name}={getattr(term, field.name)}"
            for field in dataclasses.fields(term)
            if getattr(term, field.name) != field.default
        ]
        factor = "" if each.weight == 1.0 else f"{each.weight} "
        found.append(f"{factor}{name_of(term)}" + (f":{','.join(given)}" if given else ""))
    return " + ".join(found)
