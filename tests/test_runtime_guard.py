"""The guard: nobody does what is not safe, and control comes back when it is sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agentkd.runtime import Agent, Guard
from agentkd.types import Floats
from tests.runtime_children import constant
from tests.test_runtime_routers import lived, see


def test_guard_vetoes_single_actions() -> None:
    """The guard stops one action; the next source acts, and the next tick is free."""
    acted, metrics = lived([Guard(lambda obs, action: action != 1)], ticks=3)
    assert acted == [(0, "strategy", "fresh"), (2, "executor", "guard"), (2, "strategy", "fresh")]
    assert metrics["strategy_rejected_total"]["guard"] == 1
    assert metrics["guard_interventions_total"] == 1


def test_guard_falls_back_step_by_step() -> None:
    """Where nothing is safe but the default, the default acts, unguarded."""
    acted, metrics = lived([Guard(lambda obs, action: False)], ticks=2)
    assert acted == [(0, "default", "guard")] * 2
    assert metrics["guard_refused_total"] == {"strategy": 2, "executor": 2}
    assert metrics["untrusted_share"] == 0.0
    assert metrics["starved_ticks_total"] == 2


def test_baseline_acts_where_the_guard_refused_all_others() -> None:
    """A trusted controller stands in for the default and looks at what is observed."""
    guard = Guard(lambda obs, action: action not in (1, 2), baseline=lambda obs: 3)
    acted, _ = lived([guard], ticks=4)
    assert acted == [
        (0, "strategy", "fresh"),
        (3, "default", "guard"),
        (3, "default", "guard"),
        (3, "strategy", "fresh"),
    ]


def test_guard_hands_control_back_only_when_it_is_sure() -> None:
    """After a veto the source waits for its dwell, then for safe actions in a row."""
    unsafe = {2}
    guard = Guard(lambda obs, action: int(obs[0]) not in unsafe, dwell=3, recover=2)
    acted, _ = lived([guard], mode="planner", ticks=10)
    reasons = [reason for _, _, reason in acted]
    assert reasons == ["fresh"] * 2 + ["guard"] * 4 + ["fresh"] * 4
    unsafe.add(5)
    guard = Guard(lambda obs, action: int(obs[0]) not in unsafe, dwell=3, recover=2)
    acted, _ = lived([guard], mode="planner", ticks=12)
    reasons = [reason for _, _, reason in acted]
    assert reasons == ["fresh"] * 2 + ["guard"] * 7 + ["fresh"] * 3


def test_guard_may_be_stricter_on_the_way_back() -> None:
    """A second check decides when a source that was refused may act again."""
    guard = Guard(lambda obs, action: obs[0] != 1, back=lambda obs, action: bool(obs[0] >= 4))
    acted, _ = lived([guard], mode="planner", ticks=6)
    assert [source for _, source, _ in acted] == ["strategy"] + ["default"] * 3 + ["strategy"] * 2


def test_guard_trusts_again_in_a_new_episode() -> None:
    """A reset ends a dwell."""
    guard = Guard(lambda obs, action: obs[0] != 0, dwell=100)
    agent = Agent(constant(2), routers=[guard])
    assert agent.decide(see(0)).source == "default"
    assert agent.decide(see(1)).source == "default"
    agent.reset()
    assert agent.decide(see(1)).source == "executor"


def test_baseline_that_answers_garbage_is_not_obeyed() -> None:
    """A baseline that raises or gives no action leaves the default, and is counted."""

    def raises(obs: Floats) -> Any:
        raise RuntimeError("sensor")

    broken: tuple[Callable[[Floats], Any], ...] = (
        raises,
        lambda obs: np.array([1, 2]),
        lambda obs: float("nan"),
    )
    for baseline in broken:
        guard = Guard(lambda obs, action: False, baseline=baseline)
        acted, metrics = lived([guard], ticks=1)
        assert acted == [(0, "default", "guard")]
        assert metrics["router_errors_total"] == 1
