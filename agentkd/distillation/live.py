"""A distiller that learns while its executor acts, behind a gate, in worlds that change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from agentkd import dists
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.change import FLOOR, LEAST, LEAST_UNTAUGHT, ChangeOptions, Newest, Past
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.engine import Beside
from agentkd.distillation.gate import Gate, GateOptions
from agentkd.errors import check_range
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.types import AnyDist, Floats, Labels, Packed

log = logger(__name__)

_MEASURED = 4
"""One kept label in so many is for the gate and never learnt from."""
_COMPARED = 1024
"""Kept labels that the gate compares on, at most."""
_HARMFUL = ("recent", "kept", "still")
_PATIENCE = 5
"""Harmful candidates in a row after which learning returns to the last good weights."""
_WARMUP, _RATE = 50, 1e-3
"""In a new world no good weights are at risk: the rate is at least this after so many steps."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a distiller learns beside an executor that acts.

    Attributes:
        kept_share: The weight of the kept labels in the loss of each step; the live labels have the
            rest.
        gate: How candidates are compared with the executor that acts; None lets each one through.
        change: When the world has changed, so that its labels are no longer learnt from; None if it
            never does.
    """

    kept_share: float = 0.25
    gate: GateOptions | None = field(default_factory=GateOptions)
    change: ChangeOptions | None = field(default_factory=ChangeOptions)

    def __post_init__(self) -> None:
        check_range("kept_share", self.kept_share, least=0, below=1)


@dataclass(slots=True)
class World:
    """What was learnt in one world.

    Attributes:
        distiller: Learns from its labels.
        gate: Compares on its held-out labels.
        acting: The executor that acts in it; None for one of another architecture.
        past: How far off its executors were.
        untaught: Whether its executor knows nothing of it yet, and has nothing to lose.
    """

    distiller: Distiller
    gate: Gate | None
    acting: Executor | None
    untaught: bool
    past: Past


@final
class LiveDistiller:
    """Learns from the labels of a live run. It is a `DistillerLike`, `Gated` and `Noticing`.

    Each step learns from live and from kept labels. `snapshot` gives weights only if they pass the
    gate; after some harmful candidates in a row, learning returns to the weights of the executor
    that acts, with a fresh optimiser.

    When the world changes (`agentkd.distillation.change`), its labels and its executor go on a
    shelf, and learning begins anew from the executor that acts, without kept labels. When an
    executor on the shelf fits the newest labels better by the same factor, it acts again at once,
    and learning goes on from its labels.

    Labels for an executor with a stack or a delay are of what it is shown at a tick
    (`agentkd.executors.past.Window`): the planner has not labelled each of them.

    Args:
        executor: The executor to start from; it is taken to act.
        options: How to learn.
        kept: Labels that it was made from: they stay in the mix, and the gate measures on a part of
            them.
        seeds: Labels that stand in where there are none of these: their weight falls as live labels
            come, and the gate does not measure on them.
        live: How kept labels are mixed in and candidates compared.
        untaught: Whether `executor` begins with random weights: it has nothing to lose, so that
            candidates pass while too few labels are held out to compare them.
    """

    def __init__(
        self,
        executor: Executor,
        options: DistillerOptions | None = None,
        *,
        kept: Labels | None = None,
        seeds: Labels | None = None,
        live: LiveOptions | None = None,
        untaught: bool = False,
    ) -> None:
        self.live = live or LiveOptions()
        self._random = np.random.default_rng(options.seed if options else 0)
        measured = None
        if kept is not None and len(kept.obs) >= _MEASURED:
            kept, measured = _split(kept, self._random)
        gate = None if self.live.gate is None else Gate(executor, measured, self.live.gate)
        self._fades = kept is None
        labels = kept or seeds
        self._anchor: LabelBuffer | None = None
        beside = None
        if labels is not None and np.isfinite(dists.pack(labels.dist)).any():
            self._anchor = LabelBuffer(len(labels.obs))
            self._anchor.add(labels.obs, labels.dist)
            beside = Beside(self._anchor, self._random, self._remembered)
        self._first = Distiller(executor, options, beside=beside, windows=True)
        self.world = World(self._first, gate, executor, untaught, _past(untaught))
        self.shelf: list[tuple[World, Executor]] = []
        self._newest = None if self.live.change is None else Newest(self.live.change)
        self._base = executor
        self._returned = False
        self._refused: dict[str, int] = {}
        self._changes: dict[str, int] = {}
        self._harmful = 0

    @property
    def distiller(self) -> Distiller:
        """What learns now."""
        return self.world.distiller

    def add(self, obs: Floats, dist: AnyDist) -> None:
        """Take labels: observations (batch, obs) and the planner's answer to them.

        For an executor with a stack or a delay they are windows, (batch, shown).
        """
        packed, start = dists.packed(dist), 0
        while start < len(obs):
            room = len(obs) if self._newest is None else self._newest.missing
            part = slice(start, start + room)
            start += room
            some, answers = obs[part], dists.rows(packed, part)
            learnt = self._take(some, answers)
            newest, acting = self._newest, self.world.acting
            if newest is None or acting is None:
                continue
            if newest.add(some, answers, acting, learnt):
                self._look(newest, acting)

    def _take(self, obs: Floats, packed: Packed) -> int:
        """Learn from labels or hold them out; return how many are learnt from."""
        world = self.world
        if world.gate is None:
            world.distiller.add(obs, packed)
            return len(obs)
        held = world.gate.hold_out(len(obs))
        if held.any():
            world.gate.add(obs[held], dists.rows(packed, held))
        if not held.all():
            world.distiller.add(obs[~held], dists.rows(packed, ~held))
        return int((~held).sum())

    def step(self) -> Mapping[str, float]:
        """Take one gradient step; gives what `Distiller.step` does."""
        return self.distiller.step()

    def snapshot(self) -> Floats | None:
        """Return weights that may act, as `Executor.vector` lays them out; else None."""
        world = self.world
        if self._returned and world.acting is not None:
            self._returned = False
            return world.acting.vector()
        candidate = world.distiller.freeze()
        reason: str | None = None
        if world.acting is None:
            reason = "architecture"
        elif world.gate is not None:
            reason = world.gate.judge(candidate, world.acting)
            if reason == "few" and world.untaught:
                reason = None
        if reason is None:
            world.acting, self._harmful = candidate, 0
            return candidate.vector()
        self._refused[reason] = self._refused.get(reason, 0) + 1
        self._harmful = self._harmful + 1 if reason in _HARMFUL else 0
        if self._harmful >= _PATIENCE and world.acting is not None:
            self._go_back(world.acting.vector())
        return None

    def follow(self, weights: Floats | None) -> None:
        """Take note of an executor that acts, and go on from it.

        Args:
            weights: Its numbers, as `Executor.vector` lays them out; None for one of another
                architecture, for which no weights can be learnt here.
        """
        world, self._returned = self.world, False
        if weights is None:
            world.acting = None
            return
        world.untaught &= bool(np.array_equal(weights, self._base.vector()))
        # How far off another executor was says nothing of this one, and nothing replaces what was
        # put in by hand.
        world.past.errors.clear()
        self.shelf.clear()
        if self._newest is not None:
            self._newest.runs.clear()
        self._go_back(weights)
        if world.gate is not None and world.acting is not None:
            world.gate.begin(world.acting)

    def refused(self) -> Mapping[str, int]:
        """Return how many candidates were refused, by reason."""
        return dict(self._refused)

    def changes(self) -> Mapping[str, int]:
        """Return how often the world changed, to a "new" one or "back" to an earlier one."""
        return dict(self._changes)

    def _look(self, newest: Newest, acting: Executor) -> None:
        """Look at a whole run of labels: is this another world?"""
        options, past = self.live.change, self.world.past
        assert options is not None
        error = float(newest.errors(acting, 1)[0])
        if newest.runs[-1].constant and past.errors:
            # A planner that says the same in every state is stopped: nothing is told by that.
            error = past.errors[-1]
        past.errors.append(error)
        held = min(len(newest.runs), len(past.errors))
        jumps = (past.jumped(each, options.factor) for each in options.windows if each <= held)
        jump = next((each for each in jumps if each), 0)
        runs = jump or options.windows[len(options.windows) // 2]
        known = self._fitting(newest, runs, options) if held >= runs else None
        if known is not None:
            self._enter(newest, runs, "back", self.shelf.pop(known))
        elif jump:
            self._enter(newest, jump, "new", self._beginning(acting))

    def _fitting(self, newest: Newest, window: int, options: ChangeOptions) -> int | None:
        """Return which world on the shelf the newest labels are of; None if they are of none."""
        here = np.asarray(self.world.past.errors)[-window:]
        for index, (world, executor) in reversed(list(enumerate(self.shelf))):
            there = newest.errors(executor, window)
            # By far nearer, mostly, and in its own world that would be no jump.
            near = there.mean() <= max(options.factor * world.past.largest(window), FLOOR)
            nearer = np.median(here / np.maximum(there, 1e-9))
            if near and min(nearer, here.mean() / max(there.mean(), 1e-9)) > options.factor:
                return index
        return None

    def _beginning(self, acting: Executor) -> tuple[World, Executor]:
        """Return a world of which nothing is known but who acts in it."""
        how = self.distiller.options
        rate, warmup = max(_RATE, how.learning_rate), min(_WARMUP, how.warmup)
        options = replace(how, learning_rate=rate, warmup=warmup)
        distiller = Distiller(acting, options, windows=True)
        gate = None if self.live.gate is None else Gate(acting, None, self.live.gate)
        return World(distiller, gate, acting, untaught=True, past=_past(untaught=True)), acting

    def _enter(
        self, newest: Newest, window: int, change: str, into: tuple[World, Executor]
    ) -> None:
        """Go on in another world, of which the newest runs are; put the one at hand away."""
        assert self.live.change is not None
        left, runs = self.world, list(newest.runs)[-window:]
        left.past.forget(window)
        learnt = sum(run.learnt for run in runs)
        left.distiller.buffer.forget(learnt)
        if left.gate is not None:
            left.gate.forget(sum(len(run.obs) for run in runs) - learnt)
        self.shelf.append((left, runs[0].executor))
        del self.shelf[: max(0, len(self.shelf) - self.live.change.shelf)]
        newest.runs.clear()
        self._changes[change] = self._changes.get(change, 0) + 1
        self.world, acting = into
        if change == "back":
            self._go_back(acting.vector())
            self.world.untaught, self._returned = False, True
        for run in runs:
            self._take(run.obs, run.packed)
        what = "an executor of an earlier one acts again" if change == "back" else "learning anew"
        log.warning("The world changed: the planner's labels say so. Now %s.", what)

    def _go_back(self, weights: Floats) -> None:
        """Go on from the executor that acts, with a fresh optimiser."""
        self.distiller.warm_start(weights)
        self.world.acting = self._base.with_vector(weights, 0)
        self._harmful = 0

    def _remembered(self) -> tuple[int, float]:
        """Return how many kept labels to draw, and the weight that makes it their share."""
        share = self.live.kept_share
        if self._fades and self._anchor is not None:
            count = len(self._anchor)
            share *= count / (count + len(self._first.buffer))
        return max(1, round(share * self._first.options.batch)), share / (1 - share)


def _past(untaught: bool) -> Past:
    """Return what is known of a world at its beginning: nothing."""
    return Past(LEAST_UNTAUGHT if untaught else LEAST)


def _split(labels: Labels, random: np.random.Generator) -> tuple[Labels, Labels]:
    """Part labels at random into those to learn from and those to measure on."""
    order = random.permutation(len(labels.obs))
    measured = min(_COMPARED, len(order) // _MEASURED)
    parts = order[measured:], order[:measured]
    learnt, compared = (Labels(labels.obs[part], dists.rows(labels.dist, part)) for part in parts)
    return learnt, compared
