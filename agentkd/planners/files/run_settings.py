"""The few settings of a run that its checkpoint lacks, from params/agent.yaml.

Isaac Lab writes that file with tags for Python's types, which no safe reader of YAML takes. Only
scalars by their path are needed: what the lines say is taken, and no tag, anchor or object is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from agentkd.errors import LoadError
from agentkd.files import read_file

_LIMIT = 1 << 20
_MOST_LINES = 20_000
_LINE = re.compile(r"(?P<dashes>(?:- +)*)(?P<key>[\w.-]+):(?: +(?P<value>.*))?")
_ITEM = re.compile(r"(?P<dashes>(?:- +)+)(?P<value>.*)")

_QUOTES = "'\""
_PIECE = re.compile(r"(?:\[[^\[\]]*\]|[^,\[\]])+")
"""What stands between the commas of a mapping on one line."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Scalars as text, by path such as "policy.activation"; `path` is None without a file."""

    path: Path | None = None
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, *names: str) -> str | None:
        """Return the value of the first of these paths that is there; None for none and null.

        Raises:
            LoadError: If there are several values that differ.
        """
        for name in names:
            found = set(self.values.get(name, ()))
            if len(found) > 1:
                raise LoadError(
                    f"{self.path}: {name} is {', '.join(sorted(found))}; one value is read."
                )
            if found and (value := found.pop()).lower() not in ("null", "none", "~", ""):
                return value
        return None

    def promise(self, *names: str) -> str | None:
        """Name the first of these paths that is true, with its file; None if none is."""
        found = (name for name in names if (self.get(name) or "false").lower() != "false")
        return next((f"{name} of {self.path}" for name in found), None)


def beside(checkpoint: Path) -> Settings:
    """Read params/agent.yaml of the run that a checkpoint belongs to, if it is there.

    It lies in the checkpoint's folder, or in the one above, which holds the folder of checkpoints.
    """
    for folder in (checkpoint.parent, checkpoint.absolute().parent.parent):
        path = folder / "params" / "agent.yaml"
        if path.is_file():
            return read_settings(path)
    return Settings()


def read_settings(path: Path) -> Settings:
    """Read a file of settings.

    Raises:
        LoadError: If it is too large, or no text.
    """
    try:
        lines = read_file(path, _LIMIT).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LoadError(f"{path} is no text: {error}.") from error
    if len(lines) > _MOST_LINES:
        raise LoadError(f"{path} has {len(lines):,} lines; at most {_MOST_LINES:,} are read.")
    found: dict[str, list[str]] = {}
    above: list[tuple[int, str]] = []
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not text or text.startswith("#"):
            continue
        if match := _LINE.fullmatch(text):
            # "- key:" begins an item: its keys stand two columns further right.
            indent += len(match["dashes"])
            while above and above[-1][0] >= indent:
                above.pop()
            above.append((indent, match["key"]))
            value = match["value"]
        elif match := _ITEM.fullmatch(text):
            # The items of a list stand below its key, or in the key's own column.
            while above and above[-1][0] > indent:
                above.pop()
            value = match["value"]
        else:
            continue
        if value is not None and above:
            name = ".".join(key for _, key in above)
            for key, each in _inline(value).items():
                found.setdefault(name + key, []).extend(_scalars(each))
    return Settings(path, {name: tuple(values) for name, values in found.items()})


def _inline(value: str) -> dict[str, str]:
    """Split a mapping on one line, {a: 1, b: [2, 3]}; all else is a value, by no further name."""
    value = value.partition(" #")[0].strip()
    inner = value[1:-1]
    pieces = _PIECE.findall(inner)
    whole = ",".join(pieces) == inner and all(": " in each for each in pieces)
    if not (value.startswith("{") and value.endswith("}") and whole) or set(inner) & set("{}"):
        return {"": value}
    pairs = (each.partition(": ") for each in pieces)
    return {f".{key.strip().strip(_QUOTES)}": found.strip() for key, _, found in pairs}


def _scalars(value: str) -> list[str]:
    """Split a value on one line: a scalar, or a list in brackets; a tag is none.

    A mapping inside another stays one value, so that what needs it sees that it is not read.
    """
    value = value.partition(" #")[0].strip()
    if value.startswith(("!", "&", "*", "|", ">")):
        return []
    if value.startswith("["):
        value = value.strip("[]")
        return [each for part in value.split(",") if (each := part.strip().strip(_QUOTES))]
    return [value.strip(_QUOTES)]
