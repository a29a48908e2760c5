"""The few settings of a run that its checkpoint lacks, from params/agent.yaml.

Isaac Lab writes that file with tags for Python's types, which no safe reader of YAML takes. Here
they are dropped, and only scalars by their path are needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd.deploy.contracts.yaml import MOST_BYTES, read_yaml
from agentkd.errors import LoadError
from agentkd.files import read_file
from agentkd.planners.files.options import FLAG


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
    """Read a file of settings; the items of a list have the list's name.

    Raises:
        LoadError: If it is too large, or not in the part of YAML that is read.
    """
    found: dict[str, list[str]] = {}
    try:
        _gather(read_yaml(read_file(path, MOST_BYTES), path), "", found)
    except LoadError as error:
        raise LoadError(f"{error} Or move it away, and say what it tells: {FLAG}.") from error
    return Settings(path, {name: tuple(values) for name, values in found.items()})


def _gather(value: Any, name: str, found: dict[str, list[str]]) -> None:
    """Add the scalars in a value by their paths."""
    if isinstance(value, dict):
        for key, each in value.items():
            _gather(each, f"{name}.{key}".lstrip("."), found)
    elif isinstance(value, list):
        for each in value:
            _gather(each, name, found)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        found.setdefault(name, []).append(text)
