"""Late answers stand in for an executor only while they are much nearer to the planner's word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentkd import initial
from agentkd.errors import ConfigError
from agentkd.runtime import Agent, InlinePlanner, RollForward, Seam, StrategyOptions, Trust
from agentkd.runtime.standin import StandIn
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point
from tests.trust_world import SPEC, ahead, best, executor, moved

NEVER = StrategyOptions(trust=Trust(stand_in=0.0))


def word(obs: Floats) -> Point:
    """The planner's one row for each observation."""
    return Point(np.stack([best(each) for each in obs]))


def lived(gain: float, late: int, ticks: int = 400, **how: Any) -> tuple[dict[str, Any], float]:
    """Live in the world; return how often each source acted, and how far the mass was away."""
    planner, random, away = InlinePlanner(word, latency_ticks=late), np.random.default_rng(0), 0.0
    obs = np.zeros(2, np.float32)
    with Agent(executor(gain), planner=planner, **how) as agent:
        for tick in range(ticks):
            if tick % 50 == 0:
                obs = random.uniform(-1, 1, 2).astype(np.float32)
                agent.reset()
            decision = agent.decide(obs)
            obs = moved(obs, decision.action)
            away += abs(float(obs[0]))
        counted = agent.metrics()["decisions_total"]
    return counted, away / ticks


def test_late_answers_stand_in_for_an_executor_that_pushes_the_wrong_way() -> None:
    """The robot is as well as with its late planner, once there are some comparisons."""
    counted, away = lived(-0.7, 1)
    assert counted["strategy"]["late"] > 300
    assert away < 0.5 * lived(-0.7, 1, strategies=NEVER)[1]


def test_they_do_not_where_the_executor_is_nearer() -> None:
    """Not one row of a late planner acts beside one that has learnt."""
    counted, _ = lived(1.0, 1)
    assert "strategy" not in counted


def test_they_do_not_where_they_are_three_ticks_late() -> None:
    """However bad the executor is: nearness says too little about so late an action."""
    counted, _ = lived(-0.7, 3)
    assert "strategy" not in counted


def test_never_is_never() -> None:
    """With a share of 0 the executor acts, however bad."""
    counted, _ = lived(-0.7, 1, strategies=NEVER)
    assert "strategy" not in counted
    with pytest.raises(ConfigError, match="stand_in"):
        Trust(stand_in=1.5)


def taught(ticks: int, lengths: tuple[int, int]) -> list[str]:
    """Say who acts, tick by tick; half way an executor that is as the planner is swapped in.

    `lengths` are those of episodes before and after it.
    """
    planner, random = InlinePlanner(word, latency_ticks=1), np.random.default_rng(0)
    sources: list[str] = []
    with Agent(executor(-0.7), planner=planner) as agent:
        obs = np.zeros(2, np.float32)
        for tick in range(ticks):
            if tick == ticks // 2:
                agent.swap(executor(1.0))
            if tick % lengths[2 * tick >= ticks] == 0:
                obs = random.uniform(-1, 1, 2).astype(np.float32)
                agent.reset()
            decision = agent.decide(obs)
            sources.append(decision.source)
            obs = moved(obs, decision.action)
    return sources


def test_the_executor_acts_again_once_it_has_learnt() -> None:
    """A swap that brings a better one ends it."""
    sources = taught(600, (25, 25))
    assert sources[200:300].count("strategy") > 90
    assert set(sources[500:]) == {"executor"}


def test_a_planner_that_is_gone_leaves_the_executor_to_act() -> None:
    """Its last answer is held for some ticks, as long as the next one might take."""
    answering = InlinePlanner(word, latency_ticks=1)
    sources: list[str] = []
    with Agent(executor(-0.7), planner=answering) as agent:
        obs = np.array([1.0, 0.0], np.float32)
        for tick in range(60):
            if tick == 40:
                answering.poll = lambda _: []  # type: ignore[method-assign]
            decision = agent.decide(obs)
            sources.append(decision.source)
            obs = moved(obs, decision.action, 0.2)
    assert set(sources[30:40]) == {"strategy"}
    assert set(sources[46:]) == {"executor"}


def test_a_comparison_takes_what_was_held_before_too() -> None:
    """An answer that was for the very tick is not what was held when it was asked."""
    judge = StandIn(0.5, SPEC.action)
    near, far = Point(np.zeros((1, 1), np.float32)), np.array([1.0])
    for tick in range(20):
        judge.take(2 * tick, 2 * tick + 2, near, far)
    assert judge.stands
    judge.reset()
    wild = StandIn(0.5, SPEC.action)
    for tick in range(40):
        # The planner's word changes each time: what is held is as far from it as can be.
        turned = Point(np.full((1, 1), (-1.0) ** tick, np.float32))
        wild.take(2 * tick, 2 * tick + 2, turned, far)
    assert not wild.stands


def test_late_answers_that_make_the_robot_swing_stop_after_two_stints() -> None:
    """A slow executor is safe; the planner overshoots when it is late."""
    spec = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), BoxSpec((-1.0,), (1.0,), (1,)))
    slow = initial("linear", spec)
    slow = slow.with_vector(np.zeros_like(slow.vector()), 0)
    for layer in slow.layers:
        layer.weight[:] = -0.05  # type: ignore[union-attr]

    def push(obs: Floats) -> Point:
        return Point(np.clip(-obs, -1, 1))

    def steered(share: float) -> tuple[float, int]:
        """Return the mean square of the last half, and how many late answers acted."""
        random, x, cost, late = np.random.default_rng(0), 0.0, 0.0, 0
        planner = InlinePlanner(push, latency_ticks=2)
        options = StrategyOptions(trust=Trust(stand_in=share))
        with Agent(slow, planner=planner, strategies=options) as agent:
            for tick in range(4000):
                if tick % 100 == 0:
                    x = random.uniform(-1, 1)
                    agent.reset()
                decision = agent.decide(np.array([x], np.float32))
                late += decision.source == "strategy"
                x = float(np.clip(x + float(decision.action[0]), -5, 5))
                cost += x * x if tick >= 2000 else 0.0
        return cost, late

    (with_it, acted), (without, none) = steered(0.5), steered(0.0)
    assert none == 0
    assert 0 < acted < 200
    assert with_it == without


def test_short_episodes_leave_the_executor_to_act() -> None:
    """Where nothing can be compared any more, nothing is known."""
    sources = taught(400, (25, 3))
    assert "strategy" in sources[150:200]
    assert set(sources[250:]) == {"executor"}


@pytest.mark.parametrize(
    "options",
    [
        StrategyOptions(roll_forward=RollForward(ahead), trust=Trust()),
        StrategyOptions(advance="commands", trust=Trust()),
        StrategyOptions(seam=Seam(freeze=1), trust=Trust()),
    ],
    ids=["roll-forward", "commands", "seam"],
)
def test_nothing_stands_in_where_rows_mean_something_else(options: StrategyOptions) -> None:
    """Predicted rows are judged, rows of commands are used up, and a seam has its own rule."""
    assert options.stand_in(options.trusted(judged=False), SPEC.action) is None


def test_a_log_of_before_is_replayed_as_it_was() -> None:
    """Its header has no word of what stands in."""
    told = StrategyOptions().to_json(Trust())
    assert StrategyOptions.from_json(told).trust == Trust()
    del told["trust"]["stand_in"]
    assert StrategyOptions.from_json(told).trust == Trust(stand_in=0.0)
