"""A page that lists the runs in a folder, with what came out of each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from agentkd.errors import AgentkdError
from agentkd.fields import parse_json
from agentkd.files import read_file, write_atomic
from agentkd.report.html import STYLE, beside, first_sentence
from agentkd.report.shapes import escape

NAME = "index.html"
_PAGE = Template(beside(NAME))
_MARK = b'<meta name="generator" content="agentkd">'
_FOLDER = "runs"
_MOST_BYTES = 32 << 20
"""Of a report that is looked at."""
_MOST_RUNS = 1000
_PATIENCE, _LOOK = 2.0, 0.02
"""Seconds for which another run may keep the page, and between two looks."""


def refresh(folder: Path) -> None:
    """List the runs in a folder in its index.html, if that folder is for runs.

    It is for runs if it is called "runs", or holds such a page already. A page of others is left
    alone. A run that cannot be read is listed without its result, and what cannot be written
    changes nothing.
    """
    page = folder / NAME
    with contextlib.suppress(AgentkdError, OSError, ValueError):
        folder = folder.resolve()
        there = page.exists()
        if there and _MARK not in read_file(page, _MOST_BYTES):
            return
        if not there and folder.name != _FOLDER:
            return
        with _alone(folder):
            runs = "\n".join(_entry(each, told) for each, told in _runs(folder))
            write_atomic(page, _PAGE.substitute(style=STYLE, folder=escape(folder.name), runs=runs))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait a moment for other runs that write the page: the last one has to list them all."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    break
            except OSError:  # a file system without locks
                break
            time.sleep(_LOOK)
        yield
    finally:
        os.close(descriptor)


def _runs(folder: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return the runs with what is known of each, the newest first."""
    found = []
    for each in folder.iterdir():
        with contextlib.suppress(OSError):
            if (each / "report.json").is_file() or (each / ".agentkd").is_file():
                found.append((each.stat().st_mtime, each))
    found.sort(key=lambda pair: (-pair[0], pair[1].name))
    told = [(each, _told(each)) for _, each in found[:_MOST_RUNS]]
    return sorted(told, key=lambda pair: str(pair[1].get("date", "~")), reverse=True)


def _told(run: Path) -> Mapping[str, Any]:
    path = run / "report.json"
    try:
        data = parse_json(read_file(path, _MOST_BYTES), path)
    except (AgentkdError, OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _entry(run: Path, told: Mapping[str, Any]) -> str:
    known = [told.get(name) for name in ("command", "env")]
    # A name of bytes that are no text is shown as far as it is one.
    shown = os.fsencode(run.name).decode(errors="replace")
    title = " ".join(each for each in known if isinstance(each, str) and each) or shown
    date, lead = told.get("date"), told.get("lead")
    name = escape(title)
    if (run / "report.html").is_file():
        name = f'<a href="{quote(os.fsencode(run.name))}/report.html">{name}</a>'
    when = f"<time>{escape(date[:16].replace('T', ' '))}</time>" if isinstance(date, str) else ""
    said = lead if isinstance(lead, str) else "" if told else "It has no report, or not yet."
    result = f"<p>{escape(first_sentence(said)[0])}</p>" if said else ""
    return f"<li>{name}{when}<code>{escape(shown)}</code>{result}</li>"
