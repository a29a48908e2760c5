"""Starting and closing: as a block, and without blocking an event loop."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Block(ABC):
    """Something that starts once and closes, in a `with` or an `async with` block."""

    def __init__(self) -> None:
        """Prepare; `start` begins."""
        self._started = False
        self._stop = threading.Event()

    @abstractmethod
    def start(
        self, *, wait: bool = False, timeout: float | None = None, supervisor: bool = True
    ) -> None:
        """Start."""

    @abstractmethod
    def close(self) -> None:
        """Close; a second call does nothing."""

    async def astart(
        self,
        *,
        wait: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 (as in `start`)
        supervisor: bool = True,
    ) -> None:
        """Start as `start` does, without blocking the event loop.

        A start that is cancelled closes the agent.

        Raises:
            ConfigError: If the agent was started before.
            WorkerError: As `start`.
        """
        import asyncio

        start = asyncio.to_thread(self.start, wait=wait, timeout=timeout, supervisor=supervisor)
        starting = asyncio.ensure_future(start)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Close first: it makes the start, which runs in a thread, give up.
            await self.aclose()
            with contextlib.suppress(Exception):
                await starting
            raise

    async def aclose(self) -> None:
        """Close as `close` does, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        if not self._started or self._stop.is_set():
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        if not self._started or self._stop.is_set():
            await self.astart()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
