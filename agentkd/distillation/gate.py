"""The gate: whether a candidate may replace the executor that acts.

Some of the incoming labels are held out and never learnt from. A candidate passes if it is
measurably closer to the planner on the recent ones of them, and, within a margin, no farther from
it on the kept labels than the executor that acts and the one that learning began with. Both
executors are compared label by label. Where there are no kept labels, nothing passes while the
robot hardly moves: one state proves nothing about the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.matching import Matching
from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.past import outputs_at, past_layer, unrolled
from agentkd.types import AnyDist, Floats, Kind, Labels
from agentkd.views import pick

Reason = Literal["few", "unproven", "recent", "kept", "still"]
"""Why a candidate is refused: too few labels are held out yet; it is not measurably better on
recent labels; it is worse on recent labels; it is worse on kept labels; there are none of these
and the observations hardly vary."""


_STILL = 1e-3
"""Observations hardly vary if the variance of their numbers, in the mean, is below this share of
that which the executor's normaliser was made from."""
_EARLY = 4
"""In the beginning one run in so many is held out."""


class Margin(NamedTuple):
    """How much worse on kept labels a candidate may be.

    It is a share of the divergence of the executor that it is compared with, and a floor added to
    that, in units of the divergence.
    """

    share: float
    floor: float


_BOXES: tuple[Kind, ...] = ("gaussian", "squashed", "point")
MARGINS: Mapping[Kind, Margin] = {
    kind: Margin(share=0.05, floor=1e-3 if kind in _BOXES else 2e-3) for kind in dists.KINDS
}
"""The margin of each kind of label. The divergence is that of the term `match`: for choices
KL(planner || executor) in nats, summed over the choices, of action values at 0.3 of the median gap
between the best two; for boxes the squared error of the mean action in halves of the box, summed
over the dimensions."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """How candidates are compared.

    Attributes:
        block: Held-out labels are taken in runs of so many: the ticks of a moment resemble one
            another, so a run counts as one sample.
        every: One run in so many is held out.
        blocks: The most runs that are held; older ones make room.
        least: Runs before a candidate is compared.
        certainty: Standard errors by which a difference has to stand out.
    """

    block: int = 16
    every: int = 8
    blocks: int = 64
    least: int = 8
    certainty: float = 2.0

    def __post_init__(self) -> None:
        for name in ("block", "every", "blocks", "least"):
            check_range(name, getattr(self, name), whole=True)
        if self.block < 1 or self.every < 2 or not 2 <= self.least <= self.blocks:
            raise ConfigError(
                f"block={self.block}, every={self.every}, least={self.least}, "
                f"blocks={self.blocks}: block at least 1, every at least 2, and least "
                "from 2 to blocks."
            )
        check_range("certainty", self.certainty, least=0)


@final
class Gate:
    """Holds labels out and compares executors on them.

    Learning begins with `executor`; `kept` are labels that it was made from and that are not learnt
    from.
    """

    def __init__(
        self, executor: Executor, kept: Labels | None = None, options: GateOptions | None = None
    ) -> None:
        self.options = options or GateOptions()
        size, gaps = self.options.block * self.options.blocks, past_layer(executor) is not None
        self._held = LabelBuffer(size, gaps=gaps)
        self._ground = self._began = executor
        self._seen = 0
        self._recent: Matching | None = None
        self._newest: Floats | None = None
        self._kept = kept
        self._old = self._divergence(dists.kind_of(kept.dist)) if kept else None

    def begin(self, executor: Executor) -> None:
        """Compare candidates with this executor, as where learning began."""
        self._began = executor

    def hold_out(self, count: int) -> NDArray[np.bool_]:
        """Choose which of the next `count` labels are held out, (count,)."""
        options = self.options
        run = (self._seen + np.arange(count)) // options.block
        self._seen += count
        # In the beginning more are held out, so that learning shows sooner.
        early = run < _EARLY * options.least
        every = np.where(early, min(_EARLY, options.every), options.every)
        return np.asarray(run % every == every - 1)

    def add(self, obs: Floats, dist: AnyDist) -> None:
        """Take labels that are held out."""
        if self._recent is None:
            self._recent = self._divergence(dists.kind_of(dist))
        self._held.add(obs, dist)
        newest = obs if self._newest is None else np.concatenate([self._newest, obs])
        self._newest = newest[-self.options.block * self.options.least :]

    def forget(self, count: int) -> None:
        """Take the newest labels that are held out away."""
        self._held.forget(count)

    def judge(self, candidate: Executor, acting: Executor) -> Reason | None:
        """Return why a candidate may not replace what acts; None if it may."""
        block = self.options.block
        runs = len(self._held) // block
        if self._recent is None or runs < self.options.least:
            return "few"
        obs, packed = self._held.all()
        if self._kept is None and self._rests():
            return "still"
        new, old = _apart(self._recent, (candidate, acting), obs, packed)
        worse = (new - old)[: runs * block].reshape(runs, block).mean(1)
        mean, error = self._mean(worse)
        if mean - error > 0:
            return "recent"
        if self._forgets(candidate, acting):
            return "kept"
        return "unproven" if mean + error >= 0 else None

    def _rests(self) -> bool:
        """Return whether the newest observations hardly vary beside those that are known."""
        began = unrolled(self._began)
        if self._newest is None or not (began.mean.any() or (began.scale != 1).any()):
            return False  # without a normaliser nothing is known of those
        seen = (pick(began.spec.obs, self._newest) - began.mean) * began.scale
        # Before an episode's first there is the mean.
        return float(np.nan_to_num(seen).var(axis=0).mean()) < _STILL

    def _forgets(self, candidate: Executor, acting: Executor) -> bool:
        if self._kept is None or self._old is None:
            return False
        packed = dists.pack(self._kept.dist)
        executors = (candidate, acting, self._began)
        new, *olds = _apart(self._old, executors, self._kept.obs, packed)
        margin = MARGINS[dists.kind_of(self._kept.dist)]
        for old in olds:
            mean, error = self._mean(new - old)
            if mean + error > margin.share * float(old.mean()) + margin.floor:
                return True
        return False

    def _mean(self, values: Floats) -> tuple[float, float]:
        """Return the mean and the standard errors by which it has to stand out."""
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        return float(values.mean()), self.options.certainty * error

    def _divergence(self, kind: Kind) -> Matching:
        return Matching(kind, self._ground.head, self._ground.spec.action)


def _apart(
    matching: Matching, executors: tuple[Executor, ...], obs: Floats, packed: Floats
) -> list[Floats]:
    """Return how far each executor is from each label, (labels,) each."""
    matching.observe(packed)
    found = [matching.rows(outputs_at(each, obs), packed) for each in executors]
    return [np.asarray(each, np.float64) for each in found]
