"""The distiller that `Agent(…, learn=True)` starts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from agentkd.executors.executor import Executor
from agentkd.runtime.workers.host import Process
from agentkd.spec import to_json

_BUILD = "agentkd.distillation.service:build"


def distiller_for(executor: Executor, given: Executor | str | Path) -> tuple[Process, Path | None]:
    """Return a distiller that goes on from an executor, and the folder to remove later, if any.

    Args:
        executor: The executor.
        given: What the user named it by: an architecture is learnt from nothing; a file brings its
            kept labels; an executor in memory is written to a folder first.
    """
    if isinstance(given, str) and given == executor.architecture:
        return Process(_BUILD, {"executor": given, "spec": to_json(executor.spec)}), None
    path = executor.about.path if isinstance(given, Executor) else Path(given)
    folder = None
    if path is None:
        folder = Path(tempfile.mkdtemp(prefix="agentkd-"))
        path = folder / "executor.akd"
        try:
            executor.save(path)
        except BaseException:
            remove(folder)
            raise
    return Process(_BUILD, {"executor": str(path.absolute())}), folder


def remove(folder: Path) -> None:
    """Remove the folder, as far as the system allows."""
    shutil.rmtree(folder, ignore_errors=True)
