"""Who acts: the fallback order, and each router that may refuse a source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.errors import ConfigError
from agentkd.executors.acting import NumpyForm
from agentkd.executors.architecture import initial
from agentkd.executors.layers import Dense
from agentkd.planners.ensemble import Ensemble
from agentkd.runtime import (
    MODES,
    Agent,
    Deadline,
    Disagreement,
    Fresh,
    Guard,
    Hold,
    Mode,
    Moment,
    Router,
    Shadow,
    Uncertainty,
    Unless,
    Valid,
    spread,
)
from agentkd.runtime.arbiter import ORDER, Arbiter, check_mode
from agentkd.runtime.codec import Seen
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.query import PlannerQuery
from agentkd.runtime.strategies import Strategies
from agentkd.types import Categorical, Decision, Floats, Guidance, Source
from tests.runtime_children import BOX, SPEC, Ahead, Echo, constant, one_hot
from tests.test_runtime_strategies import answer

OBS = np.zeros(3, np.float32)


class Refusing(Router):
    """Refuses some sources, under their own names."""

    def __init__(self, *sources: Source) -> None:
        self.sources = sources

    def veto(self, source: Source, moment: Moment, /) -> str:
        return f"no {source}" if source in self.sources else ""


class Broken(Router):
    """Raises whenever it is asked."""

    def veto(self, source: Source, moment: Moment, /) -> str:
        raise RuntimeError("a bug")

    def fallback(self, moment: Moment, /) -> Any:
        raise RuntimeError("another")


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def lived(
    routers: Sequence[Router],
    ticks: int = 6,
    *,
    planner: Any = None,
    latency: int = 0,
    mode: Mode = "runtime",
) -> tuple[list[tuple[Any, str, str]], dict[str, Any]]:
    """Live some ticks, the tick being observed; the executor chooses 2."""
    planner = planner or Echo()
    with Agent(
        constant(2), planner=planner, planner_latency=latency, routers=routers, mode=mode
    ) as agent:
        decisions = [agent.decide(see(i)) for i in range(ticks)]
        return [told(each) for each in decisions], agent.metrics()


def told(decision: Decision) -> tuple[Any, str, str]:
    return decision.action, decision.source, decision.reason


@given(
    mode=st.sampled_from(MODES),
    strategy=st.booleans(),
    held=st.booleans(),
    first=st.sets(st.sampled_from(ORDER)),
    second=st.sets(st.sampled_from(ORDER)),
)
def test_first_source_that_nobody_refuses_acts(
    mode: Mode, strategy: bool, held: bool, first: set[Source], second: set[Source]
) -> None:
    """Strategy, executor, hold, default: the first there is that no router refuses."""
    routers = [Refusing(*first), Refusing(*second)]
    arbiter = Arbiter(SPEC, mode, routers, None, 0, Metrics(SPEC.action))
    strategies = Strategies(SPEC)
    theirs, why = None, "late"
    if strategy and mode != "executor":
        strategies.offer(answer(0, [1]), 0, 0)
        theirs, why = strategies.serve(0)
    form = NumpyForm(constant(2))
    arbiter.moment.begin(0, OBS, form, math.inf, 0)
    last = 3 if held else None
    action, source, reason = arbiter.choose(strategies, theirs, 2, last, why)
    there = {
        "strategy": theirs is not None,
        "executor": mode != "planner",
        "hold": held,
        "default": True,
    }
    refused = [s for s in ORDER if there[s] and s in first | second and s != "default"]
    expected = next(s for s in ORDER if there[s] and s not in refused)
    assert source == expected
    assert action == {"strategy": 1, "executor": 2, "hold": 3, "default": 0}[source]
    before = [s for s in refused if ORDER.index(s) < ORDER.index(source)]
    assert reason == (f"no {before[-1]}" if before else why)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("routers", [[], [Refusing("executor")]])
def test_nobody_answers_a_blind_observation(mode: Mode, routers: list[Any]) -> None:
    """With NaN the last action is held, or the default taken, in every mode."""
    with Agent(constant(2), planner=Echo(), planner_latency=0, mode=mode, routers=routers) as agent:
        assert told(agent.decide(see(np.nan))) == (0, "default", "nan")
        if not routers or mode != "executor":
            agent.decide(see(1))
            assert agent.decide(see(np.nan)).source == "hold"


def test_blind_observation_can_be_refused_to_hold() -> None:
    """A limit on holding counts without a view, too: then the default is taken."""
    agent = Agent(constant(2), routers=[Hold(1)])
    acted = [told(agent.decide(see(x))) for x in (0, np.nan, np.nan, np.nan, 1)]
    assert [source for _, source, _ in acted] == ["executor", "hold", "default", "hold", "executor"]
    assert acted[2] == (0, "default", "held")


def test_unknown_mode_is_refused_with_a_suggestion() -> None:
    """A mode that does not exist is refused, and the nearest one named."""
    with pytest.raises(ConfigError, match="runtime"):
        check_mode("runtim")


def test_age_has_a_limit() -> None:
    """Beyond max_age a strategy is stale, dropped for good and counted once."""
    acted, metrics = lived([Fresh(2)], planner=Ahead(6), latency=2)
    assert [source for _, source, _ in acted] == ["executor", "executor"] + [
        "strategy" if tick % 2 == 0 else "executor" for tick in range(2, 6)
    ]
    assert metrics["strategy_rejected_total"]["stale"] == 2
    assert metrics["vetoes_total"] == {"strategy": {"stale": 2}}
    assert acted[3] == (2, "executor", "stale")


def test_precondition_ends_a_strategy() -> None:
    """A strategy whose precondition fails is dropped for good."""
    seen: list[int] = []

    def holds(strategy: Any, obs: Floats, row: int) -> bool:
        seen.append(row)
        return row != 3

    acted, metrics = lived([Valid(holds)], planner=Ahead(9), latency=2)
    assert seen == [2, 3, 2, 3]
    assert acted[3] == (2, "executor", "diverged")
    assert metrics["strategy_rejected_total"]["diverged"] == 2


def test_strategy_that_expected_something_else_has_diverged() -> None:
    """What the planner expected to see at each row is compared with what is seen."""

    class Expecting:
        horizon = 4

        def __call__(self, obs: Floats) -> Guidance:
            first = obs[:, :1] + np.arange(4, dtype=np.float32)
            expected = np.zeros((4 * len(obs), 3), np.float32)
            expected[:, 0] = first.ravel()
            return Guidance(one_hot(first.ravel()), expected=expected)

    with Agent(
        constant(2), planner=Expecting(), planner_latency=1, routers=[Valid(tolerance=0.5)]
    ) as agent:
        acted = [told(agent.decide(see(x))) for x in (0, 1, 7, 8)]
    assert [each[1:] for each in acted] == [
        ("executor", "late"),
        ("strategy", "ahead"),
        # It was made for 1, then 2; seven is observed.
        ("executor", "diverged"),
        ("strategy", "ahead"),
    ]


def test_strategy_whose_rest_leads_nowhere_has_diverged() -> None:
    """The actions that are left are shown with what is observed; a no ends it."""
    seen: list[tuple[float, list[int]]] = []

    def holds(obs: Floats, actions: Sequence[Any]) -> bool:
        seen.append((float(obs[0]), [int(action) for action in actions]))
        return bool(obs[0] != 4)

    acted, metrics = lived([Valid(holds=holds)], planner=Ahead(4), latency=2)
    assert seen == [(2, [2, 3]), (3, [3]), (4, [0, 1])]
    assert acted[4] == (2, "executor", "diverged")
    assert metrics["strategy_rejected_total"]["diverged"] == 1


def test_router_that_raises_refuses() -> None:
    """Nobody knows whether a source may act where a router fails, so it may not."""
    acted, metrics = lived([Broken()], ticks=2)
    assert acted == [(0, "default", "error")] * 2
    # Two sources refused and no default of its own, at each tick.
    assert metrics["router_errors_total"] == 6


def test_uncertain_executor_is_refused() -> None:
    """Four choices as good as each other are too uncertain; one that is sure is not."""
    unsure = initial("linear", SPEC, seed=0)
    for layer in unsure.layers:
        assert isinstance(layer, Dense)
        layer.weight[:] = 0
        layer.bias[:] = 0
    agent = Agent(unsure, routers=[Uncertainty(0.5)])
    assert told(agent.decide(see(0))) == (0, "default", "uncertain")
    agent = Agent(unsure, routers=[Uncertainty(math.log(4) + 1e-3)])
    assert agent.decide(see(0)).source == "executor"
    agent = Agent(constant(2), routers=[Uncertainty(1.3)])
    assert agent.decide(see(0)).source == "executor"


def test_uncertainty_can_be_measured_otherwise() -> None:
    """Executors of boxes have no entropy; how far several are apart serves instead."""
    one, two = (initial("linear", BOX, seed=seed) for seed in (0, 1))
    same = spread([one, one], BOX.action)
    apart = spread([one, two], BOX.action)
    assert same(OBS + 1) == 0.0
    assert 0.0 < apart(OBS + 1) <= 1.0
    agent = Agent(one, routers=[Uncertainty(0.0, apart)])
    assert agent.decide(see(1, 1, 1)).reason == "uncertain"
    agent = Agent(one, routers=[Uncertainty(0.0, same)])
    assert agent.decide(see(1, 1, 1)).source == "executor"
    # Without a measure the question has no answer, and no answer is no leave.
    agent = Agent(one, routers=[Uncertainty(1.0)])
    assert agent.decide(see(1)).reason == "error"


def test_disputed_strategy_is_refused() -> None:
    """Where strategy and executor differ too much, the one it is against is refused."""
    acted, _ = lived([Disagreement(0.5)], ticks=4)
    assert [source for _, source, _ in acted] == ["executor"] * 2 + ["strategy", "executor"]
    acted, _ = lived([Disagreement(0.5, against="executor")], ticks=4)
    assert [source for _, source, _ in acted] == ["strategy"] * 4


def test_planner_in_doubt_is_refused() -> None:
    """How far an ensemble's members are apart travels with its answer."""

    class Doubting(Echo):
        def disagreement(self, obs: Floats) -> Floats:
            return np.asarray(obs[:, 0] / 4, np.float32)

    acted, _ = lived([Disagreement(0.5, between="members")], planner=Doubting(), ticks=5)
    assert [reason for _, _, reason in acted] == ["fresh"] * 3 + ["disputed"] * 2


def test_members_are_asked_once_a_request() -> None:
    """Answer and disagreement of an ensemble come of one call of each member."""
    calls: list[int] = []

    def member(obs: Floats) -> Categorical:
        calls.append(len(obs))
        return Categorical(np.tile(np.eye(4, dtype=np.float32)[1], (len(obs), 1)))

    query = PlannerQuery(Ensemble((member, member), SPEC), SPEC, backlog=False)
    obs = np.zeros(SPEC.obs.size, np.float32)
    answer, _ = query.last([Seen(0, 0, 0, obs)])
    assert calls == [1, 1]
    assert answer.doubt == pytest.approx(0, abs=1e-6)


def test_shadow_is_compared_and_never_acts() -> None:
    """A planner in the shadow changes nothing and shows what it would change."""
    acted, metrics = lived([Shadow("strategy")], ticks=8)
    assert {source for _, source, _ in acted} == {"executor"}
    assert metrics["shadow_compared_total"] == 8
    assert metrics["shadow_agreement"] == 0.25


def test_executor_in_the_shadow() -> None:
    """Where no strategy serves, an executor in the shadow leaves the last action."""
    acted, _ = lived([Shadow("executor")], planner=Ahead(3), latency=2, ticks=4)
    assert [source for _, source, _ in acted] == ["default", "default", "strategy", "hold"]


def test_tick_without_time_takes_the_shortest_way() -> None:
    """With less than the reserve left the strategy is not even looked at."""
    asked: list[int] = []

    def holds(strategy: Any, obs: Floats, row: int) -> bool:
        asked.append(row)
        return True

    with Agent(
        constant(2),
        planner=Echo(),
        planner_latency=0,
        period=1000.0,
        routers=[Deadline(10.0), Valid(holds)],
    ) as agent:
        assert told(agent.decide(see(1), lateness=995.0)) == (2, "executor", "deadline")
        assert asked == []
        assert told(agent.decide(see(1), lateness=5.0)) == (1, "strategy", "fresh")


def test_a_condition_overrules_a_router() -> None:
    """An old strategy may act where the executor is not certain of itself."""
    sure = Uncertainty(1.0, lambda obs: float(obs[0] >= 4) * 9)
    acted, _ = lived([Unless(Fresh(0), sure)], planner=Ahead(9), latency=2, ticks=6)
    assert [source for _, source, _ in acted] == ["executor"] * 4 + ["strategy"] * 2


def test_routers_compose_in_their_order() -> None:
    """The first refusal of a source is its reason; every source is asked about."""
    acted, metrics = lived(
        [Fresh(0), Refusing("strategy", "executor"), Hold(0)], planner=Ahead(4), latency=1, ticks=3
    )
    assert acted[0] == (0, "default", "no executor")
    assert metrics["vetoes_total"]["strategy"] == {"stale": 2}
    assert metrics["vetoes_total"]["executor"] == {"no executor": 3}


def test_moment_shows_both_distributions() -> None:
    """A router sees what executor and planner think, not only what they would do."""
    seen: list[tuple[Any, Any]] = []

    class Looking(Router):
        def veto(self, source: Source, moment: Moment, /) -> str:
            seen.append((moment.executor(), moment.planner()))
            return ""

    lived([Looking()], ticks=1)
    mine, theirs = seen[0]
    assert isinstance(mine, Categorical)
    assert mine.logits.argmax() == 2
    assert theirs.logits.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Fresh(-1), "max_age"),
        (Valid, "precondition"),
        (lambda: Valid(tolerance=-1.0), "tolerance"),
        (lambda: Guard(lambda o, a: True, dwell=-1), "dwell"),
        (lambda: Guard(lambda o, a: True, recover=0), "recover"),
        (lambda: Deadline(-1.0), "reserve"),
        (lambda: Hold(-1), "most"),
        (lambda: Uncertainty(math.nan), "NaN"),
        (lambda: Disagreement(-0.5), "most"),
        (lambda: Disagreement(0.5, between="us"), "between"),  # type: ignore[arg-type]
        (lambda: Shadow("hold"), "strategy"),  # type: ignore[arg-type]
        (lambda: spread([constant(0)], SPEC.action), "at least 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], Any], words: str) -> None:
    """Limits that is invalid are refused when they are set."""
    with pytest.raises(ConfigError, match=words):
        make()
