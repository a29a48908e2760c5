"""A file that is followed: its executor, whenever another one was put there."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any, final

from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.deploy.contract import Contract
from agentkd.errors import BundleError, ConfigError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.spec import Spec

_EVERY = 0.1
"""Seconds between two looks."""
_SETTLED = 2.0
"""Seconds after which a file's times tell that nothing is being written: a change within one step
of the file system's clock would not show in them."""

_Facts = tuple[int, int, int, int, int]


@final
class Watched:
    """Follows the executor file at a path.

    It may be renamed over, rewritten in place, deleted and put back, or be a symbolic link that is
    switched. A file that is only half written is read again until it is whole, or the same twice
    and bad.

    Args:
        path: The file.
        digest: The digest of the executor that acts, as `Bundle.digest` gives it.
    """

    def __init__(self, path: str | Path, digest: str) -> None:
        """Take the place; `changed` looks."""
        self.path = Path(path).absolute()
        self._digest = digest
        self._facts: _Facts | None = None
        self._bad: tuple[_Facts, str] | None = None
        self._told = False
        self._next = 0.0

    def changed(self, *, now: bool = False) -> Bundle | None:
        """Return what the file holds if it is something else than at the last look.

        Args:
            now: Look even if the last look was a moment ago.

        Raises:
            BundleError: If the file is bad and stays so; once for each bad file.
        """
        moment = time.monotonic()
        if moment < self._next and not now:
            return None
        self._next = moment + _EVERY
        facts = self._look()
        if facts is None or facts == self._facts:
            return None
        try:
            bundle = read_bundle(self.path)
        except BundleError as error:
            self._judge(facts, error)
            return None
        self._bad = None
        self._remember(facts)
        if bundle.digest == self._digest:
            return None
        self._digest = bundle.digest
        return bundle

    def _look(self) -> _Facts | None:
        """Return what tells one state of the file from another; None for no file."""
        try:
            found = self.path.stat()
        except OSError:
            # It may be on its way: the executor that acts stays.
            self._facts = self._bad = None
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _judge(self, facts: _Facts, error: BundleError) -> None:
        """Raise the error if the file was as bad before, else wait for the rest."""
        bad = facts, str(error)
        if self._bad != bad:
            self._bad, self._told = bad, False
            return
        self._remember(facts)
        if not self._told:
            self._told = True
            raise error

    def _remember(self, facts: _Facts) -> None:
        if time.time() - max(facts[3], facts[4]) * 1e-9 > _SETTLED:
            self._facts = facts


def open_executor(
    executor: Executor | str | Path, spec: Spec | None, *, watch: bool
) -> tuple[Executor, Contract | None, Watched | None]:
    """Return an executor; the contract of its file; and what follows the file.

    Args:
        executor: The executor, the path of its file, or an architecture such as "mlp:32,32".
        spec: The environment, which an architecture needs.
        watch: Follow the file.

    Raises:
        ConfigError: If it is none of these, an architecture lacks its environment, or there is no
            file to follow.
        SpecError: If the executor is for another environment.
        BundleError: If the file cannot be read.
    """
    if isinstance(executor, Executor):
        found, contract, digest = executor, executor.about.contract, ""
    elif isinstance(executor, Path) or _is_path(executor):
        bundle = read_bundle(executor)
        found, contract, digest = bundle.executor, bundle.contract, bundle.digest
    elif isinstance(executor, str):
        if spec is None:
            raise ConfigError(
                f"The architecture {executor!r} needs its environment: Agent({executor!r}, "
                "env_spec(env)). An executor file ends in .akd."
            )
        found, contract, digest = initial(executor, spec), None, ""
    else:
        raise ConfigError(
            f"{type(executor).__name__} is no executor: give an Executor, the path of an .akd "
            'file, or an architecture such as "mlp:32,32".'
        )
    if spec is not None and (found.spec.obs != spec.obs or found.spec.action != spec.action):
        raise SpecError(f"The executor is for {found.spec}, not for {spec}.")
    if not watch:
        return found, contract, None
    if not digest:
        raise ConfigError("watch=True follows an executor's file: give its path.")
    assert isinstance(executor, str | Path)
    return found, contract, Watched(executor, digest)


def _is_path(text: Any) -> bool:
    """Whether text names an executor file rather than an architecture."""
    return isinstance(text, str) and (
        text.endswith(".akd") or "/" in text.partition(":")[0] or Path(text).is_file()
    )
