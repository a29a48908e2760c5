"""Goals that condition the executor, and labels with goals of every age."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.distillation.goal_labels import aged_labels
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.planners import load_planner
from agentkd.planners.adapt import from_object
from agentkd.planners.planner import one_row
from agentkd.runtime import (
    Agent,
    Goals,
    InlineDistiller,
    Process,
    ProcessPlanner,
    StrategyOptions,
    conditioned,
    unconditioned,
)
from agentkd.runtime.codec import Seen
from agentkd.runtime.goals import GoalMemory, write_goal
from agentkd.runtime.query import Demands, PlannerQuery
from agentkd.runtime.rollforward import Foresight, RollForward
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats
from tests.runtime_children import SPEC, Guiding, Towards, one_hot
from tests.test_runtime_processes import HERE, QUICK, act_until

GOALS = Goals(size=2, max_age=4)
OPTIONS = StrategyOptions(goals=GOALS)


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def follower() -> Executor:
    """An executor that chooses its goal's first number, 1 or 2, and 3 without one."""
    spec = conditioned(SPEC, GOALS)
    executor = initial("linear", spec)
    weight = np.zeros((4, 6), np.float32)
    bias = np.zeros(4, np.float32)
    # −(goal − choice)² up to a constant; the age speaks for 3, a goal against it.
    for choice in range(4):
        weight[choice, 3] = 2 * choice
        bias[choice] = -(choice**2)
    weight[3, 5], weight[3, 4] = 20, -40
    layer = Dense(weight, bias)
    return replace(executor, layers=(layer,))


@pytest.mark.parametrize(
    "obs",
    [
        SPEC.obs,
        ObsSpec((Part("a", "box", (2,), "f4"), Part("b", "discrete", (), "i8", (3,))), "dict"),
        ObsSpec((Part("0", "box", (2,), "f4"), Part("1", "box", (1,), "f4")), "tuple"),
        ObsSpec((Part("obs", "box", (2,), "f4"),), "dict"),
    ],
)
def test_conditioned_spec_comes_back(obs: ObsSpec) -> None:
    """An executor's spec with a goal tells the environment's, whatever its parts."""
    spec = Spec(obs, DiscreteSpec(4))
    with_goal = conditioned(spec, GOALS)
    assert with_goal.obs.size == obs.size + 3
    assert unconditioned(with_goal, GOALS) == spec


def test_executor_without_a_goal_is_refused() -> None:
    """An executor that does not observe a goal of this size cannot be guided."""
    with pytest.raises(SpecError, match="ends in 'goal' and 'age'"):
        Agent(initial("linear", SPEC), strategies=OPTIONS)
    other = conditioned(SPEC, Goals(3, 4))
    with pytest.raises(SpecError, match="goal of 2"):
        Agent(initial("linear", other), strategies=OPTIONS)
    taken = Spec(ObsSpec((Part("goal", "box", (1,), "f4"),), "dict"), DiscreteSpec(2))
    with pytest.raises(SpecError, match="taken"):
        conditioned(taken, GOALS)
    for size, age in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            Goals(size, age)


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_executor_acts_on_the_newest_goal(latency: int) -> None:
    """The executor follows each goal from the tick it comes, and none before."""
    options = StrategyOptions(goals=Goals(size=2, max_age=8))
    with Agent(follower(), planner=Guiding(), planner_latency=latency, strategies=options) as agent:
        decisions = [agent.decide(see(1 + i % 2)) for i in range(9)]
        for each in decisions[:latency]:
            assert (each.action, each.reason) == (3, "late")
        step = max(1, latency)
        for tick, each in enumerate(decisions[latency:], latency):
            asked = (tick - latency) // step * step
            assert (each.action, each.source) == (1 + asked % 2, "executor")
            assert each.reason == "guided"
        assert agent.metrics()["starved_ticks_total"] == 0


def test_old_goal_no_longer_counts() -> None:
    """Beyond its greatest age, and in a new episode, the executor has no goal."""
    with Agent(follower(), planner=Guiding(), planner_latency=0, strategies=OPTIONS) as agent:
        assert agent.act(see(2)) == 2
        agent._decider._planner = None
        acted = [agent.act(see(0)) for _ in range(6)]
        assert acted == [2, 2, 2, 2, 3, 3]
    with Agent(follower(), planner=Guiding(), planner_latency=4, strategies=OPTIONS) as agent:
        for _ in range(5):
            agent.act(see(1))
        agent.reset()
        assert agent.act(see(1)) == 3


def test_rows_act_and_the_goal_guides_after_them() -> None:
    """A strategy with both acts with its rows, then leaves its goal."""
    with Agent(
        follower(), planner=Guiding(rows=True), planner_latency=0, strategies=OPTIONS
    ) as agent:
        assert agent.decide(see(1)).source == "strategy"
        agent._decider._planner.submit = lambda *_, **__: None  # type: ignore[union-attr, method-assign]
        decision = agent.decide(see(0))
    assert (decision.action, decision.source, decision.reason) == (1, "executor", "guided")


def test_blind_observation_is_noticed_with_a_goal() -> None:
    """NaN in what is observed is not hidden by the goal."""
    with Agent(follower(), planner=Guiding(), planner_latency=0, strategies=OPTIONS) as agent:
        assert agent.decide(see(np.nan)).reason == "nan"
        assert agent.metrics()["planner_answers_total"] == 0


def test_goals_of_another_size_are_an_error_of_the_planner() -> None:
    """A goal that does not fit, or was not announced, is counted with its words."""
    options = StrategyOptions(goals=Goals(3, 4))
    executor = initial("linear", conditioned(SPEC, Goals(3, 4)))
    with Agent(executor, planner=Guiding(), planner_latency=0, strategies=options) as agent:
        agent.act(see(1))
        assert "Goals(size" in agent.metrics()["planner_error"]


def test_live_labels_carry_goals_of_every_age() -> None:
    """What the executor learns from is what it will observe: old goals and none."""
    distiller = Towards(after=10**9)
    with Agent(
        follower(),
        planner=Guiding(rows=True),
        planner_latency=0,
        strategies=OPTIONS,
        distiller=InlineDistiller(distiller),
    ) as agent:
        for i in range(400):
            agent.act(see(i % 3))
    rows = np.array(distiller.obs)
    assert rows.shape == (400, 6)
    ages = rows[:, 5] * GOALS.max_age
    for row, tick in zip(rows, range(400), strict=True):
        age = round(float(row[5] * GOALS.max_age))
        if row[3:5].any():
            assert row[3] == (tick - age) % 3
            assert row[4] == row[3] / 2
    counts = np.bincount(np.round(ages).astype(int), minlength=5)
    assert (counts > 40).all()


def test_another_process_gives_goals_and_aged_labels() -> None:
    """Goals and their ages cross to the planner's process and back."""
    distiller = InlineDistiller(Towards(after=10**9))
    port = ProcessPlanner(Process(f"{HERE}:Guiding", {"rows": True}), patience=QUICK)
    with Agent(follower(), planner=port, strategies=OPTIONS, distiller=distiller) as agent:
        act_until(agent, lambda m: m["labels_learnt_total"] >= 50)
        decisions = agent.metrics()["decisions_total"]
    assert "guided" in decisions["executor"]
    assert all(len(row) == 6 for row in distiller._distiller.obs)  # type: ignore[attr-defined]


def test_memory_gives_the_goal_of_an_age_and_none_of_another_episode() -> None:
    """A goal is found by episode and tick; older ones than kept count as none."""
    memory = GoalMemory(Goals(1, 2))
    memory.keep(0, 3, np.array([3.0], np.float32))
    memory.keep(1, 5, np.array([5.0], np.float32))
    assert memory.newest(1, 4)[0] is None
    goal, age = memory.newest(1, 7)
    assert goal is not None
    assert (goal.tolist(), age) == ([[5.0]], 2)
    out = np.empty(2, np.float32)
    write_goal(out, memory.goals, goal, 3)
    assert out.tolist() == [0.0, 1.0]
    write_goal(out, memory.goals, goal, 1)
    assert out.tolist() == [5.0, 0.5]


def test_recurrent_planner_may_give_goals() -> None:
    """Goals of a planner with a memory come step by step."""

    class Remembering:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1), np.float32),)

        def __call__(self, obs: Floats, state: Any) -> Any:
            from agentkd.types import Guidance

            return Guidance(None, np.repeat(state[0], 2, axis=1)), (state[0] + 1,)

    query = PlannerQuery(Remembering(), SPEC, backlog=True, demands=Demands(goals=GOALS))
    seen = [Seen(tick, 0, 0, see(tick)) for tick in range(3)]
    answer = query.last(seen)[0]
    assert answer.goal is not None
    assert answer.goal.tolist() == [[2.0, 2.0]]


def test_labels_of_a_recorded_run_get_goals_of_every_age() -> None:
    """The helper pairs each state with a goal of its own episode, or with none."""
    count, length = 1000, 20
    ticks = np.arange(count) % length
    obs = np.stack([ticks, np.arange(count) // length, np.zeros(count)], axis=1)
    goals = np.stack([ticks, np.arange(count) // length], axis=1) + 1.0
    dist = one_hot(ticks)
    given = (obs.astype(np.float32), goals.astype(np.float32), dist, GOALS)
    inputs, labels = aged_labels(*given, starts=ticks == 0, draws=2, seed=3)
    assert inputs.shape == (2 * count, 6)
    assert isinstance(labels, Categorical)
    ages = np.round(inputs[:, 5] * GOALS.max_age).astype(int)
    has = inputs[:, 3:5].any(axis=1)
    assert (inputs[has, 4] == inputs[has, 1] + 1).all()
    assert (inputs[has, 3] == inputs[has, 0] - ages[has] + 1).all()
    assert (inputs[~has, 5] == 1.0).all()
    shares = np.bincount(ages[has], minlength=5) / len(inputs)
    assert ((shares > 0.1) & (shares < 0.25)).all()
    assert (labels.logits.argmax(axis=1) == inputs[:, 0] % 4).all()
    again, _ = aged_labels(*given, starts=ticks == 0, draws=2, seed=3)
    assert (again == inputs).all()


def test_recorded_run_that_does_not_fit_is_refused() -> None:
    """Arrays of other lengths, or goals of another size, are refused by name."""
    obs, goals = np.zeros((3, 3), np.float32), np.zeros((3, 2), np.float32)
    starts = np.array([True, False, False])
    with pytest.raises(SpecError, match="goals"):
        aged_labels(obs, goals[:, :1], one_hot([0, 1, 2]), GOALS, starts=starts)
    with pytest.raises(SpecError, match="2 labels"):
        aged_labels(obs, goals, one_hot([0, 1]), GOALS, starts=starts)
    with pytest.raises(ConfigError, match="draws"):
        aged_labels(obs, goals, one_hot([0] * 3), GOALS, starts=starts, draws=0)


def sighted() -> Executor:
    """A follower that sees one of the three numbers beside the goal."""
    spec = conditioned(SPEC, GOALS, "2")
    whole, executor = follower().layers[0], initial("linear", spec)
    assert isinstance(whole, Dense)
    weight = np.delete(whole.weight, [0, 1], axis=1)
    return replace(executor, layers=(Dense(weight, whole.bias),))


@pytest.mark.parametrize("latency", [0, 2])
def test_an_executor_with_a_goal_may_see_a_part(latency: int) -> None:
    """It follows goals of what it does not see, as one that sees all does."""
    acted = []
    for executor in (follower(), sighted()):
        with Agent(
            executor, planner=Guiding(), planner_latency=latency, strategies=OPTIONS
        ) as agent:
            acted.append([agent.act(see(1 + i // 3 % 2)) for i in range(9)])
    assert acted[0] == acted[1]
    assert set(acted[0]) >= {1, 2}


def test_an_architecture_sees_a_part_and_a_goal() -> None:
    """`executor_sees` goes with goals; a stack of goals is refused."""
    with Agent(
        "linear", SPEC, planner=Guiding(), planner_latency=0, strategies=OPTIONS, executor_sees="0"
    ) as agent:
        assert agent.executor.spec.obs.size == 1 + GOALS.width
        agent.act(see(1))
    with pytest.raises(ConfigError, match="no stack"):
        conditioned(SPEC, GOALS, "0,stack:2")


def test_the_executor_alone_hears_no_goal() -> None:
    """Under mode="executor" the planner guides nobody."""
    with Agent(
        follower(), planner=Guiding(), planner_latency=0, strategies=OPTIONS, mode="executor"
    ) as agent:
        assert [agent.act(see(1)) for _ in range(3)] == [3, 3, 3]


def test_a_part_is_rolled_forward_with_its_goal() -> None:
    """In the model the executor sees what it sees in the world: a part, and the newest goal."""
    memory = GoalMemory(GOALS)
    memory.keep(0, 5, np.array([2.0, 1.0]))
    roll = RollForward(lambda obs, actions: obs, lead=2)
    seen = Seen(6, 0, 0, see(1), 2, np.zeros((0, 1), np.float32))
    done = [Foresight(roll, each, SPEC, memory)(seen)[1] for each in (follower(), sighted())]
    assert done[0].tolist() == done[1].tolist() == [[2.0]] * 3


class Said(Guiding):
    """A planner that says what its goals look like."""

    goals = GOALS


def test_a_planner_that_gives_goals_is_measured_by_its_rows() -> None:
    """Its first row is what it would do; one that gives goals alone does nothing by itself."""
    obs = np.array([[1, 0, 0], [2, 0, 0]], np.float32)
    policy: Any = from_object(Said(rows=True), "said", SPEC).policy
    assert policy.goals == GOALS
    assert one_row(policy)(obs).logits.argmax(axis=1).tolist() == [1, 2]
    with pytest.raises(PlannerError, match="no rows"):
        one_row(from_object(Said(), "said", SPEC).policy)(obs)


def test_an_executor_with_a_goal_is_no_planner(tmp_path: Path) -> None:
    """Alone it is told to be run with its planner."""
    sighted().save(tmp_path / "executor.akd")
    with pytest.raises(SpecError, match=r"goals of 2 numbers.*agentkd run ENV --planner"):
        load_planner(str(tmp_path / "executor.akd"), SPEC)


def test_what_an_executor_with_a_goal_does_not_see_may_be_missing() -> None:
    """NaN beside its view keeps the planner from being asked, not the executor from acting."""
    with Agent(sighted(), planner=Guiding(), planner_latency=0, strategies=OPTIONS) as agent:
        assert agent.act(see(2)) == 2
        decision = agent.decide(see(np.nan))
        assert (decision.source, decision.action) == ("executor", 2)
        assert agent.metrics()["planner_answers_total"] == 1
