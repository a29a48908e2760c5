"""Recovery: what went wrong once does not stay wrong."""

from __future__ import annotations

import itertools
import logging
import time
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError
from agentkd.runtime import (
    Agent,
    InlinePlanner,
    Rollback,
    RollForward,
    Runtime,
    Staggered,
    StrategyOptions,
    ThreadPlanner,
)
from agentkd.types import Floats
from tests.runtime_children import Anytime, Echo, Steps, constant, next_ticks
from tests.waiting import ENOUGH

OBS = np.zeros(3, np.float32)


class Troubled(InlinePlanner):  # type: ignore[misc]
    """A planner whose supervision raises a few times."""

    failures = 0

    def supervise(self) -> None:
        """Raise, then go on."""
        self.failures += 1
        if self.failures <= 3:
            raise OSError("no more files")


class Once(Echo):
    """Raises at its first question."""

    failed = False

    def __call__(self, obs: Floats) -> Any:
        if not self.failed:
            self.failed = True
            raise ValueError("at first")
        return super().__call__(obs)


@pytest.mark.parametrize("after", [False, True])
def test_a_planner_left_in_the_middle_is_asked_again(after: bool) -> None:
    """An answer that the end of an episode threw away is not waited for."""
    planner = Anytime(3)
    port = InlinePlanner(planner, latency_ticks=4, after=after)
    options = StrategyOptions(roll_forward=RollForward(next_ticks))
    with Agent(constant(3), planner=port, strategies=options) as agent:
        asked = []
        for _ in range(5):
            agent.reset()
            for _ in range(11):
                agent.act(OBS)
            asked.append(planner.asked)
    assert all(more > fewer for fewer, more in itertools.pairwise(asked))


def test_a_thread_that_raised_takes_its_turn_again() -> None:
    """Of several planners each one that failed is asked again, and answers."""
    ports = [ThreadPlanner(Once()), ThreadPlanner(Once())]
    end = time.monotonic() + ENOUGH
    with Agent(constant(3), planner=Staggered(ports)) as agent:
        while not all(port.ready and port.counts().labels for port in ports):
            agent.act(OBS)
            time.sleep(0.001)
            assert time.monotonic() < end, agent.metrics()
        assert agent.metrics()["planner_errors_total"] == 2


async def test_supervision_that_raises_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the supervision is logged once, and the runtime ends as ever."""
    port = Troubled(Echo())
    with caplog.at_level(logging.ERROR):
        async with Runtime(constant(2), planner=port, clock="virtual") as runtime:
            end = time.monotonic() + ENOUGH
            async for _ in runtime.run(Steps()):
                if port.failures > 4:
                    break
                assert time.monotonic() < end
    assert runtime.result.ticks
    assert [each.message for each in caplog.records] == ["Supervision failed; it goes on."]


def test_a_rollback_over_many_swaps_forgets_all_of_them() -> None:
    """None of the executors that were left behind together is returned to later."""
    agent = Agent(constant(1), rollback=Rollback(window=2))
    agent.start(supervisor=False)

    def lived(score: float) -> None:
        for _ in range(2):
            agent.act(OBS)
            agent.score(score)
        agent.supervise()

    lived(1.0)
    for _ in range(12):
        agent.swap(constant(0))
    lived(0.0)
    assert agent.act(OBS) == 1
    with pytest.raises(ConfigError, match="no executor to return to"):
        agent.rollback()
    agent.close()


def test_a_rollback_leaves_an_executor_that_was_swapped_in_meanwhile() -> None:
    """Between two stages a repaired executor comes: it stays, and is judged by its own scores."""
    agent = Agent(constant(0), rollback=Rollback(window=2))
    agent.start(supervisor=False)

    def score(*scores: float) -> None:
        for each in scores:
            agent.act(OBS)
            agent.score(each)

    score(1.0, 1.1)
    agent.swap(constant(1))
    score(0.0, 0.0)
    stages = agent._swaps.heed_scores()
    next(stages)
    next(stages)
    agent.swap(constant(2))
    for _ in stages:
        pass
    score(1.0)
    agent.supervise()
    assert agent.act(OBS) == 2
    assert agent.metrics()["rollbacks_total"] == {}
    agent.score(-9.0)
    agent.supervise()
    assert agent.act(OBS) == 0
    agent.close()
