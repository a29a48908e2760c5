"""A line in a thread of its own, for programs whose own loop is not asyncio's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from typing import Any, TypeVar, final

from agentkd.affinity import unbind
from agentkd.errors import AgentkdError
from agentkd.printable import logger

log = logger(__name__)

_LOOK = 0.5
"""Seconds after which a call looks whether the thread still runs."""
Work = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Makes the coroutine that holds a line; the coroutine calls the argument once it has begun."""
T = TypeVar("T")


@final
class LineThread:
    """Runs a coroutine that holds a line, in an event loop and a thread of its own.

    What it raises after it has begun is logged, and the program goes on.

    Args:
        work: Makes the coroutine.
        name: The thread's.
        what: The other end of the line, for errors.

    Raises:
        Exception: What the coroutine raises before it has begun.
    """

    fault: Exception | None = None
    """What the line ended in, if that was an error."""

    def __init__(self, work: Work, name: str, what: str) -> None:
        self._what = what
        self._cancel: Callable[[], object] = lambda: None
        self._began, begun = False, threading.Event()

        def begin() -> None:
            self._began = True
            begun.set()

        async def hold() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._loop, self._cancel = asyncio.get_running_loop(), task.cancel
            await work(begin)

        def run() -> None:
            try:
                unbind()
                with asyncio.Runner() as runner:
                    runner.run(hold())
            except asyncio.CancelledError:
                pass
            except Exception as error:  # the program goes on
                self.fault = error
                if self._began:
                    log.exception("The line to %s ended in an error.", what)
            finally:
                begun.set()

        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()
        begun.wait()
        if not self._began and self.fault is not None:
            self._thread.join()
            raise self.fault

    @property
    def alive(self) -> bool:
        """Whether the line is held."""
        return self._thread.is_alive()

    def post(self, function: Callable[[], object]) -> None:
        """Call a function in the thread, soon; nothing happens if the line has ended."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(function)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread, and return what it returns.

        Raises:
            AgentkdError: If the line has ended, or ends meanwhile.
            Exception: What the coroutine raises.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:
            coroutine.close()
            raise self._ended() from error
        try:
            # A loop that is closing takes calls that it does not finish.
            while self.alive and not wait((future,), _LOOK).done:
                pass
            if not future.done():
                coroutine.close()
                raise self._ended()
            return future.result()
        except CancelledError as error:
            raise self._ended() from error
        finally:
            if not self._loop.is_closed():
                future.cancel()

    def close(self) -> None:
        """End the line."""
        self.post(self._cancel)
        self._thread.join()

    def _ended(self) -> AgentkdError:
        self._thread.join()
        how = "was closed" if self.fault is None else f"ended in an error: {self.fault}"
        return AgentkdError(f"The line to {self._what} {how}.")


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, for so many seconds at most.

    `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
