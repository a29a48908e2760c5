"""Labels with the observations before them, for executors that see a stack, or a delay.

Such an executor remembers past observations, and actions that were executed, and nothing that it
computed. So it need not be followed along sequences: what is learnt is an executor without a memory
whose observation is all that, and any label can be drawn with those before it. Labels of a live run
are windows of the past already (`agentkd.executors.past.Window`): what came before them may never
have been labelled.
"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd.distillation.buffer import LabelBuffer
from agentkd.executors.layers import Past, Stack, sizes
from agentkd.executors.past import newest_of, spread
from agentkd.types import Floats

_TRIES = 16


@final
class Histories:
    """The labels of a buffer, each with what was before it in its episode.

    Args:
        labels: With their links. For a `Past` each observation ends in the action that was executed
            at the tick before.
        past: What of it an executor is shown.
        windows: Whether each label holds all of that already, with NaN where there was nothing.

    Attributes:
        blank: What stands before an episode's first observation: what the normaliser makes 0.
    """

    def __init__(self, labels: LabelBuffer, past: Past | Stack, *, windows: bool = False) -> None:
        self.blank: Floats = np.zeros(sizes(past)[0], np.float32)
        self._labels, self._past, self._windows = labels, past, windows
        self._drawn: Floats = np.empty((0, 0), np.float32)

    def places(self, batch: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Draw labels uniformly, with replacement, into `rows`; return their places there."""
        self._drawn = np.concatenate(self.draw(batch, random), axis=1)
        return np.arange(batch)

    def rows(self) -> tuple[Floats, int]:
        """Return what was drawn, (batch, shown + width), and how many numbers are observed."""
        return self._drawn, sizes(self._past)[1]

    def draw(self, batch: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw labels: what an executor is shown, (batch, …), and packed ones (batch, width)."""
        rows, split = self._labels.rows()
        chosen = self._labels.places(batch, random)
        obs, cut = self._shown(chosen, rows[:, :split])
        for _ in range(_TRIES):
            if not cut.any():
                break
            # What came before these is no longer held, or was left out.
            chosen[cut] = self._labels.places(int(cut.sum()), random)
            again, still = self._shown(chosen[cut], rows[:, :split])
            obs[cut], cut[cut] = again, still
        return obs, rows[chosen, split:]

    def sample(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw labels of the newer half, each at most once, as `draw` gives them."""
        return self.at(self._labels.newer(count, random))

    def observed(self) -> Floats:
        """Return all observations, with the actions before them, (n, obs)."""
        obs = self._labels.all()[0]
        if not self._windows:
            return obs
        newest = newest_of(obs, self._past)
        whole = np.isfinite(newest).all(axis=1)
        return newest if whole.all() else newest[whole]

    def newest(self, batch: int, newest: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw among the newest labels, as `draw` does; those that are cut off are left out."""
        return self.at(self._labels.places(batch, random, newest))

    def at(self, places: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return labels, as `draw` does; those that are cut off are left out."""
        rows, split = self._labels.rows()
        obs, cut = self._shown(places, rows[:, :split])
        return obs[~cut], rows[places[~cut], split:]

    def spread(self, numbers: Floats) -> Floats:
        """Return numbers of an observation, (size,), for each of those shown."""
        return spread(numbers, self._past)

    def _shown(self, places: NDArray[np.int64], obs: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return what is shown at places, oldest first, and where something is cut off."""
        if self._windows:
            shown, none = obs[places], np.zeros(len(places), bool)
            return np.where(np.isnan(shown), self.spread(self.blank), shown), none
        past, size = self._past, self._past.size
        lag, actions = (past.lag, past.actions) if isinstance(past, Past) else (0, 0)
        seen = np.empty((len(places), past.count, size), np.float32)
        taken = np.empty((len(places), actions, len(self.blank) - size), np.float32)
        here, alive = places, np.ones(len(places), bool)
        cut = np.zeros(len(places), bool)
        for back in range(max(lag + past.count, actions)):
            if back:
                before, begins = self._labels.before(here)
                cut |= alive & (before < 0) & ~begins
                alive = alive & (before >= 0)
                here = np.where(alive, before, here)
            rows = obs[here]
            if not alive.all():
                rows[~alive] = self.blank
            if lag <= back < lag + past.count:
                seen[:, past.count - 1 - back + lag] = rows[:, :size]
            if back < actions:
                taken[:, actions - 1 - back] = rows[:, size:]
        shown = seen.reshape(len(places), past.count * size)
        if actions:
            shown = np.concatenate([shown, taken.reshape(len(places), -1)], axis=1)
        return shown, cut
