"""Where one strategy goes over into another: weights, blends, jumps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.runtime import Agent, Fresh, InlinePlanner, Seam, StrategyOptions
from agentkd.runtime.arbiter import Actor, HandOver, fading
from agentkd.types import ActionDist, Floats
from tests.runtime_children import BOX, SPEC, Ahead, constant, points


class Levels:
    """Answers each observation with rows that all are its first number."""

    horizon = 6

    def __call__(self, obs: Floats) -> ActionDist:
        level = np.repeat(obs[:, :1], self.horizon, axis=0)
        return points(np.repeat(level, 2, axis=1))


def see(level: float) -> Any:
    return np.array([level, 0, 0], np.float32)


@given(blend=st.integers(0, 60))
def test_weights_fall_from_below_one_to_exactly_zero(blend: int) -> None:
    """The old action's weight is below 1, never rises, and ends at exactly 0."""
    weights = [fading(step, blend) for step in range(blend + 3)]
    assert all(0.0 <= weight < 1.0 for weight in weights)
    assert weights == sorted(weights, reverse=True)
    assert weights[blend:] == [0.0, 0.0, 0.0]
    assert all(weight > 0.0 for weight in weights[:blend])


def test_weights_are_those_of_real_time_chunking() -> None:
    """c (e^c − 1) / (e − 1), with c falling in equal steps."""
    c = np.array([3 / 4, 2 / 4, 1 / 4])
    expected = c * (np.exp(c) - 1) / (np.e - 1)
    assert [fading(step, 3) for step in range(3)] == pytest.approx(expected)


@given(
    blend=st.integers(1, 8),
    old=st.floats(-1, 1, width=32),
    new=st.floats(-1, 1, width=32),
    ticks=st.integers(1, 20),
)
def test_blend_stays_between_old_and_new_and_arrives(
    blend: int, old: float, new: float, ticks: int
) -> None:
    """No blended action leaves the two it is made of; after the blend it is the new."""
    hand_over = HandOver(Seam(blend=blend), BOX.action)
    before = np.full(2, old, np.float32)
    after = np.full(2, new, np.float32)
    hand_over.acted(("strategy", 0, 0), before, 0)
    new_one: Actor = ("strategy", 1, 0)
    for tick in range(1, ticks + 1):
        action = hand_over.blended(new_one, after, tick, None, None)
        hand_over.acted(new_one, action, tick)
        low, high = np.minimum(before, after), np.maximum(before, after)
        assert ((action >= low - 1e-6) & (action <= high + 1e-6)).all()
        if tick > blend:
            assert action.tolist() == after.tolist()


def still() -> Executor:
    """An executor that answers 0."""
    executor = initial("linear", BOX)
    for layer in executor.layers:
        assert isinstance(layer, Dense)
        layer.weight[:] = 0
    return executor


def lived(seam: Seam | None, ticks: int = 12, **options: Any) -> tuple[list[Any], Any]:
    """Live with a planner three ticks late whose level is the tick's tenth."""
    with Agent(
        still(),
        planner=InlinePlanner(Levels(), latency_ticks=3),
        strategies=StrategyOptions(seam=seam, trust=None),
        **options,
    ) as agent:
        decisions = [agent.decide(see(i / 10)) for i in range(ticks)]
        return decisions, agent.metrics()


def test_without_a_seam_the_next_strategy_begins_at_once() -> None:
    """Actions jump where strategies change, and the jump is measured there."""
    decisions, metrics = lived(None)
    levels = [round(float(d.action[0]), 3) for d in decisions]
    assert levels == [0, 0, 0] + [0.0] * 3 + [0.3] * 3 + [0.6] * 3
    assert metrics["seam_jump"]["seam"]["max"] == pytest.approx(0.3, rel=0.04)
    assert metrics["seam_jump"]["inside"]["max"] == 0.0
    assert metrics["seam_jump"]["inside"]["count"] == 6


def test_blend_makes_the_jump_smaller_and_reaches_the_new_strategy() -> None:
    """With a blend of two ticks the third tick is the new strategy's own."""
    decisions, metrics = lived(Seam(blend=2))
    levels = [float(d.action[0]) for d in decisions]
    weight = [fading(step, 2) for step in range(2)]
    assert levels[6] == pytest.approx(0.3 * (1 - weight[0]))
    assert levels[7] == pytest.approx(0.3 * (1 - weight[1]))
    assert levels[8] == pytest.approx(0.3)
    assert metrics["seam_jump"]["seam"]["max"] < 0.2
    assert {d.source for d in decisions[3:]} == {"strategy"}


def test_end_of_a_strategy_goes_over_into_the_executor() -> None:
    """Where no strategy follows, its last action fades into the executor's."""
    with Agent(
        still(),
        planner=InlinePlanner(Levels(), latency_ticks=100),
        strategies=StrategyOptions(seam=Seam(blend=2)),
    ) as agent:
        port = agent._companions.planner
        assert isinstance(port, InlinePlanner)
        agent.decide(see(0.8))
        port._flight[0] = (1, port._flight[0][1])
        levels = [float(agent.decide(see(0)).action[0]) for _ in range(9)]
    assert levels[:5] == pytest.approx(
        [0.8 * (1 - fading(0, 2)), 0.8 * (1 - fading(1, 2))] + [0.8] * 3
    )
    assert levels[5:7] == pytest.approx([0.8 * fading(step, 2) for step in range(2)])
    assert levels[7:] == [0.0, 0.0]


def test_what_was_refused_is_not_blended_in() -> None:
    """A strategy that a router dropped has no say in the executor's actions."""
    decisions, _ = lived(Seam(blend=4), routers=[Fresh(3)])
    by_source = {d.tick: (d.source, float(d.action[0])) for d in decisions}
    assert by_source[6][0] == "strategy"
    assert by_source[7] == ("executor", 0.0)


def test_choices_are_never_averaged() -> None:
    """A blend of choices is refused; frozen ticks are not."""
    options = StrategyOptions(seam=Seam(blend=1))
    with pytest.raises(ConfigError, match="average"):
        Agent(constant(0), strategies=options)
    executor = StrategyOptions(seam=Seam(freeze=1))
    with Agent(constant(0), planner=Ahead(9), planner_latency=2, strategies=executor) as agent:
        acted = [agent.decide(np.array([i, 0, 0], np.float32)) for i in range(6)]
    assert all(each.action in range(SPEC.action.n) for each in acted)  # type: ignore[union-attr]


def test_negative_ticks_are_refused() -> None:
    """A seam of less than no ticks cannot be."""
    with pytest.raises(ConfigError, match="at least 0"):
        Seam(freeze=-1)


def test_blend_that_is_cut_short_does_not_jump() -> None:
    """A strategy that comes in the middle of a blend takes over what is under way."""
    hand_over = HandOver(Seam(blend=10), BOX.action)
    levels = {("strategy", k, 0): np.full(2, 0.5 * (k % 2), np.float32) for k in range(9)}
    last, jumps = None, []
    for tick in range(36):
        actor: Any = ("strategy", tick // 4, 0)
        before = levels.get(("strategy", tick // 4 - 1, 0))
        action = hand_over.blended(actor, levels[actor], tick, before, None)
        hand_over.acted(actor, action, tick)
        if last is not None:
            jumps.append(float(np.abs(action - last).max()))
        last = action
    # Without the carrying on, each new strategy would begin at 0.5 · 0.79 or so.
    assert max(jumps) < 0.15


def test_nothing_is_blended_with_the_default() -> None:
    """What nobody wished is nothing to go over from: the first action is its own."""
    hand_over = HandOver(Seam(blend=3), BOX.action)
    hand_over.acted(("default", -1, 0), np.zeros(2, np.float32), 0)
    wanted = np.full(2, 0.7, np.float32)
    first = hand_over.blended(("strategy", 0, 0), wanted, 1, None, None)
    assert first.tolist() == wanted.tolist()
