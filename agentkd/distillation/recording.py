"""Records a planner's labels: environments are stepped, nothing is learnt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd import environments
from agentkd.distillation.dataset_writer import DatasetWriter
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task
from agentkd.errors import AgentkdError, ConfigError, WriteError
from agentkd.executors.architecture import initial
from agentkd.interrupt import ctrl_c
from agentkd.types import Policy, RecurrentPolicy


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of recording.

    Attributes:
        labels: How many were kept.
        refused: How many held NaN or infinity and were left out.
        episodes: How many episodes they are of.
        seconds: How long it took.
        interrupted: Whether it was ended before its budget.
        fault: What ended it, if planner or environment failed; "" otherwise.
    """

    labels: int
    refused: int
    episodes: int
    seconds: float
    interrupted: bool
    fault: str


class Restless(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces actions by random ones now and then.

    The planner then labels states that it would not have come to by itself: Rusu et al. 2015,
    "Policy distillation", let 5 % of the actions be random.

    Args:
        env: The environment.
        chance: How often, 0 to 1.
        seed: For these draws.
    """

    def __init__(self, env: Any, chance: float, seed: int) -> None:
        """Seed the draws."""
        super().__init__(env)
        self._chance = chance
        self._random = np.random.default_rng(seed)
        env.action_space.seed(seed)

    def step(self, action: Any) -> Any:
        """Do the action, or a random one."""
        if self._random.random() < self._chance:
            action = self.env.action_space.sample()
        return self.env.step(action)


def record(
    task: Task,
    writer: DatasetWriter,
    *,
    labels: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    chance: float = 0.0,
    executor: Policy | RecurrentPolicy | None = None,
    collection: CollectionOptions | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> Recorded:
    """Write the planner's labels of the states that environments visit.

    Args:
        task: The planner labels, and drives by draws from its answers.
        writer: Where they go.
        labels: How many to record.
        seconds: How long to record.
        seed: For resets and draws.
        chance: The share of ticks at which a random action is done instead, 0 to 1.
        executor: Drives where the planner does not.
        collection: How the planner's share falls; without an executor it drives alone.
        watch: Called now and then, with the labels so far and labels a second.

    Returns:
        The result. Ctrl-C ends it early, and so does a planner or environment that fails after the
        first label; what was recorded until then is kept.

    Raises:
        ConfigError: If a number is invalid.
        WriteError: If the disk refuses; what was written before is whole.
        AgentkdError: If planner or environment fail before the first label.
    """
    check_recording(labels, seconds, chance)
    way = collection or CollectionOptions()
    begin = looked = time.monotonic()
    made = iter(np.random.default_rng([seed, 1]).integers(2**31, size=way.environments))

    def make() -> Any:
        one = environments.make(task.env)
        return Restless(one, chance, int(next(made))) if chance else one

    collector = task.collector(way, seed, make)
    # A linear executor drives where the planner's answer is not finite.
    driver = executor or initial("linear", task.spec)
    fault, interrupted = "", False
    try:
        with ctrl_c() as asked:
            while not _over(writer.labels + writer.refused, labels, begin, seconds):
                share = way.share(writer.labels) if executor else 1.0
                tick = collector.step(driver, share)
                writer.add(tick.obs, tick.dist, tick.reward, tick.begins, tick.ended)
                now = time.monotonic()
                if watch is not None and now - looked > 0.5:
                    looked = now
                    watch(writer.labels, writer.labels / (now - begin))
                interrupted = asked()
                if interrupted:
                    break
    except WriteError:
        raise
    except AgentkdError as error:
        if not writer.labels:
            raise
        fault, interrupted = f"{type(error).__name__}: {error}", True
    finally:
        collector.close()
    return Recorded(
        labels=writer.labels,
        refused=writer.refused,
        episodes=writer.episodes,
        seconds=time.monotonic() - begin,
        interrupted=interrupted,
        fault=fault,
    )


def check_recording(labels: int | None, seconds: float | None, chance: float) -> None:
    """Check the numbers that a recording ends by.

    Raises:
        ConfigError: If one is invalid.
    """
    if labels is None and seconds is None:
        raise ConfigError("A recording needs an end: give labels or seconds.")
    for name, value in (("labels", labels), ("seconds", seconds)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; it has to be above 0.")
    if not 0 <= chance <= 1:
        raise ConfigError(f"chance is {chance}; it is a share from 0 to 1.")


def _over(so_far: int, labels: int | None, begin: float, seconds: float | None) -> bool:
    if labels is not None and so_far >= labels:
        return True
    return seconds is not None and time.monotonic() - begin >= seconds
