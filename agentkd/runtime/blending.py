"""Where one strategy goes over into another: frozen ticks, then a blend that ends.

The weights are those of real-time chunking (Black, Galliker and Levine 2025, arXiv 2506.07339,
equation 5): 1 while the old actions are frozen, then an exponential decay to exactly 0. Where the
old strategy has no row left, its last action is held; it is never continued with zeros. Choices are
never averaged: they change at a tick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd.errors import ConfigError
from agentkd.spec import ActionSpec, BoxSpec
from agentkd.types import Source

Actor = tuple[Source, int, int]
"""Who acts: the source, and of a strategy the tick of its observation and its part."""


@dataclass(frozen=True, slots=True)
class Seam:
    """How the actions of one strategy go over into those of the next.

    Attributes:
        freeze: Ticks for which a strategy that acts goes on after the next one came.
        blend: Ticks over which the old actions fade out after that; for boxes only.
    """

    freeze: int = 0
    blend: int = 0

    def __post_init__(self) -> None:
        if self.freeze < 0 or self.blend < 0:
            raise ConfigError(f"freeze={self.freeze}, blend={self.blend}: at least 0 ticks.")


def fading(step: int, blend: int) -> float:
    """The old action's weight at a step of a blend: below 1, and 0 from its end on."""
    if step >= blend:
        return 0.0
    c = (blend - step) / (blend + 1)
    return c * math.expm1(c) / math.expm1(1.0)


@final
class HandOver:
    """Blends the actions of the former actor into those of the next one.

    Raises:
        ConfigError: If choices were to be blended.
    """

    def __init__(self, seam: Seam, action: ActionSpec) -> None:
        if seam.blend and not isinstance(action, BoxSpec):
            raise ConfigError(
                f"blend={seam.blend} would average {action}. Choices change at a tick; "
                "leave blend out."
            )
        self._blend = seam.blend
        self.reset()

    def reset(self) -> None:
        """Begin an episode: nobody has acted."""
        self._actor: Actor | None = None
        self._from: Source | None = None
        self._since = 0
        self._wanted: tuple[Actor, Any] | None = None
        self._last: Any = None
        self._held: Any = None
        # How far the last action was from what its actor wanted, and what of that is carried on: a
        # blend that is cut short by the next one does not jump.
        self._apart: Any = 0.0
        self._carried: Any = 0.0

    def blended(self, actor: Actor, action: Any, tick: int, outgoing: Any, mine: Any) -> Any:
        """Return the action of the next actor, blended with what was under way.

        `outgoing` is what the strategy before would do now, or None; `mine` is what the executor
        would do now.
        """
        self._wanted = actor, action
        if self._actor is None or not self._blend:
            return action
        if actor == self._actor:
            step, before, held = tick - self._since, self._from, self._held
            carried = self._carried
        else:
            step, before, held = 0, self._actor[0], self._last
            carried = self._apart
        weight = fading(step, self._blend)
        if not weight or before is None:
            return action
        old = held
        if before == "executor" and actor[0] == "strategy":
            old = mine + carried
        elif before == "strategy" and actor[0] == "strategy" and outgoing is not None:
            old = outgoing + carried
        return (weight * old + (1.0 - weight) * action).astype(np.float32)

    def acted(self, actor: Actor, action: Any, tick: int) -> None:
        """Note who acted at a tick, and how."""
        if actor[0] == "default":
            # Nobody's wish: there is nothing to go over from.
            self.interrupted()
            return
        if actor != self._actor:
            if self._actor is not None:
                self._from, self._held = self._actor[0], self._last
                self._carried = self._apart
            self._actor, self._since = actor, tick
        self._last, self._apart = action, 0.0
        if self._blend and self._wanted is not None and self._wanted[0] == actor:
            self._apart = action - self._wanted[1]

    def interrupted(self) -> None:
        """Forget what was under way: it was refused, and must not act on."""
        self._actor = self._from = None
