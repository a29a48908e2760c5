"""An executor's file that is followed."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, final

from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.errors import BundleError

if TYPE_CHECKING:
    from agentkd.signing.store import Trusting

_EVERY = 0.1
"""Seconds between two looks at a file."""
_SETTLED = 2.0
"""Seconds after which a file's times tell that nothing is being written: a change within one step
of the file system's clock would not show in them."""

_Facts = tuple[int, ...]


@final
class Watched:
    """Follows the executor file at a path.

    It may be renamed over, rewritten in place, deleted and put back, or be a symbolic link that is
    switched. A file that is only half written is read again until it is whole, or the same twice
    and bad. `digest` is of the executor that acts. With `trust`, its proof is followed too.
    """

    def __init__(self, path: str | Path, digest: str, trust: Trusting | None = None) -> None:
        self.path = Path(path).absolute()
        self._trust = trust
        self._digest = digest
        self._facts: _Facts | None = None
        self._bad: tuple[_Facts, str] | None = None
        self._told = False
        self._next = 0.0

    def stirred(self) -> bool:
        """Return whether the file has to be read, ten times a second; `changed` reads it."""
        if time.monotonic() < self._next:
            return False
        facts = self._look()
        if facts is not None and facts != self._facts:
            return True
        self._next = time.monotonic() + _EVERY
        return False

    def changed(self) -> Bundle | None:
        """Return what the file holds if that changed since the last look.

        Raise BundleError if the file is bad and stays so; once for each bad file.
        """
        self._next = time.monotonic() + _EVERY
        facts = self._look()
        if facts is None or facts == self._facts:
            return None
        try:
            bundle = read_bundle(self.path, trust=self._trust)
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
        return (*_facts(found), *self._look_at_proof())

    def _look_at_proof(self) -> _Facts:
        """Return what tells one state of the proof from another; () without trust or proof."""
        if self._trust is None:
            return ()
        from agentkd.signing.proof import proof_path

        try:
            return _facts(proof_path(self.path).stat())
        except OSError:
            return ()

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
        # A clock that is ahead, of another machine, settles as well.
        newest = max(facts[each] for each in (3, 4, 8, 9) if each < len(facts))
        if abs(time.time() - newest * 1e-9) > _SETTLED:
            self._facts = facts


def _facts(found: os.stat_result) -> _Facts:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
