"""The agent in a loop of the user's own, with planner and distiller on the tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, NumbersError, SpecError
from agentkd.executors.acting import NumpyForm, default_action
from agentkd.executors.architecture import initial
from agentkd.executors.layers import Dense
from agentkd.runtime import Agent, InlineDistiller, Mode, PlannerPort, Process, ThreadPlanner
from agentkd.runtime.codec import Seen
from agentkd.runtime.decider import Decider
from agentkd.spec import (
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from tests.runtime_children import SPEC, Echo, Faulty, Towards, constant
from tests.waiting import ENOUGH


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def outcomes(agent: Agent, observations: list[Any]) -> list[tuple[Any, str, str]]:
    decisions = [agent.decide(obs) for obs in observations]
    return [(d.action, d.source, d.reason) for d in decisions]


@pytest.mark.parametrize("native", [True, False])
def test_executor_alone_acts(native: bool) -> None:
    """Without planner an agent needs no block, and act and decide agree."""
    agent = Agent(constant(3), native=native)
    decision = agent.decide(see(0))
    assert (decision.action, decision.source, decision.reason) == (3, "executor", "alone")
    assert agent.act(see(1)) == 3
    assert agent.act([0, 1, 2]) == 3
    metrics = agent.metrics()
    assert metrics["decisions_total"] == {"executor": {"alone": 3}}
    assert metrics["ticks_total"] == 3
    assert metrics["decision_latency_us"]["count"] == 3


def test_native_and_numpy_act_alike() -> None:
    """The compiled executor and the one in NumPy take the same actions."""
    spec = Spec(SPEC.obs, BoxSpec((-2.0, 0.0), (2.0, 1.0), (2,)))
    executor = initial("mlp:16", spec, seed=1)
    native, plain = Agent(executor), Agent(executor, native=False)
    random = np.random.default_rng(0)
    for obs in random.standard_normal((50, 3)) * 3:
        assert np.allclose(native.act(obs), plain.act(obs), atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("planner", [None, Echo()])
def test_blind_observation_holds_the_last_action(bad: float, planner: Any) -> None:
    """NaN gives the default before the first action, then holds; it is counted."""
    latency = None if planner is None else 1
    with Agent(constant(2), planner=planner, planner_latency=latency) as agent:
        assert agent.act(see(bad)) == 0
        assert agent.act(see(1)) == 2
        assert agent.act(see(0, bad)) == 2
        agent.reset()
        assert agent.decide(see(bad)).source == "default"
        metrics = agent.metrics()
        assert metrics["nan_observations_total"] == 3
        assert metrics["decisions_total"]["hold"] == {"nan": 1}
        assert metrics["decisions_total"]["default"] == {"nan": 2}


def test_number_too_large_for_float32_is_blind() -> None:
    """A double that float32 cannot hold is as good as infinity, warnings or not."""
    assert Agent(constant(2)).decide(np.array([1e300, 0, 0])).reason == "nan"


def test_blind_observation_is_no_label() -> None:
    """What holds NaN is never shown to the planner."""
    planner = Echo()
    with Agent(constant(2), planner=planner, planner_latency=0) as agent:
        for number in (1, np.nan, 2):
            agent.act(see(number))
    assert planner.asked == [[1.0], [2.0]]


def test_held_action_is_not_the_callers_array() -> None:
    """A caller that changes what it was given by a hold does not change the next."""
    spec = Spec(SPEC.obs, BoxSpec((-1.0,), (1.0,), (1,)))
    agent = Agent(initial("linear", spec))
    first = agent.act(see(1)).copy()
    agent.act(see(np.nan))[:] = 77
    assert agent.act(see(np.nan)) == first


@pytest.mark.parametrize("obs", [np.zeros(4), np.zeros((1, 3)), 1.0])
def test_wrong_shape_is_refused(obs: Any) -> None:
    """An observation of another shape is an error that names both, and no tick."""
    agent = Agent(constant(0))
    with pytest.raises(SpecError, match="shape"):
        agent.act(obs)
    assert agent.metrics()["ticks_total"] == 0


def test_dictionary_observations_are_laid_out() -> None:
    """An observation in parts is laid out as the executor was trained on it."""
    parts = (Part("b", "discrete", (), "int64", (2,)), Part("a", "box", (1,), "f4"))
    spec = Spec(ObsSpec(parts, "dict"), DiscreteSpec(3))
    executor = initial("linear", spec)
    first = executor.layers[0]
    assert isinstance(first, Dense)
    layer = replace(first, weight=np.eye(3, dtype=np.float32))
    agent = Agent(replace(executor, layers=(layer,)))
    assert agent.act({"a": [0.5], "b": 1}) == 1
    assert agent.act({"a": [1.5], "b": 0}) == 2


def test_what_is_learnt_is_swapped_in() -> None:
    """The executor becomes what the labels say, version by version."""
    with Agent(
        constant(0),
        planner=Echo(),
        planner_latency=1,
        distiller=InlineDistiller(Towards(), swap_every=4),
    ) as agent:
        versions = [agent.decide(see(3)).version for _ in range(12)]
        assert agent.act(see(3)) == 3
    assert versions == sorted(versions)
    assert set(versions) == {0, 1, 2}
    assert agent.executor.version >= 3


@pytest.mark.parametrize(("fault", "reason"), [("nan", "numbers"), ("size", "unfit")])
def test_weights_that_are_no_weights_are_refused(fault: str, reason: str) -> None:
    """NaN or a wrong number of weights is never swapped in; it is counted."""
    distiller = InlineDistiller(Towards(fault), swap_every=1)
    with Agent(constant(2), planner=Echo(), planner_latency=1, distiller=distiller) as agent:
        assert [agent.act(see(3)) for _ in range(8)] == [2] * 8
        metrics = agent.metrics()
    assert metrics["swaps_refused_total"][reason] > 0
    assert metrics["executor_version"] == metrics["swaps_total"] == 0


def test_executor_that_overflows_is_refused() -> None:
    """Finite weights whose outputs are not are refused; the present executor stays."""
    agent = Agent(constant(2))
    huge = constant(1)
    first = huge.layers[0]
    assert isinstance(first, Dense)
    layer = replace(first, weight=np.full_like(first.weight, np.float32(3e38)))
    with pytest.raises(NumbersError):
        agent.swap(replace(huge, layers=(layer,)))
    assert agent.act(see(0)) == 2


def test_distiller_that_raises_is_given_up_after_three_times() -> None:
    """A distiller that fails again and again is left alone; the executor acts on."""
    distiller = InlineDistiller(Towards("raise"))
    with Agent(constant(2), planner=Echo(), planner_latency=0, distiller=distiller) as agent:
        for i in range(10):
            agent.act(see(i))
        metrics = agent.metrics()
    assert metrics["distiller_errors_total"] == 3
    assert "cannot learn" in metrics["distiller_error"]
    assert metrics["ticks_total"] == 10


def test_decision_beyond_its_deadline_is_counted() -> None:
    """A decision that takes longer than the period, lateness included, is a miss."""
    agent = Agent(constant(0), period=1000.0)
    agent.decide(see(0), lateness=9.0)
    assert agent.metrics()["deadline_miss_total"] == 0
    agent.decide(see(0), lateness=1001.0)
    hurried = Agent(constant(0), period=1e-9)
    hurried.act(see(0))
    assert agent.metrics()["deadline_miss_total"] == 1
    assert hurried.metrics()["deadline_miss_total"] == 1


def test_budget_waits_only_for_a_planner_that_keeps_it() -> None:
    """A fast planner is waited for; one that stopped answering soon no longer is."""
    port = ThreadPlanner(Echo())
    port.open(SPEC, None)
    polls: list[int] = []
    poll = port.poll

    class Watched(PlannerPort):
        mute = False

        def open(self, spec: Spec, ring: Any, demands: Any = None) -> None: ...

        def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
            port.submit(seen, before)

        def poll(self, tick: int, /) -> Any:
            polls.append(tick)
            return () if self.mute else poll(tick)

    watched = Watched()
    budget = round(1e9 * ENOUGH)
    decider = Decider(NumpyForm(constant(2)), watched, "runtime", None, None, None, budget)
    while not decider.metrics.answers:
        decider.decide(see(1))
    assert decider.decide(see(1))[1] == "strategy"
    watched.mute = True
    decider._budget = 1_000_000
    for _ in range(50):
        decider.decide(see(1))
    polls.clear()
    assert decider.decide(see(1))[1] == "executor"
    assert len(polls) == 1
    port.close()


def test_thread_planner_answers_and_labels() -> None:
    """In a thread a planner answers, errs and labels as it does elsewhere."""
    distiller = Towards(after=10**9)
    port = ThreadPlanner(Faulty("raise"))
    with Agent(constant(2), planner=port, distiller=InlineDistiller(distiller)) as agent:
        i = 0
        while agent.metrics()["planner_errors_total"] == 0 or not distiller.obs:
            agent.act(see(i, i % 50 == 49))
            i += 1
        metrics = agent.metrics()
    numbers = [row[0] for row in distiller.obs]
    assert numbers == sorted(set(numbers))
    assert "no idea" in metrics["planner_error"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (DiscreteSpec(3, 5), 5),
        (BoxSpec((1.0, -1.0), (2.0, 1.0), (2,)), [1.0, 0.0]),
        (MultiDiscreteSpec((2, 3)), [0, 0]),
        (MultiBinarySpec(2), [0, 0]),
    ],
)
def test_default_action_fits_the_space(action: Any, expected: Any) -> None:
    """The default is the first choice, or the action nearest to 0."""
    assert np.array_equal(default_action(action), expected)


def test_default_can_be_chosen() -> None:
    """What is done before the first decision is the caller's, if they say so."""
    assert Agent(constant(0), default=3).act(see(np.nan)) == 3
    box = BoxSpec((0.1, -np.inf), (0.1, np.inf), (2, 1))
    chosen = default_action(box, [[0.1], [7]])
    assert chosen.dtype == np.float32
    assert chosen.shape == (2, 1)
    assert np.array_equal(default_action(MultiDiscreteSpec((2, 3)), (1, 2)), (1, 2))


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        (DiscreteSpec(3, 5), 4),
        (DiscreteSpec(3, 5), 5.5),
        (DiscreteSpec(3), [1]),
        (BoxSpec((-1.0,), (1.0,), (1,)), "brake"),
        (BoxSpec((-1.0,), (1.0,), (1,)), 0.0),
        (BoxSpec((-1.0,), (1.0,), (1,)), [np.nan]),
        (BoxSpec((-1.0,), (1.0,), (1,)), [1.5]),
        (MultiDiscreteSpec((2, 3)), [2, 0]),
        (MultiBinarySpec(2), [0, 2]),
    ],
)
def test_default_that_is_no_action_is_refused(action: Any, wanted: Any) -> None:
    """A robot never gets a default of another type, shape or range."""
    with pytest.raises(ConfigError, match="default"):
        default_action(action, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"planner": Echo()}, "ThreadPlanner"),
        ({"distiller": Towards()}, "InlineDistiller"),
        ({"mode": "planner"}, "needs a planner"),
        ({"mode": "both"}, "runtime"),
        ({"budget": -1.0}, "budget"),
        ({"period": 0.0}, "period"),
        ({"planner": Echo(), "planner_latency": -1}, "planner_latency is -1"),
        ({"planner": ThreadPlanner(Echo()), "planner_latency": 1}, "its own"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], words: str) -> None:
    """Invalid options are refused, at the start at the latest, with what to do instead."""
    with pytest.raises(ConfigError, match=words):
        Agent(constant(0), **options).start()


def test_agent_runs_in_its_block_and_once() -> None:
    """With a planner, an agent acts inside its block only, and is entered once."""
    agent = Agent(constant(0), planner=Echo(), planner_latency=0)
    with pytest.raises(ConfigError, match="block"):
        agent.act(see(0))
    with agent:
        agent.act(see(0))
    with pytest.raises(ConfigError, match="block"):
        agent.act(see(0))
    with pytest.raises(ConfigError, match="once"), agent:
        pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"factory": "nowhere"}, "not a reference"),
        ({"factory": "a:b", "arguments": {"x": object()}}, "JSON"),
        ({"factory": "a:b", "threads": 0}, "thread"),
        ({"factory": "a:b", "nice": 20}, "nice"),
    ],
)
def test_remote_is_checked_before_anything_starts(arguments: dict[str, Any], words: str) -> None:
    """What could not be sent to another process is refused at once."""
    with pytest.raises(ConfigError, match=words):
        Process(**arguments)


def test_modes_are_told_apart() -> None:
    """The same planner and executor give three different arms."""
    acted = {}
    modes: tuple[Mode, ...] = ("runtime", "planner", "executor")
    for mode in modes:
        with Agent(constant(2), planner=Echo(), planner_latency=1, mode=mode) as agent:
            acted[mode] = [agent.act(see(i)) for i in range(1, 5)]
    assert acted == {"runtime": [2, 2, 2, 2], "planner": [0, 1, 2, 3], "executor": [2, 2, 2, 2]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rollback": 3},
        {"strategies": "fast"},
        {"routers": 3},
        {"routers": ["fresh"]},
        {"log": 3},
        {"workers": "a"},
        {"workers": True},
        {"watch": "yes"},
        {"period": "0.1"},
        {"budget": None},
        {"planner_latency": 1.5},
    ],
)
def test_an_argument_of_another_type_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """The error names the argument, its value and what to give."""
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*; give "):
        Agent(constant(0), **wrong)
