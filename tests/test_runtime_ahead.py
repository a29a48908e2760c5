"""Strategies asked for ahead of time, piece by piece, and of several planners."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, PlannerError, WorkerError
from agentkd.runtime import (
    Agent,
    InlineDistiller,
    InlinePlanner,
    Process,
    ProcessPlanner,
    RollForward,
    Staggered,
    StrategyOptions,
    ThreadPlanner,
    workers_needed,
)
from agentkd.runtime.codec import Seen, flat_actions
from agentkd.runtime.query import PlannerQuery
from agentkd.runtime.rollforward import Foresight, Lead
from tests.runtime_children import (
    SPEC,
    Ahead,
    Anytime,
    Counting,
    Echo,
    Faulty,
    Towards,
    constant,
    never_two,
    next_ticks,
)
from tests.test_runtime_processes import HERE, QUICK, act_until, answered
from tests.waiting import ENOUGH

ROLLED = StrategyOptions(roll_forward=RollForward(next_ticks), trust=None)
TRUSTED = StrategyOptions(trust=None)


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def acted(agent: Agent, ticks: int) -> list[tuple[Any, str, str]]:
    decisions = [agent.decide(see(i)) for i in range(ticks)]
    return [(each.action, each.source, each.reason) for each in decisions]


def test_planner_that_looks_ahead_is_in_time() -> None:
    """Asked about the state its answer meets, a late planner acts as one in time."""
    with Agent(constant(2), planner=Ahead(3), planner_latency=3, strategies=ROLLED) as agent:
        told = acted(agent, 20)
        metrics = agent.metrics()
    # The first answer, asked about what was seen then, tells how late they are.
    assert metrics["lead_ticks"] == 3
    assert told[6:] == [
        (i % 4, "strategy", "fresh" if i % 3 == 0 else "ahead") for i in range(6, 20)
    ]
    # Without looking ahead three rows are over when they come.
    with Agent(constant(2), planner=Ahead(3), planner_latency=3) as agent:
        assert {source for _, source, _ in acted(agent, 20)} == {"executor"}


def test_executor_is_compared_where_the_answer_meets_its_tick() -> None:
    """Agreement is known for strategies that came before their tick, too."""
    with Agent(constant(2), planner=Ahead(3), planner_latency=3, strategies=ROLLED) as agent:
        acted(agent, 21)
        # For tick 0 late, for 6, 9, 12, 15 and 18 in time; 6 and 18 ask for a 2.
        assert agent.metrics()["executor_agreement"] == pytest.approx(2 / 6)


def test_lead_is_what_nineteen_of_twenty_answers_keep() -> None:
    """One slow answer in a window of 32 changes nothing; a slow window does."""
    lead = Lead(RollForward(next_ticks, window=32))
    assert lead.value == 0
    lead.note(700, request=1)
    # A warm-up is all that is known, until there is more to know.
    assert lead.value == 32
    lead.note(3, request=2)
    assert lead.value == 3
    lead.note(700, request=1)
    assert lead.value == 3
    for ticks in [3] * 31 + [21]:
        lead.note(ticks, request=2)
    assert lead.value == 3
    for _ in range(32):
        lead.note(9, request=2)
    assert lead.value == 9
    for _ in range(32):
        lead.note(2, request=2)
    assert lead.value == 2
    lead.note(10**6, request=2)
    lead.note(10**6, request=2)
    assert lead.value == 32


def test_lead_can_be_given() -> None:
    """A lead that is given is used from the first tick on."""
    options = StrategyOptions(roll_forward=RollForward(next_ticks, lead=2), trust=None)
    with Agent(constant(2), planner=Echo(), planner_latency=2, strategies=options) as agent:
        told = acted(agent, 6)
    assert told[2] == (2, "strategy", "fresh")
    assert told[4] == (0, "strategy", "fresh")


def test_committed_actions_come_first_then_the_executor_s() -> None:
    """The model is told what is decided, then what the executor would do."""
    told: list[list[int]] = []

    def model(obs: Any, actions: Sequence[Any]) -> Any:
        told.append(list(actions))
        return obs + 1

    foresight = Foresight(RollForward(model), constant(3), SPEC)
    known = flat_actions([1, 0], SPEC.action)
    foresight(Seen(0, 0, 0, see(0), 4, known))
    assert told == [[1, 0], [3], [3]]
    told.clear()
    foresight(Seen(0, 0, 0, see(0), 1, known))
    assert told == [[1]]


def test_check_of_the_roll_forward_falls_back_as_a_guard_does() -> None:
    """An action that the check refuses gives way to the one before or the default."""
    told: list[int] = []

    def model(obs: Any, actions: Sequence[Any]) -> Any:
        told.extend(actions)
        return obs

    roll = RollForward(model, check=lambda obs, action: action not in (2, 3))
    seen = Seen(0, 0, 0, see(0), 3, flat_actions([3, 1, 2], SPEC.action))
    Foresight(roll, constant(2), SPEC)(seen)
    # What is decided is done, safe or not; then 1 is held in the place of 2.
    assert told == [3, 1, 1]
    told.clear()
    Foresight(roll, constant(2), SPEC)(Seen(0, 0, 0, see(0), 2))
    assert told == [0, 0]


def test_without_an_executor_the_last_action_is_imagined() -> None:
    """Where the executor takes no part, what is held is what is to be expected."""
    told: list[int] = []

    def model(obs: Any, actions: Sequence[Any]) -> Any:
        told.extend(actions)
        return obs

    foresight = Foresight(RollForward(model), None, SPEC)
    foresight(Seen(0, 0, 0, see(0), 3, flat_actions([2], SPEC.action)))
    foresight(Seen(0, 0, 0, see(0), 2))
    assert told == [2, 2, 2, 0, 0]


def test_planner_alone_looks_ahead_over_what_it_holds() -> None:
    """A planner that acts alone is asked about where holding its actions leads."""
    told: list[int] = []

    def model(obs: Any, actions: Sequence[Any]) -> Any:
        told.extend(actions)
        return next_ticks(obs, actions)

    options = StrategyOptions(roll_forward=RollForward(model, lead=3))
    with Agent(
        constant(2), planner=Ahead(1), planner_latency=3, strategies=options, mode="planner"
    ) as agent:
        decisions = acted(agent, 7)
    assert [source for _, source, _ in decisions] == [
        *["default"] * 3,
        *["strategy", "hold", "hold", "strategy"],
    ]
    # Nothing was decided before tick 3; from there on its 3 is held.
    assert told == [0, 0, 0, 3, 3, 3, 2, 2, 2]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda obs, actions: obs[:2], "shape"),
        (lambda obs, actions: obs * np.nan, "NaN"),
        (lambda obs, actions: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_model_that_gives_no_observation_is_an_error_of_the_planner(model: Any, words: str) -> None:
    """A broken model is counted and told; the executor acts on."""
    options = StrategyOptions(roll_forward=RollForward(model, lead=1))
    with Agent(constant(2), planner=Echo(), planner_latency=1, strategies=options) as agent:
        assert {source for _, source, _ in acted(agent, 4)} == {"executor"}
        metrics = agent.metrics()
    assert metrics["planner_errors_total"] > 0
    assert words in metrics["planner_error"]


def test_planner_with_a_memory_is_not_asked_about_what_never_was() -> None:
    """Its memory would take what was only imagined for what happened."""
    with pytest.raises(PlannerError, match="memory"):
        Agent(constant(2), planner=Counting(), planner_latency=1, strategies=ROLLED).start()


def test_what_was_foreseen_is_a_label_and_so_is_what_was_seen() -> None:
    """Labels are the states visited, and those the planner was asked about ahead."""
    distiller = Towards(after=10**9)
    with Agent(
        constant(0),
        planner=Ahead(4),
        planner_latency=3,
        strategies=StrategyOptions(roll_forward=RollForward(next_ticks, lead=3)),
        distiller=InlineDistiller(distiller),
    ) as agent:
        acted(agent, 13)
    assert [row[0] for row in distiller.obs] == [3, 1, 2, 3, 6, 4, 5, 6, 9, 7, 8, 9, 12]


def test_another_process_rolls_forward_with_the_executor_that_acts() -> None:
    """Model and check are references there; swaps reach the copy of the executor."""
    roll = RollForward(f"{HERE}:next_ticks", f"{HERE}:never_two", lead=2)
    port = ProcessPlanner(Process(f"{HERE}:Ahead", {"horizon": 64}), patience=QUICK)
    with Agent(constant(3), planner=port, strategies=StrategyOptions(roll_forward=roll)) as agent:
        agent.swap(constant(1))
        end = time.monotonic() + ENOUGH
        tick, decision = 0, agent.decide(see(0))
        while decision.source != "strategy":
            tick += 1
            decision = agent.decide(see(tick))
            time.sleep(0.005)
            assert time.monotonic() < end, agent.metrics()
        assert decision.action == tick % 4


def test_functions_cannot_be_sent_to_another_process() -> None:
    """A model that is no reference is refused with what to give."""
    port = ProcessPlanner(Process(f"{HERE}:Echo"), patience=QUICK)
    agent = Agent(constant(3), planner=port, strategies=ROLLED)
    with pytest.raises(ConfigError, match="module:attribute"):
        agent.start()


def test_better_answers_come_one_after_the_other() -> None:
    """Of three answers within six ticks the first is out after two, then the next."""
    with Agent(constant(3), planner=Anytime(3), planner_latency=6, strategies=TRUSTED) as agent:
        told = acted(agent, 7)
        metrics = agent.metrics()
    assert told == [
        (3, "executor", "late"),
        (3, "executor", "late"),
        (0, "strategy", "ahead"),
        (0, "strategy", "ahead"),
        # Four rows: the one that comes at tick 4 is over already.
        (3, "executor", "late"),
        (3, "executor", "late"),
        (3, "executor", "late"),
    ]
    assert metrics["planner_partial_answers_total"] == 2
    assert metrics["planner_answers_total"] == 1
    assert metrics["labels_total"] == 1


def test_partial_strategy_is_replaced_while_it_acts() -> None:
    """Each better answer takes over at the tick it comes; the last is whole."""
    with Agent(constant(3), planner=Anytime(3), planner_latency=3, strategies=TRUSTED) as agent:
        told = [each[0] for each in acted(agent, 4)]
        strategies = agent._decider.strategies
        assert strategies.current is not None
        assert not strategies.current.partial
    assert told == [3, 0, 1, 2]


@pytest.mark.parametrize("where", ["thread", "process"])
def test_partial_answers_cross_threads_and_processes(where: str) -> None:
    """The first answer acts while the planner still thinks."""
    if where == "thread":
        port: Any = ThreadPlanner(Anytime(3, seconds=0.05))
    else:
        remote = Process(f"{HERE}:Anytime", {"parts": 3, "seconds": 0.05})
        port = ProcessPlanner(remote, patience=QUICK)
    with Agent(constant(3), planner=port) as agent:
        act_until(agent, answered())
        act_until(agent, lambda m: m["planner_partial_answers_total"] >= 2)


def test_new_episode_ends_thinking_about_the_old_one() -> None:
    """An anytime planner is left in the middle when its episode is over."""
    planner = Anytime(100_000, seconds=0.001)
    with Agent(constant(3), planner=ThreadPlanner(planner)) as agent:
        end = time.monotonic() + ENOUGH
        for asked in (1, 2, 3):
            while planner.asked < asked:
                agent.act(see(1))
                time.sleep(0.001)
                assert time.monotonic() < end
            agent.reset()
        assert agent.metrics()["planner_answers_total"] == 0


def test_new_episode_ends_thinking_on_the_tick_as_well() -> None:
    """Under the virtual clock the new episode's first state is asked about at once."""
    planner = Anytime(2)
    with Agent(constant(3), planner=planner, planner_latency=6, strategies=TRUSTED) as agent:
        acted(agent, 2)
        agent.reset()
        told = acted(agent, 7)
    # Asked at the new episode's first tick, of which half is known three ticks later.
    assert [source for _, source, _ in told] == [
        *["executor"] * 3,
        *["strategy"],
        *["executor"] * 3,
    ]
    assert planner.asked == 3


def test_planner_without_any_answer_is_an_error() -> None:
    """`improve` has to give at least one answer."""
    query = PlannerQuery(Anytime(0), SPEC, backlog=False)
    with pytest.raises(PlannerError, match="no answer"):
        query.last([Seen(0, 0, 0, see(0))])


@pytest.mark.parametrize(
    ("workers", "latency", "expected"), [(1, 4, 4), (2, 4, 2), (4, 4, 1), (3, 4, 2)]
)
def test_planners_that_take_turns_answer_more_often(
    workers: int, latency: int, expected: int
) -> None:
    """N planners of latency L answer every L / N ticks, evenly."""
    with Agent(constant(2), planner=Ahead(9), planner_latency=latency, workers=workers) as agent:
        for i in range(80):
            agent.act(see(i))
        before = agent.metrics()["planner_answers_total"]
        arrivals = []
        for i in range(80, 120):
            agent.act(see(i))
            if agent.metrics()["planner_answers_total"] > before:
                before = agent.metrics()["planner_answers_total"]
                arrivals.append(i)
    assert set(np.diff(arrivals)) == {expected}


def test_states_between_turns_are_labels() -> None:
    """Each state is labelled once by whoever was asked next."""
    distiller = Towards(after=10**9)
    with Agent(
        constant(0),
        planner=Echo(),
        planner_latency=4,
        workers=2,
        distiller=InlineDistiller(distiller),
    ) as agent:
        acted(agent, 40)
    numbers = sorted(row[0] for row in distiller.obs)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 34


def test_planner_that_fails_among_several_is_asked_again() -> None:
    """Whoever owes an answer that never comes does not lose its turn for good."""
    ports = [InlinePlanner(Faulty("raise"), latency_ticks=2) for _ in range(2)]
    with Agent(constant(2), planner=Staggered(ports)) as agent:
        for i in range(8):
            agent.act(see(i, i < 2))
        errors = agent.metrics()["planner_errors_total"]
        for i in range(8, 60):
            agent.act(see(i))
        metrics = agent.metrics()
    assert errors == metrics["planner_errors_total"] == 2
    assert all(port.counts().labels > 10 for port in ports)


def test_planners_in_processes_take_turns() -> None:
    """Several processes answer and push their labels into one ring, unharmed."""
    distiller = InlineDistiller(Towards(after=10**9))
    remote = Process(f"{HERE}:Echo")
    with Agent(constant(2), planner=remote, workers=2, distiller=distiller) as agent:
        end = time.monotonic() + ENOUGH
        i = 0
        while agent.metrics()["labels_learnt_total"] < 200:
            agent.act(see(i))
            i += 1
            time.sleep(0.0005)
            assert time.monotonic() < end, agent.metrics()
    towards = distiller._distiller
    assert isinstance(towards, Towards)
    numbers = [row[0] for row in towards.obs]
    assert len(set(numbers)) == len(numbers)
    assert towards.votes.sum() == len(numbers)


def test_planner_with_a_memory_takes_no_turns() -> None:
    """Each of several would miss what the others saw."""
    agent = Agent(constant(2), planner=Process(f"{HERE}:Counting"), workers=2)
    with pytest.raises(WorkerError, match="workers=1"):
        agent.start(wait=True)


def test_how_many_take_turns() -> None:
    """As many as the latency has periods, at least one."""
    assert workers_needed(0.1, 0.02) == 5
    assert workers_needed(0.1001, 0.02) == 6
    assert workers_needed(0.0, 0.02) == 1
    with pytest.raises(ConfigError, match="period"):
        workers_needed(0.1, 0.0)
    with pytest.raises(ConfigError, match="workers"):
        Agent(constant(0), planner=Echo(), planner_latency=1, workers=0)
    with pytest.raises(ConfigError, match="one port"):
        Agent(constant(0), planner=ThreadPlanner(Echo()), workers=2)
    with pytest.raises(ConfigError, match="at least one"):
        Staggered([])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "nowhere"}, "module:attribute"),
        ({"model": next_ticks, "check": "x"}, "check"),
        ({"model": next_ticks, "lead": -1}, "lead"),
        ({"model": next_ticks, "lead": 40}, "most"),
        ({"model": next_ticks, "window": 0}, "window"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    """A roll-forward that is invalid is refused when it is made."""
    with pytest.raises(ConfigError, match=words):
        RollForward(**options)
    assert never_two(see(0), 1)
