"""A film that is made in a process of its own: a renderer may abort it or hang.

Takes and the film are passed as files in a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.environment_checks import told
from agentkd.errors import AgentkdError, EpisodeError
from agentkd.report.film import Take, film
from agentkd.report.model import Film

LIMIT = 180.0
"""Seconds for all of it: stepping, rendering and encoding."""
_TAKES, _ASKED, _ANSWER = "takes.npz", "asked.json", "answer.json"
_PICTURES = ("moving", "still")


def film_apart(
    env: str, seed: int, takes: Sequence[Take], hz: float, why: str, *, limit: float = LIMIT
) -> Film:
    """Film takes as `film` does, in another process, within `limit` seconds.

    Raises:
        EpisodeError: If there is no film, for whatever reason.
        ModuleNotFoundError: If Pillow is missing.
    """
    import_module("PIL")
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
        folder = Path(name)
        arrays: dict[str, Any] = {
            f"actions {i}": np.asarray(each.actions) for i, each in enumerate(takes)
        }
        arrays |= {f"rewards {i}": np.asarray(each.rewards) for i, each in enumerate(takes)}
        np.savez(folder / _TAKES, **arrays)
        rest = [(each.name, list(each.who), each.total, list(each.ends)) for each in takes]
        asked = {"env": env, "seed": seed, "hz": hz, "why": why, "takes": rest}
        (folder / _ASKED).write_text(json.dumps(asked))
        words = [sys.executable, "-m", __name__, name]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(
                words, env=paths, stdin=subprocess.DEVNULL, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EpisodeError(
                f"stepping and rendering took more than {limit:g} s, and were ended."
            ) from error
        try:
            answer = json.loads((folder / _ANSWER).read_text())
            pictures = {each: (folder / each).read_bytes() for each in answer.get("pictures", ())}
        except (OSError, ValueError) as error:
            raise EpisodeError(
                f"the renderer ended its process, with the status {done.returncode}."
            ) from error
    if "failed" in answer:
        raise EpisodeError(answer["failed"])
    return Film(**answer["film"], **pictures)


def _takes(folder: Path, rest: Sequence[Any]) -> list[Take]:
    found = []
    with np.load(folder / _TAKES, allow_pickle=False) as arrays:
        for index, (name, who, total, ends) in enumerate(rest):
            actions = arrays[f"actions {index}"]
            choices = actions.ndim == 1 and actions.dtype.kind in "iub"
            each = actions.tolist() if choices else [np.asarray(row) for row in actions]
            rewards = arrays[f"rewards {index}"].tolist()
            found.append(Take(name, each, who, total, rewards, [(a, b) for a, b in ends]))
    return found


def main(folder: Path) -> None:
    """Film what lies in a folder, and write there what came of it."""
    asked = json.loads((folder / _ASKED).read_text())
    takes = _takes(folder, asked.pop("takes"))
    answer: dict[str, Any]
    try:
        made = film(takes=takes, **asked)
    except AgentkdError as error:
        answer = {"failed": str(error)}
    except ModuleNotFoundError as error:
        answer = {"failed": f"it needs the package {error.name}."}
    except Exception as error:  # a renderer raises anything
        answer = {"failed": f"the renderer raised {told(error)}."}
    else:
        for name in _PICTURES:
            (folder / name).write_bytes(getattr(made, name))
        words = ("width", "height", "text", "caption")
        answer = {"pictures": _PICTURES, "film": {name: getattr(made, name) for name in words}}
    (folder / _ANSWER).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
