"""The distiller that `Agent(…, learn=True)` starts."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.runtime.swaps import is_path
from agentkd.runtime.workers.host import Process
from agentkd.spec import to_json

_BUILD = "agentkd.distillation.service:build"


def distiller_for(
    executor: Executor, given: Executor | str | Path, owner: object
) -> tuple[Process, Callable[[], object]]:
    """Return a distiller that goes on from an executor, and what removes its temporary folder.

    Args:
        executor: The executor.
        given: What the user named it by: an architecture is learnt from nothing; a file brings its
            kept labels; an executor in memory is written to a folder first.
        owner: The folder is removed when it goes, at the latest.
    """
    if executor.memory:
        raise ConfigError(
            f"{executor.architecture} has a memory and learns from whole sequences: distil it "
            "with agentkd.distill. For learn=True take one without, such as mlp:64,64."
        )
    if isinstance(given, str) and not is_path(given):
        return Process(_BUILD, {"executor": given, "spec": to_json(executor.spec)}), _nothing
    if not isinstance(given, Executor):
        return Process(_BUILD, {"executor": str(Path(given).absolute())}), _nothing
    folder = Path(tempfile.mkdtemp(prefix="agentkd-"))
    remove = weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    executor.save(folder / "executor.akd")
    return Process(_BUILD, {"executor": str(folder / "executor.akd")}), remove


def _nothing() -> None:
    """Remove nothing."""
