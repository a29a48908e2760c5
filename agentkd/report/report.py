"""What a command leaves behind: report.json for programs, report.html for people."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.fields import MOST_BYTES, parse_json
from agentkd.files import read_file, write_atomic
from agentkd.interrupt import held
from agentkd.report.provenance import origin

SCHEMA = 1
_MARK = ".agentkd"
# What of an earlier run an overwriting one removes. The executor is not among it: it is replaced
# whole, and may be what the new run starts from.
_FILES = ("report.json", "report.html")
_FOLDERS = ("checkpoint", "rows", "tensorboard")
_ROOM = "Make room, or give another folder with --out."


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text or numbers under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot, with a band from `low` to `high` where they are given.

    Or one row of a plot of rows: values x, one dot each, of which y is the one that counts, with an
    interval from `low` to `high`. Or points, each with its own.

    Attributes:
        name: In the legend, or beside the row.
        x: Along the bottom.
        y: Upwards; NaN leaves a gap. In a row: one value.
        low: The band's lower edge. In a row: one value.
        high: The band's upper edge. In a row: one value.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over common axes, rows along a common axis, or points with their names.

    Attributes:
        title: Above it.
        x_label: Below it, with the unit.
        y_label: Beside it, with the unit; rows have none.
        series: The lines or rows.
        note: A sentence under it.
        kind: Whether they are lines, rows or points.
        log: Whether the values' axis is logarithmic; of points, the one below.
        levels: Names for y = 0, 1, 2, …, where y is not a number but one of these; values are then
            dots.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    kind: Literal["lines", "rows", "points"] = "lines"
    log: bool = False
    levels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a text, a table and plots under it."""

    title: str
    text: str = ""
    table: Table | None = None
    plots: tuple[Plot, ...] = ()


def prepare_out(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Make the output folder, and make sure that nothing in it is lost by accident.

    Args:
        out: The folder.
        overwrite: Replace what an earlier run left there: its report, logs and checkpoint go now,
            its executor when there is a new one. Files that are not ours stay.
        resume: Go on from what an earlier run left there; nothing is removed.

    Raises:
        ConfigError: If it holds an earlier run and neither flag is given, or files that no run of
            ours left; or if both flags are.
        WriteError: If it cannot be made or written to.
    """
    try:
        check_out(out, overwrite=overwrite, resume=resume)
        out.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _clear(out)
        # Written first: a run that is killed has left a folder of ours all the same.
        (out / _MARK).write_text(f"{SCHEMA}\n", encoding="utf-8")
    except OSError as error:
        raise WriteError(
            f"{out} cannot be written to: {error.strerror or error}. Give another "
            "folder with --out."
        ) from error


def check_out(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Check what `prepare_out` would refuse, and change nothing.

    Raises:
        ConfigError: As `prepare_out`.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other. Give one.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out needs a folder.")
    held = sorted(each.name for each in out.iterdir()) if out.exists() else []
    if resume and not held:
        raise ConfigError(f"{out} holds nothing to go on from. Leave --resume out.")
    if not held:
        return
    if not _ours(out):
        raise ConfigError(
            f"{out} holds things that agentkd did not write ({', '.join(held[:3])}). "
            "They are left alone, also with --overwrite: give an empty or a new folder "
            "with --out."
        )
    if not overwrite and not resume:
        raise ConfigError(
            f"{out} holds an earlier run. Give --overwrite to replace it, --resume to "
            "go on from it where the command can, or another --out."
        )


def _ours(out: Path) -> bool:
    if (out / _MARK).is_file():
        return True
    try:
        read_report(out / "report.json")
    except LoadError:
        return False
    return True


def _clear(out: Path) -> None:
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        if (out / name).is_dir() and not (out / name).is_symlink():
            shutil.rmtree(out / name)


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


def write_report(out: Path, data: Mapping[str, Any], sections: Sequence[Section]) -> None:
    """Write report.json and report.html into a folder.

    Args:
        out: The folder; it is made if it is missing.
        data: What was measured, under the keys of docs/reference/report.md.
        sections: The same for people.

    Raises:
        WriteError: If the disk refuses; an earlier report stays whole.
    """
    from agentkd.report.html import page

    full = _plain({"schema": SCHEMA, **origin(), **data})
    text = json.dumps(full, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with held():
        write_atomic(out / "report.json", text, hint=_ROOM)
        write_atomic(out / "report.html", page(full, sections), hint=_ROOM)


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json.

    Raises:
        LoadError: If it is missing, or not one of ours.
    """
    data = parse_json(read_file(path, MOST_BYTES), path)
    if not isinstance(data, dict) or not {"argv", "schema", "versions"} <= set(data):
        raise LoadError(f"{path} is no report of agentkd's.")
    if data["schema"] != SCHEMA:
        raise LoadError(
            f"{path} is a report of schema {data['schema']!r}; this agentkd reads "
            f"schema {SCHEMA}. Make it again."
        )
    return data
