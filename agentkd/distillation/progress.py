"""How a distillation is going: values, and one line of them on stderr."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a running distillation.

    Attributes:
        seconds: Since it began, earlier runs that are resumed counted in.
        done: The share of the budget that is used, 0 to 1.
        labels: Labels so far.
        steps: Gradient steps so far.
        labels_per_second: Since the last look.
        steps_per_second: Since the last look.
        divergence: From the planner, mean over the steps since the last look; NaN at first.
        agreement: With the planner on states not yet learnt from, 0 to 1; NaN at first.
        executor_return: Mean over the last episodes (20 at most) that an executor drove from start
            to end; NaN before the first.
        planner_share: The planner's share of the driving at present.
        learning_rate: Of the last gradient step.
        refused: Labels left out because they held NaN or infinity.
        explained: The share of the planner's answers that what the executor sees explains, at most
            1; NaN while it is not known (`agentkd.distillation.teachable`).
    """

    seconds: float
    done: float
    labels: int
    steps: int
    labels_per_second: float
    steps_per_second: float
    divergence: float
    agreement: float
    executor_return: float
    planner_share: float
    learning_rate: float
    refused: int
    explained: float = math.nan


Watch = Callable[[Progress], None]


def show(look: Progress) -> None:
    """Write a look over the last line of stderr; what is not known yet is left out."""
    words = [f"{look.done:4.0%}", f"{look.seconds:.0f} s", f"{look.labels:,} labels"]
    words.append(f"{look.steps:,} steps")
    if not math.isnan(look.agreement):
        words.append(f"agreement {look.agreement:.3f}")
    if not math.isnan(look.executor_return):
        words.append(f"return {look.executor_return:.1f}")
    sys.stderr.write(f"\r{'  '.join(words):<79}")
    sys.stderr.flush()
