"""The inside of a distiller's process: learn from the ring, and publish weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from agentkd.runtime.codec import decode_turn, encode_turn
from agentkd.runtime.workers.channels import ERRORS, LABELS, STEPS, STOP, LabelRing
from agentkd.runtime.workers.child import Child, describe
from agentkd.spec import from_json
from agentkd.types import DistillerLike, Gated

ENOUGH = 3
"""Errors in a row after which a distiller is given up, or made anew."""
TOLD = 4096
"""Bytes of a report on progress."""
_IDLE = 0.01


def refused_by(distiller: DistillerLike) -> Mapping[str, int]:
    """Return how many of its weights a distiller refused itself, by reason."""
    return distiller.refused() if isinstance(distiller, Gated) else {}


def serve(child: Child) -> None:
    """Learn from the ring until told to end; runs in the distiller's process."""
    orders, status = child.orders, child.status
    ring = LabelRing.attach(child.shared["labels"], from_json(orders["spec"]))
    reports = _Reports(child)
    distiller: DistillerLike = child.made
    reports.go_on()
    status.set_ready()
    failures, published, learnt = 0, time.monotonic(), False
    progress: Mapping[str, float] = {}
    while not status[STOP]:
        status.beat()
        try:
            reports.hear()
            batches = ring.take()
            for batch in batches:
                status[LABELS] += len(batch.obs)
                distiller.add(batch.obs, batch.dist)
            progress = distiller.step()
        except Exception as error:
            failures += 1
            status[ERRORS] += 1
            if failures == ENOUGH:
                raise
            child.say(describe(error))
            continue
        failures = 0
        if progress:
            learnt = True
            status[STEPS] += 1
        elif not batches:
            time.sleep(_IDLE)
        if learnt and time.monotonic() - published >= orders["publish_seconds"]:
            published, learnt = time.monotonic(), False
            reports.publish(progress)
    if learnt:
        reports.hear()
        reports.publish(progress)


class _Reports:
    """What the distiller's process hears of the executor, and what it sends."""

    def __init__(self, child: Child) -> None:
        self._weights = child.mailbox("weights")
        self._acting = child.mailbox("acting")
        self._told = child.mailbox("told")
        self._made = child.made
        self._turn, self._fits = 0, True

    def go_on(self) -> None:
        """Go on from the executor that acts, or from the weights that came before."""
        self._acting.take()
        acting, last = self._acting.last(), self._weights.last()
        weights = None
        if acting is not None:
            self._turn, self._fits, weights = decode_turn(acting)
        published = None if last is None else decode_turn(last)
        if published is not None and published[0] == self._turn:
            weights = published[2]
        if isinstance(self._made, Gated):
            self._made.follow(weights if self._fits else None)
        elif published is not None and hasattr(self._made, "warm_start"):
            self._made.warm_start(weights)

    def hear(self) -> None:
        """Take note of an executor that was swapped in."""
        found = self._acting.take()
        if not found:
            return
        self._turn, self._fits, weights = decode_turn(found[-1])
        if isinstance(self._made, Gated):
            self._made.follow(weights if self._fits else None)

    def publish(self, progress: Mapping[str, float]) -> None:
        """Send weights, if the distiller gives some, and say how it goes."""
        found = self._made.snapshot()
        if found is not None and self._fits:
            self._weights.write(encode_turn(self._turn, True, found))
        told = {
            "pid": os.getpid(),
            "refused": dict(refused_by(self._made)),
            "progress": {key: float(value) for key, value in progress.items()},
        }
        text = json.dumps(told)
        if len(text) <= TOLD:
            self._told.write(text.encode())
