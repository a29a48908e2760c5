"""What an executor sees of whole observations, where that is something else than all of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agentkd.executors.acting import Form
from agentkd.executors.executor import Executor
from agentkd.executors.past import Window, past_layer
from agentkd.spec import ObsSpec, Spec, flatten_one
from agentkd.types import Floats
from agentkd.views import columns


class Sight(NamedTuple):
    """What an executor sees, and where the present observation is laid out.

    Attributes:
        obs: What is seen.
        columns: Which numbers of the whole observation.
        row: The whole observation.
        taken: How many numbers of its observation are the action that was executed before.
        window: What it is shown of the past, where labels are of that.
    """

    obs: ObsSpec
    columns: Any
    row: Floats
    taken: int
    window: Window | None

    def write(self, obs: Any, shape: tuple[int, ...] | None, out: Floats) -> None:
        """Write what the executor sees; the rest of the observation may be missing.

        Whole observations of `shape` need not be laid out.
        """
        try:
            if obs.__class__ is np.ndarray and obs.shape == out.shape:
                out[:] = obs
            elif obs.__class__ is np.ndarray and obs.shape == shape:
                out[:] = obs[self.columns]
            else:
                out[:] = flatten_one(self.obs, obs)
        except RuntimeWarning:
            # Too large for float32, where warnings are errors.
            out[:] = np.inf

    def begin(self, form: Form) -> None:
        """Begin an episode: nothing was executed, and nothing observed."""
        if self.taken:
            form.obs[-self.taken :] = 0.0
        if self.window is not None:
            self.window.reset()


def sight_of(executor: Executor, known: Spec, spec: Spec, *, learns: bool) -> Sight | None:
    """Return what an executor sees of observations of `spec`; None if all, and nothing else.

    `known` is its own spec, without goals. If it `learns`, labels are of what it is shown.
    """
    past = past_layer(executor) if learns else None
    if spec == known and past is None:
        return None
    found, row = columns(known.obs), np.zeros(spec.obs.size, np.float32)
    window = None if past is None else Window(past)
    return Sight(known.obs, slice(None) if found is None else found, row, known.obs.taken, window)
