"""Results of a bench that are kept one by one, so that it can go on after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from agentkd.errors import ConfigError, WriteError
from agentkd.printable import logger
from agentkd.report.write import write_whole

log = logger(__name__)


@final
class Rows:
    """Results by what they depend on, each a file with its checksum.

    Args:
        out: The bench's folder; None keeps nothing.
        resume: Whether results that are there already are used.

    Raises:
        ConfigError: If it is to go on without a folder.
    """

    def __init__(self, out: Path | None, *, resume: bool = False) -> None:
        """Remember the place."""
        if resume and out is None:
            raise ConfigError("--resume goes on from what is in --out. Name the folder.")
        self._folder = None if out is None else out / "rows"
        self._resume = resume

    def once(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Give the result that is kept under a key, or make it and keep it.

        Args:
            key: All that it depends on, as JSON values.
            make: Makes it, as JSON values.

        Raises:
            WriteError: If the disk refuses; what was kept before is whole.
        """
        if self._folder is None:
            return dict(make())
        told = json.dumps(key, sort_keys=True)
        path = self._folder / f"{_sum(told)[:24]}.json"
        if self._resume:
            known = _read(path, told)
            if known is not None:
                return known
        made = json.dumps(dict(make()), sort_keys=True)
        whole = {"key": key, "sha256": _sum(told + made), "result": json.loads(made)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{self._folder} cannot be made: {error}.") from error
        write_whole(path, json.dumps(whole, indent=1, sort_keys=True) + "\n")
        return dict(json.loads(made))


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, told: str) -> dict[str, Any] | None:
    """Read a result; None where there is none, or it is damaged."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        result = dict(whole["result"])
        good = whole["sha256"] == _sum(told + json.dumps(result, sort_keys=True))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        log.warning("%s is damaged. Its result is measured again.", path)
        return None
    return result
