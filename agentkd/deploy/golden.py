"""Observations with what an executor gives for them, for exported forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd.deploy.bundle import answers, probes
from agentkd.executors.difference import actions_of, margins
from agentkd.executors.frozen import Frozen
from agentkd.types import Floats

_GOLDEN = 16
_CLEAR = 1e-3


def golden(frozen: Frozen, count: int = _GOLDEN) -> tuple[Floats, Floats, Any]:
    """Observations, their outputs and actions, none of them a near tie if possible.

    With a memory they are one sequence, as it comes.
    """
    obs = probes(frozen, count if frozen.memory else 8 * count)
    outputs = answers(frozen, obs).astype(np.float32)
    clear = margins(frozen, outputs) > _CLEAR
    rows = np.flatnonzero(clear)[:count] if clear.any() else np.arange(count)
    if frozen.memory:
        rows = np.arange(count)
    return obs[rows], outputs[rows], actions_of(frozen, outputs[rows])
