"""The planner's answers: who acts when they come, and what is learnt from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentkd.runtime import (
    Agent,
    Goals,
    InlineDistiller,
    InlinePlanner,
    RollForward,
    StrategyOptions,
)
from agentkd.runtime.codec import Seen
from agentkd.runtime.query import Demands, PlannerQuery
from agentkd.types import Categorical, Guidance
from tests.runtime_children import Ahead, Counting, Echo, Faulty, Towards, constant
from tests.test_runtime_agent import outcomes, see


def test_no_latency_means_the_planner_acts() -> None:
    """A planner that is never late decides each tick; the executor is compared."""
    with Agent(constant(2), planner=Echo(), planner_latency=0) as agent:
        acted = outcomes(agent, [see(i) for i in range(8)])
        metrics = agent.metrics()
    assert acted == [(i % 4, "strategy", "fresh") for i in range(8)]
    assert metrics["executor_agreement"] == 0.25
    assert metrics["strategy_accepted_total"] == 8
    assert metrics["strategy_age_ticks"]["max"] == 0


@pytest.mark.parametrize("latency", [1, 2, 5])
def test_single_rows_that_are_late_never_act(latency: int) -> None:
    """With one row, one tick of latency means the executor; each answer is 'late'."""
    with Agent(constant(2), planner=Echo(), planner_latency=latency) as agent:
        acted = outcomes(agent, [see(i) for i in range(21)])
        metrics = agent.metrics()
    assert acted == [(2, "executor", "late")] * 21
    answers = 20 // latency
    assert metrics["planner_answers_total"] == answers
    assert metrics["strategy_rejected_total"]["late"] == answers
    assert sum(metrics["strategy_rejected_total"].values()) == answers
    assert metrics["planner_latency_ticks"]["max"] == latency


def test_longer_strategies_serve_with_their_later_rows() -> None:
    """Four rows at a latency of two: rows 2 and 3 act, whatever the executor wants."""
    options = StrategyOptions(trust=None)
    with Agent(constant(0), planner=Ahead(4), planner_latency=2, strategies=options) as agent:
        acted = outcomes(agent, [see(i) for i in range(10)])
        metrics = agent.metrics()
    assert [source for _, source, _ in acted] == ["executor"] * 2 + ["strategy"] * 8
    assert [action for action, _, _ in acted[2:]] == [i % 4 for i in range(2, 10)]
    assert metrics["strategy_age_ticks"]["p50"] == 2
    assert metrics["strategy_age_ticks"]["max"] == 3


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_planner_alone_acts_when_its_answer_comes(latency: int) -> None:
    """Before the first answer the default, then the newest answer, held in between."""
    with Agent(constant(3), planner=Echo(), planner_latency=latency, mode="planner") as agent:
        acted = outcomes(agent, [see(i) for i in range(1, 8)])
    pace = max(1, latency)
    for index, (action, source, _) in enumerate(acted):
        if index < latency:
            assert (action, source) == (0, "default")
            continue
        asked_at = (index - latency) // pace * pace
        assert action == (asked_at + 1) % 4
        assert source == ("strategy" if (index - latency) % pace == 0 else "hold")


def test_executor_alone_still_has_its_states_labelled() -> None:
    """In executor mode the planner labels and never acts."""
    with Agent(constant(3), planner=Echo(), planner_latency=0, mode="executor") as agent:
        assert outcomes(agent, [see(1)]) == [(3, "executor", "alone")]
        metrics = agent.metrics()
    assert metrics["labels_total"] == 1
    assert metrics["strategy_accepted_total"] == 0


def test_answers_of_an_older_episode_are_discarded_but_stay_labels() -> None:
    """What is in flight at a reset is refused as 'episode' and still labels its state."""
    distiller = Towards()
    with Agent(
        constant(0), planner=Ahead(8), planner_latency=3, distiller=InlineDistiller(distiller)
    ) as agent:
        agent.act(see(40))
        agent.reset()
        acted = outcomes(agent, [see(i) for i in range(4)])
        metrics = agent.metrics()
    assert [source for _, source, _ in acted] == ["executor"] * 4
    assert acted[2][2] == "episode"
    assert metrics["strategy_rejected_total"]["episode"] == 1
    assert [40.0, 0.0, 0.0] in distiller.obs


@pytest.mark.parametrize("latency", [0, 1, 4])
def test_each_state_is_labelled_once_and_in_order(latency: int) -> None:
    """Every state visited up to the last answered request is a label, in order."""
    distiller = Towards(after=10**9)
    with Agent(
        constant(0), planner=Echo(), planner_latency=latency, distiller=InlineDistiller(distiller)
    ) as agent:
        for i in range(50):
            agent.act(see(i))
            if i == 20:
                agent.reset()
        metrics = agent.metrics()
    labelled = [row[0] for row in distiller.obs]
    assert labelled == list(range(len(labelled)))
    assert len(labelled) >= 50 - 2 * latency
    assert metrics["labels_total"] == metrics["labels_learnt_total"] == len(labelled)
    assert metrics["observations_unlabelled_total"] == 0


def test_backlog_is_bounded_and_counted() -> None:
    """What a backlog of two cannot hold is not labelled, and counted."""
    planner, distiller = Echo(), Towards(after=10**9)
    port = InlinePlanner(planner, latency_ticks=5, backlog=2)
    with Agent(constant(0), planner=port, distiller=InlineDistiller(distiller)) as agent:
        for i in range(6):
            agent.act(see(i))
        metrics = agent.metrics()
    assert planner.asked == [[0.0], [3.0, 4.0, 5.0]]
    assert metrics["observations_unlabelled_total"] == 2


def test_without_distiller_nobody_is_asked_about_the_backlog() -> None:
    """Where nobody learns, only the newest observation costs the planner anything."""
    planner = Echo()
    with Agent(constant(0), planner=planner, planner_latency=3) as agent:
        for i in range(7):
            agent.act(see(i))
    assert planner.asked == [[0.0], [3.0], [6.0]]


def test_memory_of_a_planner_steps_through_every_state() -> None:
    """A recurrent planner sees each state in order, and starts afresh after a reset."""
    with Agent(constant(0), planner=Counting(), planner_latency=2, mode="planner") as agent:
        first = [agent.act(see(i)) for i in range(5)]
        agent.reset()
        second = [agent.act(see(i)) for i in range(5)]
    assert first == [0, 0, 0, 0, 2]
    # At the reset an answer was in flight; the next request is made at tick 6.
    assert second == [0, 0, 0, 1, 1]


def test_a_memory_with_a_gap_teaches_nothing_until_it_starts_afresh() -> None:
    """After a state that it never saw, a recurrent planner's labels are left out."""
    query = PlannerQuery(Counting(), constant(0).spec, backlog=True)

    def labels(*ticks: int, episode: int) -> int:
        seen = [Seen(tick, episode, 0, see(tick)) for tick in ticks]
        _, labels = query.last(seen)
        return 0 if labels is None else len(labels.obs)

    assert labels(0, 1, 2, episode=0) == 3
    assert labels(4, 5, episode=0) == 0
    assert labels(6, episode=0) == 0
    assert labels(7, 8, episode=1) == 2


class Reusing:
    """Writes each answer, and each predicted observation, into the same array."""

    def __init__(self) -> None:
        """Make room."""
        self.rows = np.zeros((1, 4), np.float32)
        self.goals = np.zeros((1, 2), np.float32)
        self.seen = np.zeros(3, np.float32)

    def __call__(self, obs: Any) -> Guidance:
        """Answer with what is seen."""
        self.rows[:], self.goals[:] = obs[0, 0], obs[0, 0]
        return Guidance(rows=Categorical(self.rows), goal=self.goals)

    def model(self, obs: Any, actions: Any) -> Any:
        """Count up, in the observation that is given, too."""
        obs += 1
        self.seen[:] = obs
        return self.seen


def test_answers_are_not_written_over() -> None:
    """A strategy keeps its numbers while the planner writes its next answer."""
    policy = Reusing()
    spec = constant(0).spec
    demands = Demands(roll=RollForward(policy.model, lead=1), goals=Goals(2, 8))
    query = PlannerQuery(policy, spec, backlog=False, demands=demands)
    asked = [Seen(tick, 0, 0, see(tick), 1, heard=tick) for tick in (0, 4)]
    (first, _), (second, _) = (query.last([each]) for each in asked)
    for answer, number in ((first, 1.0), (second, 5.0)):
        assert answer.rows is not None
        assert answer.goal is not None
        assert answer.predicted is not None
        found = answer.rows.rows[0, 0], answer.goal[0, 0], answer.predicted[0]
        assert found == (number, number, number)
    assert [each.obs[0] for each in asked] == [0.0, 4.0]


@pytest.mark.parametrize(
    ("fault", "words"), [("raise", "no idea"), ("nan", "NaN"), ("shape", "shape")]
)
def test_planner_that_errs_is_counted_and_survived(fault: str, words: str) -> None:
    """An error or an unfit answer is counted, with its words; the executor acts on."""
    with Agent(constant(2), planner=Faulty(fault), planner_latency=0) as agent:
        acted = outcomes(agent, [see(1), see(1, 1), see(3)])
        metrics = agent.metrics()
    assert [source for _, source, _ in acted] == ["strategy", "executor", "strategy"]
    assert metrics["planner_errors_total"] == 1
    assert words in metrics["planner_error"]
