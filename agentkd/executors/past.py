"""What an executor with a stack or a delay is shown of the past, outside of it.

Such an executor remembers past observations, and actions that were executed, and nothing that it
computed. So it is also an executor without a memory that is given all of that at once: a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np

from agentkd.executors.architecture import initial, past_of
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Past, Stack, sizes
from agentkd.spec import ObsSpec, Part, Spec
from agentkd.types import Floats
from agentkd.views import parse_view, whole, words_of


def past_layer(executor: Executor) -> Past | Stack | None:
    """Return the layer of past observations that an executor begins with, if it does."""
    first = executor.layers[0]
    return first if isinstance(first, Past | Stack) else None


def past_words(executor: Executor) -> list[str]:
    """Return how much of the past an executor sees, in the words of `agentkd.views`."""
    return words_of(whole(executor.spec.obs), past_of(executor))


def made_again(
    architecture: str, spec: Spec, past: Sequence[str], *, seed: int = 0, squashed: bool = True
) -> Executor:
    """Make an untrained executor of another one's spec; `past` is what `past_words` says of it."""
    # What is seen of the observation stands in the spec.
    sees = parse_view(past) if past else None
    shown = replace(spec, obs=replace(spec.obs, taken=0))
    return initial(architecture, shown, seed=seed, squashed=squashed, sees=sees)


def unrolled(executor: Executor) -> Executor:
    """Return an executor without its layer of the past, for observations that hold it already."""
    past = past_layer(executor)
    if past is None:
        return executor
    part = Part("", "box", (sizes(past)[1],), "float32")
    return replace(
        executor,
        spec=replace(executor.spec, obs=ObsSpec((part,))),
        mean=spread(executor.mean, past),
        scale=spread(executor.scale, past),
        layers=executor.layers[1:],
    )


def rolled(learnt: Executor, executor: Executor) -> Executor:
    """Return `executor` with the numbers that its form without a layer of the past has learnt."""
    past = past_layer(executor)
    if past is None:
        return learnt
    return replace(
        executor,
        mean=newest_of(learnt.mean, past),
        scale=newest_of(learnt.scale, past),
        layers=(past, *learnt.layers),
        version=learnt.version,
        about=learnt.about,
    )


def spread(numbers: Floats, past: Past | Stack) -> Floats:
    """Return numbers of an observation for each of those that a layer of the past gives."""
    actions = past.actions if isinstance(past, Past) else 0
    seen, taken = numbers[: past.size], numbers[past.size :]
    return np.concatenate([np.tile(seen, past.count), np.tile(taken, actions)])


def newest_of(windows: Floats, past: Past | Stack) -> Floats:
    """Return the newest observation and action in windows, (…, shown): (…, obs)."""
    end = past.count * past.size
    seen = windows[..., end - past.size : end]
    if isinstance(past, Stack):
        return seen
    return np.concatenate([seen, windows[..., windows.shape[-1] - past.width :]], axis=-1)


def outputs_at(executor: Executor, windows: Floats) -> Floats:
    """Return the last layer's numbers for what an executor is shown, (batch, out).

    Args:
        executor: One without a memory, or with a stack or a delay.
        windows: Observations, or `Window`s, (batch, shown).
    """
    shown = unrolled(executor)
    gaps = np.isnan(windows)
    return shown.outputs(np.where(gaps, shown.mean, windows) if gaps.any() else windows)


def carried(memory: Floats, before: Executor, after: Executor) -> Floats:
    """Return what an executor remembers, (memory,), as another one would that follows it.

    The past is remembered in the units of the normaliser, which may be another one. What was
    clipped in them is lost; a `Window` knows it (`Window.remembered`).
    """
    past = past_layer(before)
    same = (np.array_equal(getattr(before, n), getattr(after, n)) for n in ("mean", "scale"))
    if past is None or all(same):
        return memory
    held = past.held if isinstance(past, Past) else len(memory)
    cut, pieces = past.size, []
    for numbers, part in ((memory[:held], slice(cut)), (memory[held:], slice(cut, None))):
        mean, scale = before.mean[part], before.scale[part]
        rows = numbers.reshape(-1, max(1, len(mean)))
        raw = rows / np.where(scale, scale, 1) + mean
        clip = after.clip
        turned = np.clip((raw - after.mean[part]) * after.scale[part], -clip, clip)
        # Before an episode's first there are zeros, in any units.
        known = np.logical_or.accumulate(rows.any(axis=1))[:, None]
        pieces.append(np.where(known, turned, np.float32(0)).ravel())
    return np.concatenate(pieces).astype(np.float32)


@final
class Window:
    """What an executor with a stack or a delay is shown, tick by tick, in the environment's units.

    It does not depend on the executor's normaliser, so labels of it hold for every executor.
    """

    def __init__(self, past: Past | Stack) -> None:
        lag, actions, width = 0, 0, 0
        if isinstance(past, Past):
            lag, actions, width = past.lag, past.actions, past.width
        self.size = sizes(past)[1]
        self._shown = past.count * past.size
        self._seen = np.empty((past.count + lag) * past.size, np.float32)
        self._taken = np.empty(actions * width, np.float32)
        self._rows = past.size, width
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._seen[:] = self._taken[:] = np.nan

    def remembered(self, executor: Executor) -> Floats:
        """Return what an executor that was shown all this would remember, (memory,)."""
        size, width = self._rows
        pieces = []
        for numbers, part in (
            (self._seen[size:], slice(size)),
            (self._taken, slice(size, size + width)),
        ):
            mean, scale = executor.mean[part], executor.scale[part]
            rows = numbers.reshape(-1, max(1, len(mean)))
            turned = np.clip((rows - mean) * scale, -executor.clip, executor.clip)
            pieces.append(np.where(np.isnan(rows), np.float32(0), turned).ravel())
        return np.concatenate(pieces).astype(np.float32)

    def tick(self, obs: Floats) -> Floats:
        """Return what is shown at the next observation, (shown,): NaN where nothing was yet.

        `obs` is what the executor sees, (obs,), with a delay also the action of the tick before.
        """
        size, width = self._rows
        self._seen[:-size] = self._seen[size:]
        self._seen[-size:] = obs[:size]
        if width:
            self._taken[:-width] = self._taken[width:]
            self._taken[-width:] = obs[size:]
        return np.concatenate([self._seen[: self._shown], self._taken])
