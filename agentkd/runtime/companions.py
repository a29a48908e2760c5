"""An agent's companions: planner, distiller and decision log, opened and closed together."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, final

from agentkd.executors.executor import Executor
from agentkd.runtime.connect import port_metrics
from agentkd.runtime.distiller import DistillerPort
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.planner import PlannerPort
from agentkd.runtime.query import Demands
from agentkd.spec import Spec


@final
class Companions:
    """Planner, distiller and decision log of an agent; each may be missing.

    Args:
        planner: The planner's port.
        distiller: The distiller's port.
        log: The decision log.
    """

    def __init__(
        self, planner: PlannerPort | None, distiller: DistillerPort | None, log: DecisionLog | None
    ) -> None:
        """Take them; `open` starts them."""
        self.planner, self.distiller, self.log = planner, distiller, log
        self._closing = threading.Lock()

    @property
    def none(self) -> bool:
        """Whether there are none."""
        return self.planner is None and self.distiller is None and self.log is None

    @property
    def inline(self) -> bool:
        """Whether the distiller learns on the tick."""
        return self.distiller is not None and self.distiller.inline

    def open(
        self, executor: Executor, spec: Spec, header: Mapping[str, Any], demands: Demands
    ) -> None:
        """Open the log and start planner and distiller, without waiting for them.

        Args:
            executor: The executor that acts.
            spec: The environment; the executor's has goals besides, if there are any.
            header: What the log says of the run.
            demands: What is asked of the planner.
        """
        if self.log is not None:
            self.log.open(header, executor)
        ring = self.distiller.open(executor) if self.distiller is not None else None
        if self.planner is not None:
            self.planner.open(spec, ring, demands)

    def await_ready(self, timeout: float | None, stopped: Callable[[], bool]) -> None:
        """Wait until both are ready; see `Agent.await_ready`."""
        end = time.monotonic() + (timeout or 0.0)
        for port in (self.planner, self.distiller):
            if port is not None and not stopped():
                left = max(0.0, end - time.monotonic())
                port.await_ready(None if timeout is None else left)

    def supervise(self) -> None:
        """Restart what died or hangs."""
        for port in (self.planner, self.distiller):
            if port is not None:
                port.supervise()

    def counts(self, refused: Mapping[str, int]) -> dict[str, Any]:
        """Return what planner and distiller counted, by name.

        Args:
            refused: Swaps that the agent refused, by reason.
        """
        return port_metrics(
            self.planner.counts() if self.planner is not None else None,
            self.distiller.counts() if self.distiller is not None else None,
            refused,
        )

    def close(self) -> None:
        """End and close them all; a start that is cancelled does so from its own thread too."""
        with self._closing, contextlib.ExitStack() as stack:
            # One that fails to close keeps none of the others open.
            for each in (self.log, self.distiller, self.planner):
                if each is not None:
                    stack.callback(each.close)
