"""Labels from a process of its own, so that collecting and learning use two cores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, final

import numpy as np

from agentkd import dists, environments, spec_json
from agentkd.distillation.collector import Collector
from agentkd.distillation.sources import CollectionOptions, LocalSource, longest
from agentkd.distillation.task import Task
from agentkd.errors import PlannerError
from agentkd.executors.executor import Executor
from agentkd.planners import load_policy
from agentkd.planners.device import on_device
from agentkd.runtime.codec import decode_executor, decode_weights, encode_executor, encode_weights
from agentkd.runtime.workers.channels import STARTS, STOP, LabelRing, Mailbox, Status
from agentkd.runtime.workers.host import Child, Host, Patience, Process
from agentkd.spec import Spec
from agentkd.types import Labels

_SECONDS = 0.1
"""For how long it collects before it looks for other weights."""
_RETURNS = 20
_BATCHES = 8
"""Ticks of all environments for which there is room on the way at least."""
_RESTARTS = 3
_PATIENCE = Patience(start=300.0, answer=60.0)


@final
class ProcessSource:
    """Collects in a child process: labels come through a ring, weights go back.

    It begins with `executor`; the first labels come after some seconds. `task` names the
    environment, and the planner by references; `seed` is for resets and draws.
    """

    def __init__(
        self, task: Task, executor: Executor, options: CollectionOptions, seed: int
    ) -> None:
        spec = task.spec
        known = spec_json.to_json(spec)
        refs = task.refs[0] if len(task.refs) == 1 else list(task.refs)
        planner = {"planner": refs, "spec": known, "access": dict(task.access)}
        rows = _labelled(spec, executor)
        self._ring = LabelRing(rows)
        if self._ring.rows < _BATCHES * options.environments:
            self._ring.close()
            self._ring = LabelRing(rows, _BATCHES * options.environments)
        self._weights = Mailbox(4 + 4 * len(executor.vector()))
        self._returns = Mailbox(4 * _RETURNS)
        self._recent: tuple[float, ...] = ()
        self.restarts = 0
        self._lively = False
        self.update(executor, 1.0)
        # What the planner prints must not tear the live display.
        self._host = Host(
            "collector",
            Process(f"{__name__}:open_planner", planner, nice=0),
            f"{__name__}:serve",
            {
                "env": task.env,
                "executor": encode_executor(executor),
                "spec": known,
                "options": asdict(options),
                "seed": seed,
            },
            {"labels": self._ring, "weights": self._weights, "returns": self._returns},
            _PATIENCE,
            quiet=True,
        )
        self._host.check()

    def take(self) -> list[Labels]:
        """Return the labels that have come.

        A process that ends or hangs is started again, three times at most, if it gave labels
        before.

        Raises:
            PlannerError: If it fails for good, with what it said.
        """
        labels = self._ring.take(16384)
        if labels:
            self._lively = True
            return labels
        host = self._host
        host.check()
        if host.failures > self.restarts:
            if not self._lively or self.restarts >= _RESTARTS:
                raise PlannerError(f"The collecting process failed: {host.error}")
            self.restarts, self._lively = host.failures, False
        return []

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""
        return self._ring.dropped

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor`, and so much of the planner, drive from now on."""
        self._weights.write(encode_weights(np.append(np.float32(share), executor.vector())))

    def returns(self) -> Sequence[float]:
        """Returns of the executor's own last episodes."""
        for message in self._returns.take():
            self._recent = tuple(np.frombuffer(message, np.float32).tolist())
        return self._recent

    def close(self) -> None:
        """End the process and give the memory back."""
        self._host.close()


def _labelled(spec: Spec, executor: Executor) -> Spec:
    """Return the spec of labels' rows: an executor may be given the last action with them."""
    return replace(spec, obs=replace(spec.obs, taken=executor.spec.obs.taken))


def open_planner(
    planner: str | Sequence[str], spec: Mapping[str, Any], access: Mapping[str, Any]
) -> Any:
    """Open the planner in the collector's process."""
    return load_policy(planner, spec_json.from_json(spec), **access)


def serve(child: Child) -> None:
    """Collect until told to end; runs in the collector's process."""
    order, status = child.orders, child.status
    spec = spec_json.from_json(order["spec"])
    weights, returns = child.mailbox("weights"), child.mailbox("returns")
    first = weights.last()
    assert first is not None
    weights.take()
    share, *_ = numbers = decode_weights(first)
    chosen = decode_executor(order["executor"], numbers[1:])
    ring = LabelRing.attach(child.shared["labels"], _labelled(spec, chosen))
    options = CollectionOptions(**order["options"])
    # A process that is started again sees other episodes.
    seed = order["seed"] + 7919 * (status[STARTS] - 1)
    collector = Collector(
        lambda: environments.make_many(order["env"], options.environments),
        on_device(child.made, options.device, options.environments, spec),
        spec,
        count=options.environments,
        seed=seed,
        stretch=options.stretch,
    )
    most = max(1, min(longest(options.environments), ring.rows // (2 * options.environments)))
    source = LocalSource(collector, chosen, _SECONDS, most)
    source.update(chosen, float(share))
    status.set_ready()
    while not status[STOP]:
        for labels in source.take():
            _push(ring, labels, status)
        status.beat()
        for message in weights.take()[-1:]:
            share, *_ = numbers = decode_weights(message)
            chosen = chosen.with_vector(numbers[1:], chosen.version + 1)
            source.update(chosen, float(share))
        if collector.recent:
            returns.write(np.array(collector.recent, np.float32).tobytes())


def _push(ring: LabelRing, labels: Labels, status: Status) -> None:
    """Put labels into the ring, some at a time."""
    most = max(1, ring.rows // 2)
    for start in range(0, len(labels.obs), most):
        piece = slice(start, start + most)
        obs, link = labels.obs[piece], labels.link
        # The distiller is slower: wait rather than lose labels.
        while ring.rows - len(ring) < len(obs) and not status[STOP]:
            status.beat()
            time.sleep(0.001)
        ring.push(obs, dists.rows(labels.dist, piece), None if link is None else link[piece])
