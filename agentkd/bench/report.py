"""What a command leaves behind: report.json for programs, report.html for people."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentkd.errors import AgentkdError, ConfigError

SCHEMA = 1
_PACKAGES = ("agentkd", "numpy", "torch", "gymnasium", "stable-baselines3", "mujoco")


class ReportError(AgentkdError):
    """A report that could not be written."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text or numbers under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot, with a band from `low` to `high` where they are given.

    Attributes:
        name: In the legend.
        x: Along the bottom.
        y: Upwards; NaN leaves a gap.
        low: The band's lower edge.
        high: The band's upper edge.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over common axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a text, a table and plots under it."""

    title: str
    text: str = ""
    table: Table | None = None
    plots: tuple[Plot, ...] = ()


def prepare_out(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Make the output folder, and make sure that nothing in it is lost by accident.

    Raises:
        ConfigError: If it holds an earlier run and neither flag is given, or files
            that no run of ours left; or if it cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out needs a folder.")
    held = sorted(each.name for each in out.iterdir()) if out.exists() else []
    ours = {"report.json", "executor.akd", "checkpoint"} & set(held)
    if held and not ours:
        raise ConfigError(
            f"{out} holds other things ({', '.join(held[:3])}). Give an empty or a new "
            "folder with --out."
        )
    if held and not overwrite and not resume:
        raise ConfigError(
            f"{out} holds an earlier run. Give --overwrite to replace it, --resume to "
            "go on from it where the command can, or another --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made: {error.strerror}.") from error


def _plain(value: Any) -> Any:
    """Turn values into what JSON can say; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _origin() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "schema": SCHEMA,
        "argv": ["agentkd", *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
    }


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ReportError: If the disk refuses; a file that was there before stays.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise ReportError(
            f"{path} could not be written: {error.strerror or error}."
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def write_report(
    out: Path, data: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """Write report.json and report.html into a folder.

    Args:
        out: The folder; it is made if it is missing.
        data: What was measured, under the keys of docs/report.md.
        sections: The same for people.

    Raises:
        ReportError: If the disk refuses; an earlier report stays whole.
    """
    from agentkd.bench.html import page

    full = _plain({**_origin(), **data})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{out} cannot be made: {error.strerror}.") from error
    text = json.dumps(full, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(out / "report.json", text)
    write_whole(out / "report.html", page(full, sections))


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json.

    Raises:
        ConfigError: If it is missing, or not one of ours.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no report: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ConfigError(f"{path} is no report of schema {SCHEMA}.")
    return data
