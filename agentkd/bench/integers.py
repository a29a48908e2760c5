"""What an executor's integer form keeps of its return, over many planners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agentkd.bench.suite import Case
from agentkd.deploy.bundle import from_bytes, to_bytes
from agentkd.deploy.int8.calibrate import held, integer_form
from agentkd.deploy.vectors import STEPS
from agentkd.distillation.loop import distill
from agentkd.distillation.run import Budget
from agentkd.executors.native import compile_native
from agentkd.measure.evaluate import Evaluation, evaluate
from agentkd.measure.intervals import Interval, mean_interval
from agentkd.measure.recording import record

GOLDEN_SEED = 1000
"""Where the episodes begin that an executor's file is proved by, as in `distill`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One executor in floats and in integers, on the same episodes.

    Attributes:
        case: The planner it was distilled from, and where it acts.
        float32: What the executor got in floats.
        int8: What its integer form got.
        labels: From how many labels it was distilled.
        calibration: What the integers were calibrated with, in words.
    """

    case: Case
    float32: Evaluation
    int8: Evaluation
    labels: int
    calibration: str

    @property
    def kept(self) -> Interval:
        """1 + the mean paired difference in units of the float return's size.

        Where returns are positive that is int8 over float.
        """
        real, whole = np.asarray(self.float32.returns), np.asarray(self.int8.returns)
        apart = mean_interval((whole - real).tolist())
        size = abs(float(real.mean()))
        if not size:
            nothing = float("nan")
            return Interval(nothing, nothing, nothing, "The float return is 0.")
        low, high = 1 + apart.low / size, 1 + apart.high / size
        return Interval(1 + apart.mean / size, low, high, apart.reason)


def compare(
    case: Case,
    executor: str,
    *,
    budget: Budget,
    seed: int,
    episodes: int,
    eval_seed: int,
    watch: Callable[[str], None],
) -> Pair:
    """Distil a planner, and measure the executor in floats and in integers.

    The integers are calibrated as `agentkd export` does: by what the executor's file holds.

    Args:
        case: The planner.
        executor: The architecture.
        budget: Of the distillation.
        seed: Of the distillation.
        episodes: Of each measurement.
        eval_seed: The first episode's seed.
        watch: Told what is done next.
    """
    watch("distilling")
    result = distill(
        case.env,
        case.planner,
        executor,
        seconds=budget.seconds,
        labels=budget.labels,
        seed=seed,
        episodes=0,
    )
    if result.interrupted and not result.fault:
        raise KeyboardInterrupt
    chosen = result.executor
    policy = chosen.policy
    own = record(case.env, policy, steps=STEPS, seed=GOLDEN_SEED, spec=chosen.spec)
    bundle = from_bytes(to_bytes(chosen, {}, golden=own))
    seen = held(bundle)
    assert seen is not None
    watch("measuring")
    real = (compile_native(chosen) or chosen).policy
    got = [
        evaluate(case.env, policy, episodes=episodes, seed=eval_seed, spec=chosen.spec)
        for policy in (real, integer_form(bundle).policy)
    ]
    return Pair(case, got[0], got[1], result.labels, seen.said)
