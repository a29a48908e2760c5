"""Labels from a process of its own, so that collecting and learning use two cores."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, final

import numpy as np

from agentkd import environments
from agentkd import spec as specs
from agentkd.deploy.bundle import from_bytes, to_bytes
from agentkd.distillation.collector import Collector
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task
from agentkd.errors import PlannerError
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.planners import load_policy
from agentkd.printable import logger
from agentkd.refs import working_directory_on_path
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.priority import usage
from agentkd.runtime.process import end, spawn
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.silence import Silence
from agentkd.types import Floats, Labels

log = logger(__name__)

_TICKS = 32
_RETURNS = 20
_BATCHES = 8
"""Ticks of all environments for which there is room on the way at least."""
_RESTARTS = 3
_COLLECT = "agentkd.distillation.process_source:collect"
_PATIENCE, _STARTING = 60.0, 300.0
"""Seconds without a label after which a child hangs: at work, and while it starts."""


@final
class ProcessSource:
    """Collects in a child process: labels come through a ring, weights go back.

    Args:
        task: The environment by its name, and references to the planner.
        executor: The executor to begin with.
        options: Who drives.
        seed: For resets and draws.
    """

    def __init__(
        self, task: Task, executor: Executor, options: CollectionOptions, seed: int
    ) -> None:
        """Start the child; it needs some seconds until its first labels."""
        spec, refs = task.spec, task.refs
        self._ring = LabelRing(spec)
        if self._ring.rows < _BATCHES * options.environments:
            self._ring.segment.close()
            self._ring = LabelRing(spec, _BATCHES * options.environments)
        self.restarts = 0
        self._lively = False
        self._silence = Silence()
        self._weights = Mailbox(8 + 4 * len(executor.vector()))
        self._returns = Mailbox(4 * _RETURNS)
        self._recent: tuple[float, ...] = ()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        ring = self._ring.segment.handle()
        self._order: dict[str, Any] = {
            "env": task.env,
            "planner": refs[0] if len(refs) == 1 else list(refs),
            "access": dict(task.access),
            "start": base64.b64encode(to_bytes(executor, {})).decode(),
            "spec": specs.to_json(spec),
            "options": asdict(options),
            "seed": seed,
            "ring": [self._ring.rows, *ring],
            "weights": self._weights.handle(),
            "returns": self._returns.handle(),
        }
        self._fds = (ring[0], self._weights.handle()[3], self._returns.handle()[3])
        self._child = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        order = {**self._order, "seed": self._order["seed"] + 7919 * self.restarts}
        self._lively, self._heard = False, time.monotonic()
        environment = {
            **os.environ,
            # Settled before any library asks: more threads than cores only fight.
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        # What a planner prints must not tear the live display.
        return spawn(_COLLECT, order, self._fds, environment, self._errors)

    def take(self) -> list[Labels]:
        """Give the labels that have come.

        A child that has ended or hangs is started again, three times at most, if it gave labels
        before.

        Raises:
            PlannerError: If it fails for good; its last words are in the message.
        """
        labels = self._ring.take(16384)
        if labels:
            self._lively, self._heard = True, time.monotonic()
            return labels
        ended = self._child.poll() is not None
        limit = _PATIENCE if self._lively else _STARTING
        pid, now = self._child.pid, time.monotonic()
        if not ended and not self._silence.beyond(limit, now, self._heard, lambda: usage(pid)):
            return []
        silent = now - self._heard
        why = self._last_words() if ended else f"gave no label for {silent:.0f} s"
        if not self._lively or self.restarts >= _RESTARTS:
            raise PlannerError(f"The collecting process {why}")
        self._stop()
        self.restarts += 1
        log.warning("The collecting process %s. It is started again.", why)
        self._child = self._spawn()
        return []

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        words = said.splitlines()[-1:] or ["it said nothing"]
        return f"ended with {self._child.returncode}: {words[0]}"

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""
        return self._ring.dropped

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor`, and so much of the planner, drive from now on."""
        message = np.concatenate([np.array([share, 0.0], np.float32), executor.vector()])
        self._weights.write(message.astype(np.float32).tobytes())

    def returns(self) -> Sequence[float]:
        """Returns of the executor's own last episodes."""
        for message in self._returns.take():
            self._recent = tuple(np.frombuffer(message, np.float32).tolist())
        return self._recent

    def close(self) -> None:
        """End the child and give the memory back."""
        self._stop()
        self._errors.close()
        for box in (self._ring, self._weights, self._returns):
            box.segment.close()

    def _stop(self) -> None:
        end(self._child)


def collect(order: Mapping[str, Any]) -> None:
    """Collect until the parent ends this process."""
    working_directory_on_path()
    spec = specs.from_json(order["spec"])
    rows, fd, size = order["ring"]
    ring = LabelRing(spec, rows, _segment(fd, size))
    weights, returns = (Mailbox.attach(*order[name]) for name in ("weights", "returns"))
    options = CollectionOptions(**order["options"])
    collector = Collector(
        lambda: environments.make(order["env"]),
        load_policy(order["planner"], spec, **order["access"]),
        spec,
        count=options.environments,
        seed=order["seed"],
        stretch=options.stretch,
    )
    chosen = from_bytes(base64.b64decode(order["start"])).executor
    executor = (compile_native(chosen) or chosen).policy
    share = 1.0
    while True:
        for _ in range(_TICKS):
            # The distiller is slower: wait rather than lose labels.
            while rows - len(ring) < options.environments:
                time.sleep(0.001)
            ring.push(*collector.step(executor, share).labels)
        for message in weights.take()[-1:]:
            numbers: Floats = np.frombuffer(message, np.float32)
            share = float(numbers[0])
            chosen = chosen.with_vector(numbers[2:], chosen.version + 1)
            executor = (compile_native(chosen) or chosen).policy
        if collector.recent:
            returns.write(np.array(collector.recent, np.float32).tobytes())


def _segment(fd: int, size: int) -> Any:
    from agentkd.runtime.memory import Segment

    return Segment(size, fd)
