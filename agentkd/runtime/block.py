"""Starting and closing: as a block, and without blocking an event loop."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from typing import Self

from agentkd.errors import ConfigError
from agentkd.runtime.chores import SOON, Chores

_PAUSE = 1.0
"""Seconds without a tick after which a loop rests."""


class Block(ABC):
    """Something that starts once, is looked after, and closes; a `with` or `async with` block."""

    def __init__(self) -> None:
        self._started = self._open = False
        self._process = os.getpid()
        self._stop = threading.Event()
        self._gate = threading.Lock()
        # The thread that supervises, and what ends it.
        self._supervisor: tuple[threading.Thread, threading.Event] | None = None
        self.chores = Chores()

    @abstractmethod
    def _begin(self) -> bool:
        """Start without waiting; return whether there is anything to wait for and look after."""

    @abstractmethod
    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until what was started is ready."""

    @abstractmethod
    def _end(self) -> None: ...

    def start(
        self, *, wait: bool = False, timeout: float | None = None, supervisor: bool = True
    ) -> None:
        """Start planner and distiller; the executor acts from the first tick.

        They join when they are ready. A start that fails is logged, counted in `metrics` and tried
        again, unless it can never succeed.

        Args:
            wait: Return only when both are ready.
            timeout: Seconds to wait at most; None for as long as a start may take.
            supervisor: Look after them from a thread while no loop ticks; else call `supervise`.

        Raises:
            ConfigError: If the agent was started before.
            WorkerError: If shared memory cannot be allocated; with `wait`, if a start fails or
                takes longer than `timeout`. The agent is closed then.
        """
        if self._stop.is_set() or self._started:
            raise ConfigError("An agent runs once. Make a new one.")
        self._started, self._process = True, os.getpid()
        try:
            if not self._begin():
                return
            if wait:
                self.await_ready(timeout)
        except BaseException:
            self._stop.set()
            self._end()
            raise
        with self._gate:
            stopped = self._stop.is_set()
            self._open = not stopped
        if stopped:
            self._end()
            raise ConfigError("The agent was closed while it started.")
        if supervisor:
            relieved = threading.Event()
            thread = threading.Thread(
                target=self._supervise_on, args=(relieved,), name="supervisor", daemon=True
            )
            self._supervisor = thread, relieved
            thread.start()

    def close(self) -> None:
        """End planner and distiller; the last weights are swapped in first.

        In a signal's handler that interrupts supervision, this happens right after it. A process
        that was forked from the one that started it closes nothing.
        """
        if os.getpid() != self._process:
            return
        with self._gate:
            if self._stop.is_set():
                return
            self._stop.set()
        if not self.chores.postpone(self._finish):
            self._finish()

    def _finish(self) -> None:
        self.relieve()
        self.chores.close()
        self._end()

    def _supervise_on(self, relieved: threading.Event) -> None:
        """Look after everything, but leave it to a loop while that ticks."""
        chores, resting = self.chores, True
        while not (relieved.wait(SOON if resting else _PAUSE) or self._stop.is_set()):
            resting, chores.resting = chores.resting, True
            if resting:
                # Whoever closes may have the turn and wait for this thread.
                chores.all(wait=False)

    @property
    def closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._stop.is_set()

    def relieve(self) -> None:
        """End the thread that supervises, for a loop whose pauses do not count."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            thread, relieved = supervisor
            relieved.set()
            if thread is not threading.current_thread():
                thread.join()

    def supervise(self) -> None:
        """Restart what died or hangs, and swap new weights in; not on the tick's way.

        An error is logged, once until it goes away, and ends nothing.
        """
        self.chores.all()

    async def astart(
        self,
        *,
        wait: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 (as in `start`)
    ) -> None:
        """Start as `start` does, without blocking the event loop.

        A start that is cancelled closes the agent.
        """
        import asyncio

        start = asyncio.to_thread(self.start, wait=wait, timeout=timeout)
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

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        if not self._started or self._stop.is_set():
            await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
