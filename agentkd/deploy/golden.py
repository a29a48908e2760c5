"""Observations with what an executor gives for them, for exported forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd.deploy.bundle import answers, probes
from agentkd.executors.difference import actions_of, margins
from agentkd.executors.executor import Executor
from agentkd.types import Floats

_GOLDEN = 16
_CLEAR = 1e-3


def golden(executor: Executor, count: int = _GOLDEN) -> tuple[Floats, Floats, Any]:
    """Observations, their outputs and actions, none of them a near tie if possible.

    With a memory they are one sequence, as it comes.
    """
    obs = probes(executor, count if executor.memory else 8 * count)
    outputs = answers(executor, obs).astype(np.float32)
    clear = margins(executor, outputs) > _CLEAR
    rows = np.flatnonzero(clear)[:count] if clear.any() else np.arange(count)
    if executor.memory:
        rows = np.arange(count)
    return obs[rows], outputs[rows], actions_of(executor, outputs[rows])
