"""The folder of a report: checked, written whole in four forms, read again."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.fields import MOST_BYTES, parse_json
from agentkd.files import Content, read_file, write_files
from agentkd.interrupt import held
from agentkd.printable import printable
from agentkd.report.html import page
from agentkd.report.index import refresh
from agentkd.report.model import Report, Table

SCHEMA = 1
_MARK = ".agentkd"
# What --overwrite removes. The executor is not among it: it is replaced whole, and may be what the
# new run starts from.
_FILES = (
    *("report.json", "report.html", "table.md", "table.csv", "film.webp"),
    *("cells.csv", "cells.parquet"),
)
_FOLDERS = ("checkpoint", "executors", "rows", "tensorboard")
_PACKAGES = (
    *("agentkd", "numpy", "torch", "gymnasium", "stable-baselines3", "sb3-contrib"),
    *("mujoco", "box2d", "onnxruntime"),
)
_ROOM = "Make room, or give another folder with --out."


def prepare_out(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Make the output folder, and lose nothing in it by accident.

    `overwrite` removes the report, logs and checkpoint of an earlier run; its executor is replaced
    later, and files of others stay. `resume` keeps everything.

    Raises:
        ConfigError: As `check_out`.
        WriteError: If the folder cannot be made or written to.
    """
    try:
        check_out(out, overwrite=overwrite, resume=resume)
        out.mkdir(parents=True, exist_ok=True)
        for name in (*_FILES, *_FOLDERS) if overwrite else ():
            if name in _FILES:
                (out / name).unlink(missing_ok=True)
            elif (out / name).is_dir() and not (out / name).is_symlink():
                shutil.rmtree(out / name)
        # Written first: a run that is killed has left a folder of ours all the same.
        (out / _MARK).write_text(f"{SCHEMA}\n", encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(
            f"{out} cannot be written to: {reason}. Give another folder with --out."
        ) from error


def check_out(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Check the output folder.

    Raises:
        ConfigError: If it holds an earlier run and neither flag is given, or files that no run of
            ours left; or if both flags are.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other. Give one.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out needs a folder.")
    there = sorted(each.name for each in out.iterdir()) if out.exists() else []
    if resume and not there:
        raise ConfigError(f"{out} holds nothing to go on from. Leave --resume out.")
    if not there:
        return
    if not _ours(out):
        raise ConfigError(
            f"{out} holds things that agentkd did not write ({', '.join(there[:3])}). "
            "They are left alone, also with --overwrite: give an empty or a new folder with --out."
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


def origin() -> dict[str, Any]:
    """Return the command, date, machine and package versions of this process."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "argv": ["agentkd", *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": (
            f"{platform.system()} {platform.machine()}, {_processor()}{os.cpu_count()} cores"
        ),
        "versions": versions,
    }


def made_from(env: str, refs: Sequence[str], name: str, digest: str, **more: Any) -> dict[str, Any]:
    """Return what an executor file says about where it comes from: its environment and planner.

    `digest` is the SHA-256 of the planner's files.
    """
    found = origin()
    return {
        "env": env,
        "planner": {"refs": list(refs), "name": name},
        "planner_digest": digest,
        **more,
        "command": found["argv"],
        "versions": found["versions"],
    }


def _processor() -> str:
    """Return the processor's name and a comma, "" if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith("model name"))
    name = next(lines, ":").partition(":")[2].strip()
    return f"{name}, " if name else ""


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


def write_report(out: Path, report: Report) -> None:
    """Write report.json, report.html, tables and film.webp into a folder, made if missing.

    A page that lists the runs beside it is brought up to date.

    Raises:
        WriteError: If the disk refuses; an earlier report stays whole.
    """
    full = _plain({"schema": SCHEMA, **origin(), "lead": report.lead, **report.data})
    files: dict[str, Content] = {
        "report.json": json.dumps(full, indent=1, sort_keys=True, allow_nan=False) + "\n",
        "report.html": page(full, report),
    }
    if report.film is not None:
        files["film.webp"] = report.film.moving
    tables = [each.table for each in report.sections if each.table and each.table.rows]
    if tables:
        files |= {"table.md": markdown(report), "table.csv": comma_separated(tables[0])}
    with held():
        write_files({out / name: content for name, content in files.items()}, hint=_ROOM)
        refresh(out.parent)


def markdown(report: Report) -> str:
    """Write the lead and the sections with their tables, without plots."""
    parts = [_inline(report.lead)] if report.lead else []
    for section in report.sections:
        parts.append(f"## {_inline(section.title)}")
        texts = (section.text, *section.notes)
        parts += [_inline(each, lines=True) for each in texts if each]
        if section.table is not None and section.table.rows:
            table = section.table
            head, *rows = [[column.title for column in table.heads()], *table.texts()]
            sides = ["--:" if right else ":--" for right in table.numeric()]
            cells = [[*map(_inline, head)], sides, *([*map(_inline, row)] for row in rows)]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
            parts += [_inline(each) for each in [table.caption] if each]
    return "\n\n".join(parts) + "\n"


def _inline(text: str, *, lines: bool = False) -> str:
    escaped = printable(text, lines=lines).replace("\\", "\\\\").replace("<", "&lt;")
    return escaped.replace("|", "\\|")


def comma_separated(table: Table) -> str:
    """Write a table's values, unrounded."""

    def plain(cell: Any) -> Any:
        if isinstance(cell, (list, tuple)):
            known = all(each is not None and each == each for each in cell)
            return " … ".join(map(str, cell)) if known else ""
        if isinstance(cell, str):
            return printable(cell)
        return "" if cell is None or cell != cell else cell

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([printable(head.title) for head in table.heads()])
    writer.writerows([plain(cell) for cell in row] for row in table.rows)
    return out.getvalue()


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json.

    Raises:
        LoadError: If it is missing, or not one of ours.
    """
    data = parse_json(read_file(path, MOST_BYTES), path)
    if not isinstance(data, dict) or not {"argv", "schema", "versions"} <= set(data):
        raise LoadError(f"{path} is not a report of agentkd's.")
    if data["schema"] != SCHEMA:
        raise LoadError(
            f"{path} is a report of schema {data['schema']!r}; this agentkd reads "
            f"schema {SCHEMA}. Make it again."
        )
    return data
