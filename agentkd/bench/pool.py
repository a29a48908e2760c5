"""Worker processes of this machine that measure cells, each one at a time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, final

from agentkd.bench.orders import Done, Order, done_of, order_of, words_of
from agentkd.runtime.workers.channels import STOP, Bell, Mailbox
from agentkd.runtime.workers.host import Child, Host, Patience, Process

_ORDER, _RESULT = 1 << 18, 1 << 20
"""Bytes of an order, and of what comes back: 10,000 returns fit."""
_LOOK = 0.02
"""Seconds between two looks at the workers."""
_PATIENCE = Patience(start=600.0, answer=math.inf, grace=0.2)


class Backend(Protocol):
    """Where cells are measured."""

    @property
    def room(self) -> int:
        """How many more cells may begin."""

    def begin(self, order: Order) -> None:
        """Begin to measure a cell."""

    def ended(self) -> Sequence[Done]:
        """Wait a moment, and return the cells that have ended since; maybe none."""

    def close(self) -> None:
        """End what is under way, and release everything."""


@final
class Pool:
    """Some worker processes, started fresh, with one thread each.

    They end with this process, however it ends.
    """

    def __init__(self, jobs: int) -> None:
        self._free = jobs
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    @property
    def room(self) -> int:
        """How many more cells may begin."""
        return self._free - len(self._busy)

    def begin(self, order: Order) -> None:
        """Begin to measure a cell, in a new process if no other is idle."""
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy.append(worker)
        worker.begin(order)

    def ended(self) -> Sequence[Done]:
        """Wait a moment, and return the cells that have ended since."""
        found = []
        for worker in list(self._busy):
            done = worker.look()
            if done is None:
                continue
            self._busy.remove(worker)
            if done.lost:
                worker.close()
            else:
                self._idle.append(worker)
            found.append(done)
        if not found:
            time.sleep(_LOOK)
        return found

    def close(self) -> None:
        """End the workers."""
        for worker in (*self._busy, *self._idle):
            worker.close()


@final
class _Worker:
    """One process, and the key of the cell that it measures."""

    def __init__(self) -> None:
        self._key = ""
        self._orders, self._results, self._bell = Mailbox(_ORDER), Mailbox(_RESULT), Bell()
        shared: Mapping[str, Any] = {
            "orders": self._orders,
            "results": self._results,
            "bell": self._bell,
        }
        process = Process(f"{__name__}:nothing", nice=0)
        self._host = Host(
            "worker",
            process,
            f"{__name__}:serve",
            {},
            shared,
            _PATIENCE,
            wake=self._bell.ring,
            quiet=True,
        )

    def begin(self, order: Order) -> None:
        self._key = order.key
        told = {"key": order.key, "cell": asdict(order.cell), "file": order.file}
        self._orders.write(json.dumps(told).encode())
        self._host.check()
        self._bell.ring()

    def look(self) -> Done | None:
        """Return what became of the cell; None while it is measured."""
        self._host.check()
        for message in self._results.take():
            return done_of(message)
        if self._host.failures:
            return Done(self._key, error=f"WorkerError: {_line(self._host.error)}", lost=True)
        return None

    def close(self) -> None:
        self._host.close()


def _line(text: str) -> str:
    """Give the end of what a process said, in a line."""
    return " ".join(text.split())[-500:] or "The worker is gone."


def nothing() -> None:
    """Make nothing before the first order."""


def serve(child: Child) -> None:
    """Measure cells until told to end; runs in the worker's process."""
    from agentkd.bench.work import carry_out

    orders, results = child.mailbox("orders"), child.mailbox("results")
    bell = Bell.attach(child.shared["bell"])
    child.status.set_ready()
    while not child.status[STOP]:
        for message in orders.take():
            results.write(words_of(carry_out(order_of(message))))
        bell.wait(1.0)
