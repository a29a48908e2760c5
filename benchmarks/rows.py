"""Results that are kept one by one, so that a benchmark can continue after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from agentkd.errors import ConfigError, WriteError
from agentkd.files import write_atomic
from agentkd.printable import logger

log = logger(__name__)


@final
class Rows:
    """Results by the text of what they depend on, each a file with its checksum.

    Args:
        out: The benchmark's folder; None keeps nothing.
        resume: Whether to use the results that are there.

    Raises:
        ConfigError: If it is to resume without a folder.
    """

    def __init__(self, out: Path | None, *, resume: bool = False) -> None:
        if resume and out is None:
            raise ConfigError("--resume goes on from what is in --out. Name the folder.")
        self._folder = None if out is None else out / "rows"
        self._resume = resume

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the result under a key; None if it is missing or damaged."""
        if self._folder is None or not self._resume:
            return None
        path = self._path(key)
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
            result = dict(whole["result"])
            good = whole["sha256"] == _sum(key, result)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            good = False
        if not good:
            log.warning("%s is damaged. Its result is measured again.", path)
            return None
        return result

    def keep(self, key: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a result of JSON values, and return it as it will be read.

        Raises:
            WriteError: If the disk refuses; what was kept before is whole.
        """
        result = dict(json.loads(json.dumps(dict(made))))
        if self._folder is None:
            return result
        whole = {"key": json.loads(key), "sha256": _sum(key, result), "result": result}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{self._folder} cannot be made: {error}.") from error
        write_atomic(self._path(key), json.dumps(whole, indent=1) + "\n")
        return result

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{_sum(key, None)[:24]}.json"


def _sum(key: str, result: Any) -> str:
    text = key + json.dumps(result, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
