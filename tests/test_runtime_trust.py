"""Late rows act only while they are right, under both clocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, NumbersError
from agentkd.executors.executor import Executor
from agentkd.runtime import (
    Agent,
    Fresh,
    InlinePlanner,
    Process,
    ProcessPlanner,
    RollForward,
    Router,
    Seam,
    Staggered,
    StrategyOptions,
    ThreadPlanner,
    Trust,
)
from agentkd.runtime.arbiter import Moment
from agentkd.runtime.logfile import LogFile
from agentkd.runtime.query import PlannerQuery
from agentkd.runtime.replay import replay
from agentkd.runtime.scores import Worth
from agentkd.types import Decision, Source
from tests.test_runtime_processes import QUICK
from tests.trust_world import Regulator, ahead, best, executor, moved
from tests.waiting import ENOUGH

HERE = "tests.trust_world"
RIGHT = 0.03
"""Executed actions may differ by `Trust.same`, 0.02 here, from those counted on."""
ROLLED = StrategyOptions(roll_forward=RollForward(ahead))
ALWAYS = StrategyOptions(roll_forward=RollForward(ahead), trust=None)


class Refusing(Router):
    """Refuses strategies at one tick in seven."""

    def veto(self, source: Source, moment: Moment, /) -> str:
        return "odd" if source == "strategy" and moment.tick % 7 == 3 else ""


def lived(
    agent: Agent, ticks: int, *, noise: float = 0.0, swap: Executor | None = None
) -> Iterator[tuple[Decision, Any]]:
    """Live in the world from a fresh start every 25 ticks; a swap comes each 13."""
    random, obs = np.random.default_rng(0), np.zeros(2, np.float32)
    for tick in range(ticks):
        if tick % 25 == 0:
            obs = random.uniform(-1, 1, 2).astype(np.float32)
            agent.reset()
        if swap is not None and tick % 13 == 12:
            agent.swap(swap if tick % 26 == 12 else executor())
        decision = agent.decide(obs)
        yield decision, obs
        obs = moved(obs, decision.action, random.normal(0, noise) if noise else 0.0)


def wrong(told: list[tuple[Decision, Any]]) -> list[float]:
    """How far each strategy's action is from the planner's own at what was seen."""
    return [
        abs(float(decision.action[0]) - float(best(obs)[0]))
        for decision, obs in told
        if decision.source == "strategy"
    ]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("latency", [1, 2, 4])
def test_rows_that_act_are_those_for_the_state_that_is_seen(latency: int, after: bool) -> None:
    """With an exact model, each row is the planner's word, in either order of events.

    `after` is the wall clock's order: the planner is free before the agent has heard what it
    answered, and would be asked with actions that are not executed.
    """
    planner = InlinePlanner(Regulator(), latency_ticks=latency, after=after)
    with Agent(executor(), planner=planner, strategies=ROLLED) as agent:
        told = list(lived(agent, 400))
    assert len(wrong(told)) > 150
    assert max(wrong(told)) < RIGHT


def test_a_planner_asked_too_early_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that counted on other actions than those executed never acts."""
    monkeypatch.setattr(PlannerQuery, "may_ask", lambda self, newest: True)
    errors = {}
    for name, options in (("always", ALWAYS), ("trusted", ROLLED)):
        planner = InlinePlanner(Regulator(), latency_ticks=4, after=True)
        with Agent(executor(), planner=planner, strategies=options) as agent:
            errors[name] = wrong(list(lived(agent, 400)))
            refused = agent.metrics()["strategy_rejected_total"]
    assert max(errors["always"]) > 2 * RIGHT
    assert max(errors["trusted"], default=0) < RIGHT
    assert refused["changed"] > 10


@pytest.mark.parametrize("cause", ["veto", "swap", "two planners"])
def test_what_changes_the_actions_meanwhile_makes_an_answer_void(cause: str) -> None:
    """After a veto, a swap or another planner's answer no wrong row acts."""
    planner: Any = InlinePlanner(Regulator(), latency_ticks=3, after=True)
    if cause == "two planners":
        two = [InlinePlanner(Regulator(), latency_ticks=4, after=True) for _ in "ab"]
        planner = Staggered(two)
    routers = [Refusing()] if cause == "veto" else []
    swap = executor(0.1) if cause == "swap" else None
    with Agent(executor(), planner=planner, strategies=ROLLED, routers=routers) as agent:
        told = list(lived(agent, 600, swap=swap))
        refused = agent.metrics()["strategy_rejected_total"]
    assert max(wrong(told)) < RIGHT
    assert len(wrong(told)) > 50
    assert cause == "two planners" or refused["changed"] > 10


def test_late_rows_that_nobody_predicted_leave_the_tick_to_the_executor() -> None:
    """Without any option rows for another state do not act; `trust=None` lets them."""
    sources = {}
    for trust in ("auto", None):
        options = StrategyOptions(trust=trust)
        planner = InlinePlanner(Regulator(), latency_ticks=3)
        with Agent(executor(), planner=planner, strategies=options) as agent:
            told = list(lived(agent, 100))
            refused = agent.metrics()["strategy_rejected_total"].get("unpredicted", 0)
        sources[trust] = {decision.source for decision, _ in told}, refused > 10
    assert sources["auto"] == ({"executor"}, True)
    assert sources[None] == ({"executor", "strategy"}, False)


def test_the_row_for_the_observation_at_hand_always_acts() -> None:
    """A planner that is in time acts at each tick, trusted or not."""
    planner = InlinePlanner(Regulator(), latency_ticks=0)
    with Agent(executor(), planner=planner) as agent:
        told = list(lived(agent, 50))
    assert {decision.source for decision, _ in told} == {"strategy"}


def test_a_model_that_is_wrong_loses_the_ticks_to_the_executor() -> None:
    """Where the world is pushed about, predictions fail and the executor acts."""
    planner = InlinePlanner(Regulator(), latency_ticks=4, after=True)
    with Agent(executor(), planner=planner, strategies=ROLLED) as agent:
        told = list(lived(agent, 600, noise=1.0))
        refused = agent.metrics()["strategy_rejected_total"]
    last = [decision.source for decision, _ in told[-300:]]
    assert last.count("strategy") < 15
    reasons = ("surprise", "unproven", "changed")
    assert sum(refused.get(reason, 0) for reason in reasons) > 20


@pytest.mark.parametrize(
    ("model", "acts"), [(ahead, True), (lambda obs, actions: obs * 0 - 0.7, False)]
)
def test_an_executor_that_never_moves_does_not_hide_a_wrong_model(model: Any, acts: bool) -> None:
    """Predictions are compared with what is seen, whatever the executor does there."""
    options = StrategyOptions(roll_forward=RollForward(model))
    planner = InlinePlanner(Regulator(), latency_ticks=4, after=True)
    with Agent(executor(0.0), planner=planner, strategies=options) as agent:
        told = list(lived(agent, 400))
    assert ("strategy" in {decision.source for decision, _ in told}) is acts
    assert max(wrong(told), default=0.0) < RIGHT


@pytest.mark.parametrize(("off", "acts"), [(0.0, True), (2.0, False)])
def test_expectations_are_compared_with_what_is_seen(off: float, acts: bool) -> None:
    """An executor that does the same everywhere does not hide wrong expectations."""
    planner = InlinePlanner(Regulator(expects=True, wrong=off), latency_ticks=1)
    still = executor(0.0)
    options = StrategyOptions(roll_forward=RollForward(ahead))
    with Agent(still, planner=planner, strategies=options) as agent:
        told = list(lived(agent, 400))
    assert ("strategy" in {decision.source for decision, _ in told}) is acts


@pytest.mark.parametrize(("off", "acts"), [(0.0, True), (0.5, False)])
def test_expected_observations_are_predictions_too(off: float, acts: bool) -> None:
    """A planner that says what it expects is believed while that comes about."""
    regulator = Regulator(expects=True, wrong=off)
    planner = InlinePlanner(regulator, latency_ticks=2)
    # The executor does what the planner counts on, so the world is where it expects.
    with Agent(executor(1.0), planner=planner) as agent:
        told = list(lived(agent, 400))
    last = [decision.source for decision, _ in told[-200:]]
    assert ("strategy" in last) is acts


@pytest.mark.parametrize("where", ["thread", "process"])
def test_rows_are_right_on_the_wall_clock_too(where: str) -> None:
    """Whatever the timing, no row acts that is not the planner's word for the state."""
    port: Any = ThreadPlanner(Regulator(seconds=0.02))
    if where == "process":
        remote = Process(f"{HERE}:Regulator", {"seconds": 0.02})
        port = ProcessPlanner(remote, patience=QUICK)
    options = StrategyOptions(roll_forward=RollForward(f"{HERE}:ahead"))
    end = time.monotonic() + ENOUGH
    told: list[tuple[Decision, Any]] = []
    with Agent(executor(), planner=port, strategies=options) as agent:
        pause = 0.005
        while len(wrong(told)) < 60:
            for each in lived(agent, 25):
                told.append(each)
                time.sleep(pause)
            # An episode has to be longer than an answer takes on this machine.
            latency = agent.metrics()["planner_latency_us"].get("p50", 0.0)
            pause = max(pause, latency * 1e-6 / 3)
            assert time.monotonic() < end, agent.metrics()
    assert max(wrong(told)) < RIGHT


def test_a_log_replays_with_the_same_judgement(tmp_path: Path) -> None:
    """What was refused is refused again, from the log alone."""
    path = tmp_path / "run.akdlog"
    planner = InlinePlanner(Regulator(), latency_ticks=3, after=True)
    with Agent(executor(), planner=planner, strategies=ROLLED, log=path) as agent:
        told = list(lived(agent, 200, noise=0.05))
    assert {decision.source for decision, _ in told} == {"executor", "strategy"}
    again = replay(LogFile(path))
    assert (again.ticks, again.differing) == (200, 0), again.first


def test_a_choice_of_ones_own_takes_the_place_of_trust() -> None:
    """A router that judges strategies, a seam, or commands switch "auto" off."""
    options = StrategyOptions()
    assert options.trusted(judged=False) == Trust()
    assert options.trusted(judged=True) is None
    assert StrategyOptions(seam=Seam(1)).trusted(judged=False) is None
    assert StrategyOptions(advance="commands").trusted(judged=False) is None
    assert StrategyOptions(trust=Trust()).trusted(judged=True) == Trust()
    planner = InlinePlanner(Regulator(), latency_ticks=3)
    with Agent(executor(), planner=planner, routers=[Fresh(5)]) as agent:
        told = list(lived(agent, 50))
    assert "strategy" in {decision.source for decision, _ in told}


@pytest.mark.parametrize(
    "fields",
    [{"same": -0.1}, {"surprise": 2}, {"slack": float("nan")}, {"missed": 1.5}, {"excess": 0.5}],
)
def test_limits_are_validated(fields: dict[str, float]) -> None:
    """A limit out of its range is refused with its name."""
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Trust(**fields)
    with pytest.raises(ConfigError, match="trust"):
        StrategyOptions(trust="yes")  # type: ignore[arg-type]


def test_strategies_that_cost_reward_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Windows of strategies are compared with windows of the executor; once warned."""
    worth, random = Worth(), np.random.default_rng(0)
    for block in range(20):
        source: Source = "strategy" if block % 2 else "executor"
        for _ in range(50):
            worth.note(source, random.normal(0.0 if block % 2 else 1.0, 0.5))
    assert worth.worse
    assert worth.summary()["reward_per_tick"]["executor"] == pytest.approx(1, abs=0.1)
    with caplog.at_level(logging.WARNING):
        worth.note("strategy", float("nan"))
    same = Worth()
    for block in range(40):
        for _ in range(50):
            same.note("strategy" if block % 2 else "executor", random.normal(0, 1))
    assert not same.worse


def test_an_agent_is_told_what_its_strategies_are_worth() -> None:
    """Scores that the user gives are in the metrics, by who acted."""
    planner = InlinePlanner(Regulator(), latency_ticks=0)
    with Agent(executor(), planner=planner) as agent:
        for _ in range(100):
            agent.act(np.zeros(2, np.float32))
            agent.score(0.5)
        metrics = agent.metrics()
        with pytest.raises(NumbersError, match="nan"):
            agent.score(float("nan"))
    assert metrics["strategies_worse"] == 0
    assert metrics["reward_per_tick"] == {"strategy": 0.5, "executor": None}


def test_answers_that_come_later_than_foreseen_are_no_surprise() -> None:
    """What a planner expected after actions that nobody executed says nothing of its predictions.

    Under load an answer in ten was later than foreseen, and all rows were refused for it.
    """
    planner = InlinePlanner(Regulator(expects=True), latency_ticks=3)
    late = StrategyOptions(roll_forward=RollForward(ahead, lead=2))
    with Agent(executor(), planner=planner, strategies=late) as agent:
        for _ in lived(agent, 400):
            pass
        rejected = agent.metrics()["strategy_rejected_total"]
    assert rejected["changed"] > 5
    assert "surprise" not in rejected
