"""The choice at the end of a distillation: an earlier executor, if it is seen to act better.

Weights that fit the labels best now and then act worse than those of some seconds ago. So a part of
a distillation's time is kept for letting the last few executors act, on episodes that nothing else
uses. The last one stays unless another is better by more than chance would make it.

Checkpoints know nothing of it: a run that is resumed when its time was over hands over the last.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from agentkd.distillation.task import Task
from agentkd.errors import AgentkdError
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.measure.evaluate import evaluate
from agentkd.printable import logger

log = logger(__name__)

SHARE, MOST = 0.1, 10.0
"""The share of a distillation's seconds that choosing may take, and the most of them."""
MARKS = (0.7, 0.85)
"""When, in shares of the learning, an executor is kept to choose from."""
_SEED = 400_000_000
"""The first seed of the episodes, far from those that are trained and measured on."""
_ROUND, _ROUNDS = 4, 5
"""Episodes in a round, and the most rounds."""
_ASKED = 64
"""Steps of an environment between two questions whether to stop."""
_LEAST = 8
"""Episodes of each below which there is no choice."""
_CERTAINTY = 2.0
"""Standard errors by which an earlier executor has to be better."""


class _OutOfTimeError(Exception):
    """The time for choosing is over, or it was stopped, amid an episode."""


def choose(
    task: Task, executors: Sequence[Executor], seconds: float, stop: Callable[[], bool]
) -> Executor:
    """Let executors act, and return the last one, or one that did measurably better.

    Args:
        task: The environment.
        executors: In the order in which they were learnt.
        seconds: How long it may take.
        stop: Asked now and then; True ends it.
    """
    last = executors[-1]
    until = time.monotonic() + seconds

    asked = itertools.count()

    def watch(*_: object) -> None:
        if time.monotonic() > until or (next(asked) % _ASKED == 0 and stop()):
            raise _OutOfTimeError

    forms = [(compile_native(each) or each).policy for each in executors]
    returns = np.empty((len(executors), 0))
    try:
        for turn in range(_ROUNDS):
            found = [
                evaluate(
                    task.env,
                    form,
                    episodes=_ROUND,
                    seed=_SEED + turn * _ROUND,
                    spec=task.spec,
                    copies=task.copies,
                    visited=watch,
                ).returns
                for form in forms
            ]
            returns = np.concatenate([returns, np.array(found)], axis=1)
    except _OutOfTimeError:
        pass
    except AgentkdError as error:
        log.warning("No choice among the last executors: %s", error)
    if returns.shape[1] < _LEAST:
        return last
    better = returns[:-1] - returns[-1]
    unsure = better.std(axis=1, ddof=1) / math.sqrt(returns.shape[1])
    sure = better.mean(axis=1) - _CERTAINTY * unsure
    if not (sure > 0).any():
        return last
    chosen = int(sure.argmax())
    log.info("An earlier executor acts better by %.4g: it is kept.", better[chosen].mean())
    return executors[chosen]
