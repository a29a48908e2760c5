"""The few settings of a run that its checkpoint lacks, from params/agent.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd.deploy.contracts.yaml import MOST_BYTES, read_yaml
from agentkd.errors import LoadError
from agentkd.files import read_file
from agentkd.planners.files.options import FLAG


@dataclass(frozen=True, slots=True)
class Settings:
    """Scalars as text, by path such as "policy.activation"; `path` is None without a file.

    All items of a list have the path of the list.
    """

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
            if found and (value := found.pop()).lower() not in ("none", ""):
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
        LoadError: If it is too large, or not in the part of YAML that is read.
    """
    try:
        value = read_yaml(read_file(path, MOST_BYTES), path)
    except LoadError as error:
        raise LoadError(
            f"{error} Correct it; or move it away, and say what it told: {FLAG} KEY=VALUE."
        ) from error
    found: dict[str, list[str]] = {}
    for name, each in _scalars("", value):
        found.setdefault(name, []).append(str(each))
    return Settings(path, {name: tuple(values) for name, values in found.items()})


def _scalars(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Give all scalars below a value, each with its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _scalars(f"{name}.{key}" if name else str(key), each)
    elif isinstance(value, list):
        for each in value:
            yield from _scalars(name, each)
    else:
        yield name, value
