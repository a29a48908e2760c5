"""A distiller that learns while its executor acts, behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from agentkd import dists
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.engine import Beside
from agentkd.distillation.gate import Gate, GateOptions
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.types import AnyDist, Floats, Labels

_MEASURED = 4
"""One kept label in so many is for the gate and never learnt from."""
_COMPARED = 1024
"""Kept labels that the gate compares on, at most."""
_HARMFUL = ("recent", "kept", "still")
_PATIENCE = 5
"""Harmful candidates in a row after which learning returns to the last good weights."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a distiller learns beside an executor that acts.

    Attributes:
        kept_share: The weight of the kept labels in the loss of each step; the live labels have the
            rest.
        gate: How candidates are compared with the executor that acts; None lets each one through.
    """

    kept_share: float = 0.25
    gate: GateOptions | None = field(default_factory=GateOptions)

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not 0 <= self.kept_share < 1:
            raise ConfigError(f"kept_share is {self.kept_share}; it is at least 0 and below 1.")


@final
class LiveDistiller:
    """Learns from the labels of a live run. It is a `DistillerLike` and `Gated`.

    Each step learns from live and from kept labels. `snapshot` gives weights only if they pass the
    gate; after some harmful candidates in a row, learning returns to the weights of the executor
    that acts, with a fresh optimiser.

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
        """Begin with the weights of `executor`."""
        self.live = live or LiveOptions()
        self._random = np.random.default_rng(options.seed if options else 0)
        measured = None
        if kept is not None and len(kept.obs) >= _MEASURED:
            kept, measured = _split(kept, self._random)
        self._gate = None
        if self.live.gate is not None:
            self._gate = Gate(executor, measured, self.live.gate)
        self._fades = kept is None
        labels = kept or seeds
        self._anchor: LabelBuffer | None = None
        beside = None
        if labels is not None and np.isfinite(dists.pack(labels.dist)).any():
            self._anchor = LabelBuffer(len(labels.obs))
            self._anchor.add(labels.obs, labels.dist)
            beside = Beside(self._anchor, self._random, self._remembered)
        self.distiller = Distiller(executor, options, beside=beside)
        self._base, self._untaught = executor, untaught
        self._acting: Executor | None = executor
        self._refused: dict[str, int] = {}
        self._harmful = 0

    def add(self, obs: Floats, dist: AnyDist) -> None:
        """Take labels: observations (batch, obs) and the planner's answer to them."""
        if self._gate is None:
            self.distiller.add(obs, dist)
            return
        held = self._gate.hold_out(len(obs))
        if held.any():
            self._gate.add(obs[held], dists.rows(dist, held))
        if not held.all():
            self.distiller.add(obs[~held], dists.rows(dist, ~held))

    def step(self) -> Mapping[str, float]:
        """Take one gradient step; gives what `Distiller.step` does."""
        return self.distiller.step()

    def snapshot(self) -> Floats | None:
        """Return weights that may act, as `Executor.vector` lays them out; else None."""
        candidate = self.distiller.freeze()
        reason: str | None = None
        if self._acting is None:
            reason = "architecture"
        elif self._gate is not None:
            reason = self._gate.judge(candidate, self._acting)
            if reason == "few" and self._untaught:
                reason = None
        if reason is None:
            self._acting, self._harmful = candidate, 0
            return candidate.vector()
        self._refused[reason] = self._refused.get(reason, 0) + 1
        self._harmful = self._harmful + 1 if reason in _HARMFUL else 0
        if self._harmful >= _PATIENCE and self._acting is not None:
            self._go_back(self._acting.vector())
        return None

    def follow(self, weights: Floats | None) -> None:
        """Take note of an executor that acts, and go on from it.

        Args:
            weights: Its numbers, as `Executor.vector` lays them out; None for one of another
                architecture, for which no weights can be learnt here.
        """
        if weights is None:
            self._acting = None
            return
        self._untaught &= bool(np.array_equal(weights, self._base.vector()))
        self._go_back(weights)
        if self._gate is not None and self._acting is not None:
            self._gate.begin(self._acting)

    def refused(self) -> Mapping[str, int]:
        """Return how many candidates were refused, by reason."""
        return dict(self._refused)

    def _go_back(self, weights: Floats) -> None:
        """Go on from the executor that acts, with a fresh optimiser."""
        self.distiller.warm_start(weights)
        self._acting = self._base.with_vector(weights, 0)
        self._harmful = 0

    def _remembered(self) -> tuple[int, float]:
        """Return how many kept labels to draw, and the weight that makes it their share."""
        share = self.live.kept_share
        if self._fades and self._anchor is not None:
            count = len(self._anchor)
            share *= count / (count + len(self.distiller.buffer))
        return max(1, round(share * self.distiller.options.batch)), share / (1 - share)


def _split(labels: Labels, random: np.random.Generator) -> tuple[Labels, Labels]:
    """Part labels at random into those to learn from and those to measure on."""
    order = random.permutation(len(labels.obs))
    measured = min(_COMPARED, len(order) // _MEASURED)
    parts = order[measured:], order[:measured]
    learnt, compared = (Labels(labels.obs[part], dists.rows(labels.dist, part)) for part in parts)
    return learnt, compared
