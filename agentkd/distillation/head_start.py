"""Labels from this process until the collecting one has started: that takes time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import final

from agentkd.distillation.source import Source
from agentkd.errors import AgentkdError
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.types import Labels

log = logger(__name__)

_AT_ONCE = 0.01
_SLOW = 0.1
"""Seconds: a planner that takes longer for a tick would keep the distiller waiting."""


@final
class HeadStart:
    """Takes labels here as long as the other source gives none. It is a `Source`.

    What fails here is left to the other source, which is started anew and says why.

    Args:
        here: Makes a source that collects in this process.
        there: The source that takes time to start.
    """

    def __init__(self, here: Callable[[], Source], there: Source) -> None:
        """Start both."""
        self._there = there
        self._here: Source | None = None
        try:
            self._here = here()
        except Exception as error:  # an environment of a user's may raise anything
            log.info("No labels from this process: %s", error)

    @property
    def restarts(self) -> int:
        """How often what collects had to be started again."""
        return self._there.restarts

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""
        return self._there.dropped

    def take(self) -> list[Labels]:
        """Give what is there; as long as that is nothing, some of our own."""
        labels = self._there.take()
        if labels:
            self._stop()
            return labels
        begin = time.monotonic()
        while self._here is not None and time.monotonic() - begin < _AT_ONCE:
            since = time.monotonic()
            try:
                labels += self._here.take()
            except AgentkdError as error:
                log.info("No more labels from this process: %s", error)
                self._stop()
                break
            if time.monotonic() - since > _SLOW:
                self._stop()
        return labels

    def update(self, executor: Executor, share: float) -> None:
        """Let a newer executor, and so much of the planner, drive from now on."""
        self._there.update(executor, share)
        if self._here is not None:
            self._here.update(executor, share)

    def returns(self) -> Sequence[float]:
        """Returns of the last episodes that an executor drove from start to end."""
        return self._there.returns()

    def close(self) -> None:
        """Stop collecting and give everything back."""
        self._stop()
        self._there.close()

    def _stop(self) -> None:
        if self._here is not None:
            self._here.close()
            self._here = None
