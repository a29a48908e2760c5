"""Swaps: an executor fits or is refused, a file is followed, a rollback goes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.fit import check_fit
from agentkd.errors import BundleError, ConfigError, NumbersError, SpecError
from agentkd.executors.architecture import initial
from agentkd.runtime import (
    Agent,
    InlineDistiller,
    Patience,
    Process,
    ProcessDistiller,
    Rollback,
    RollForward,
    StrategyOptions,
)
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from agentkd.types import Floats
from tests.deploy_executors import lively
from tests.runtime_children import SPEC, Echo, Towards, constant
from tests.waiting import ENOUGH, wait_for

HERE = "tests.runtime_children"


def see(*numbers: float) -> Floats:
    """Make an observation that begins with these numbers."""
    return np.array([*numbers, 0, 0, 0][:3], np.float32)


def observing(*parts: Part, layout: Any = "single") -> Spec:
    """Make a spec of other observations."""
    return Spec(ObsSpec(parts, layout), SPEC.action)


BOX = Part("", "box", (3,), "float32")
OTHERS: dict[str, tuple[Spec, str]] = {
    "fewer numbers": (observing(replace(BOX, shape=(2,))), "observes 2 numbers"),
    "another shape": (observing(replace(BOX, shape=(3, 1))), "observes Part"),
    "integers": (observing(replace(BOX, dtype="uint8")), "observes Part"),
    "choices": (observing(Part("", "discrete", (), "int64", (3,))), "observes Part"),
    "two parts": (
        observing(
            Part("a", "box", (1,), "float32"), Part("b", "box", (2,), "float32"), layout="dict"
        ),
        "dict",
    ),
    "more choices": (Spec(SPEC.obs, DiscreteSpec(5)), "acts in"),
    "another start": (Spec(SPEC.obs, DiscreteSpec(4, 1)), "acts in"),
    "several choices": (Spec(SPEC.obs, MultiDiscreteSpec((2, 2))), "acts in"),
    "yes or no": (Spec(SPEC.obs, MultiBinarySpec(4)), "acts in"),
    "numbers": (Spec(SPEC.obs, BoxSpec((-1.0,) * 4, (1.0,) * 4, (4,))), "acts in"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_executor_for_something_else_is_refused(name: str) -> None:
    """The error names the difference, the refusal is counted, the present one acts."""
    spec, said = OTHERS[name]
    agent = Agent(constant(2))
    with pytest.raises(SpecError, match=said):
        agent.swap(initial("linear", spec))
    assert agent.act(see(1)) == 2
    metrics = agent.metrics()
    assert metrics["swaps_refused_total"] == {"unfit": 1}
    assert metrics["swaps_total"] == 0


@pytest.mark.parametrize(
    "action",
    [
        BoxSpec((-1.0, -1.0), (1.0, 2.0), (2,)),
        BoxSpec((-1.0, -np.inf), (1.0, 1.0), (2,)),
        BoxSpec((-1.0, -1.0), (1.0, 1.0), (2, 1)),
    ],
)
def test_other_bounds_are_another_robot(action: ActionSpec) -> None:
    """Bounds and shape of a box are compared as well as its size."""
    present = initial("linear", Spec(SPEC.obs, BoxSpec((-1.0,) * 2, (1.0,) * 2, (2,))))
    with pytest.raises(SpecError, match="acts in"):
        check_fit(present, initial("linear", Spec(SPEC.obs, action)))


def test_another_memory_is_refused_and_another_architecture_is_not() -> None:
    """What is remembered has to fit; layers and their sizes are the executor's own."""
    agent = Agent(constant(2))
    with pytest.raises(SpecError, match="remembers 4 numbers"):
        agent.swap(initial("gru:4", SPEC))
    agent.swap(initial("mlp:5,tanh", SPEC))
    assert agent.executor.architecture == "mlp:5,tanh"
    remembering = Agent(initial("gru:4", SPEC))
    for architecture in ("gru:5", "lstm:4", "linear"):
        with pytest.raises(SpecError, match="remembers"):
            remembering.swap(initial(architecture, SPEC))
    remembering.swap(initial("gru:4", SPEC, seed=1))


def test_another_layout_of_the_past_is_refused() -> None:
    """As many numbers may be remembered, and others be actions."""
    action = BoxSpec((-1.0,), (1.0,), (1,))
    two = [
        lively(f"mlp:4,tanh 0:2,{sees}", action)
        for sees in ("stack:2,actions:3", "stack:3,actions:1")
    ]
    assert two[0].memory == two[1].memory == 5
    with pytest.raises(SpecError, match="remembers"):
        check_fit(*two)
    check_fit(two[0], two[0])


def test_a_float_type_makes_no_difference() -> None:
    """Observations are laid out in float32, whichever float they come in."""
    wide = observing(replace(BOX, dtype="float64"))
    check_fit(constant(0), initial("linear", wide))


def test_an_executor_is_swapped_in_from_its_file(tmp_path: Path) -> None:
    """A path is as good as an executor; a bad file leaves the present one."""
    write_bundle(tmp_path / "one.akd", constant(1))
    agent = Agent(constant(0))
    agent.swap(tmp_path / "one.akd")
    assert agent.act(see(0)) == 1
    (tmp_path / "bad.akd").write_bytes(b"PK")
    for name in ("bad.akd", "none.akd"):
        with pytest.raises(BundleError):
            agent.swap(str(tmp_path / name))
    assert agent.act(see(0)) == 1
    assert agent.metrics()["swaps_refused_total"] == {"file": 2}


def test_names_units_and_periods_have_to_be_the_same_as_far_as_files_tell(tmp_path: Path) -> None:
    """The same numbers in another order, in other units or at another rate are another robot's."""
    names, units = ("x", "v", "lean"), ("m", "m/s", "rad")
    told = Contract(obs_names=names, obs_units=units, period=0.02)
    others = {
        "order": replace(told, obs_names=("v", "x", "lean")),
        "unit": replace(told, obs_units=("m", "m/s", "deg")),
        "period": replace(told, period=0.05),
        "untold": Contract(),
        "same": replace(told, period=0.0201),
    }
    write_bundle(tmp_path / "first.akd", constant(0), contract=told)
    for name, contract in others.items():
        write_bundle(tmp_path / f"{name}.akd", constant(1), contract=contract)
    agent = Agent(tmp_path / "first.akd")
    for name, words in (("order", "its obs_names"), ("unit", "its obs_units"), ("period", "20 Hz")):
        with pytest.raises(SpecError, match=f"does not fit: .*{words}"):
            agent.swap(tmp_path / f"{name}.akd")
    assert agent.act(see(0)) == 0
    for name in ("untold", "same"):
        agent.swap(tmp_path / f"{name}.akd")
    assert agent.act(see(0)) == 1


@pytest.mark.parametrize("other", [None, 3, b"executor.akd", {}])
def test_what_is_no_executor_is_refused(other: Any) -> None:
    """Neither an agent nor a swap takes it, and the error says what it was."""
    agent = Agent(constant(1))
    for take in (agent.swap, Agent):
        with pytest.raises(ConfigError, match="is not an executor"):
            take(other)
    assert agent.act(see(0)) == 1


def test_a_planner_that_rolls_forward_takes_its_own_architecture_only() -> None:
    """The planner's process holds a copy of the executor: another form is refused."""
    model = RollForward(f"{HERE}:next_ticks")
    with Agent(
        constant(0),
        planner=Process(f"{HERE}:Echo", nice=0),
        strategies=StrategyOptions(roll_forward=model),
    ) as agent:
        with pytest.raises(SpecError, match="rolls linear forward"):
            agent.swap(initial("mlp:5", SPEC))
        assert agent.executor.architecture == "linear"
        agent.swap(constant(1))
        assert agent.executor.act(see(0)) == 1


def test_a_rollback_restores_the_executor_before_the_last_swap() -> None:
    """Several rollbacks go back one after another; without a swap there is none."""
    agent = Agent(constant(0))
    with pytest.raises(ConfigError, match="no executor to return to"):
        agent.rollback()
    agent.swap(constant(1))
    agent.swap(constant(2))
    assert [agent.rollback().act(see(0)), agent.act(see(0))] == [1, 1]
    assert [agent.rollback().act(see(0)), agent.act(see(0))] == [0, 0]
    assert agent.metrics()["rollbacks_total"] == {"asked": 2}


def lived(agent: Agent, score: Callable[[int], float], ticks: int, seed: int = 0) -> list[int]:
    """Act, and score each action by a rule, with a little noise."""
    noise = np.random.default_rng(seed)
    acted = []
    for _ in range(ticks):
        action = agent.act(see(3))
        agent.score(score(action) + 0.1 * noise.standard_normal())
        agent.supervise()
        acted.append(action)
    return acted


def start(agent: Agent) -> Agent:
    """Start without the thread that supervises: the test does it tick by tick."""
    agent.start(supervisor=False)
    return agent


def test_scores_that_fall_after_a_swap_bring_the_former_executor_back() -> None:
    """The choice 1 is worth nothing: after a window the executor of before acts."""
    agent = start(Agent(constant(0), rollback=Rollback(window=20)))
    worth: dict[int, float] = {0: 1.0, 1: 0.0, 2: 1.05}
    lived(agent, worth.__getitem__, 30)
    agent.swap(constant(1))
    assert lived(agent, worth.__getitem__, 21) == [1] * 20 + [0]
    assert agent.metrics()["rollbacks_total"] == {"score": 1}
    agent.swap(constant(2))
    assert lived(agent, worth.__getitem__, 60) == [2] * 60
    agent.close()


def test_swaps_within_a_window_are_judged_together() -> None:
    """A rollback goes back to the executor before the first swap that is not proven."""
    agent = start(Agent(constant(0), rollback=Rollback(window=20)))
    worth: dict[int, float] = {0: 1.0, 1: 0.0, 2: 0.0}
    lived(agent, worth.__getitem__, 30)
    agent.swap(constant(1))
    lived(agent, worth.__getitem__, 10)
    agent.swap(constant(2))
    assert lived(agent, worth.__getitem__, 11)[-1] == 0
    assert agent.metrics()["rollbacks_total"] == {"score": 1}
    with pytest.raises(ConfigError):
        agent.rollback()
    agent.close()


def test_negative_scores_count_by_their_spread() -> None:
    """Costs work as rewards do: the rule knows differences and no zero."""
    agent = start(Agent(constant(0), rollback=Rollback(window=20)))
    worth: dict[int, float] = {0: -100.0, 1: -101.0}
    lived(agent, worth.__getitem__, 30)
    agent.swap(constant(1))
    assert lived(agent, worth.__getitem__, 21)[-1] == 0
    agent.close()


def test_a_score_is_a_number() -> None:
    """NaN and infinity are refused where they are given; without a rule none counts."""
    agent = start(Agent(constant(0), rollback=Rollback()))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NumbersError, match="score"):
            agent.score(bad)
    wrong: list[Any] = [None, "much", 10**400, [1.0, 2.0], 1j]
    for each in wrong:
        with pytest.raises(ConfigError, match="give one number"):
            agent.score(each)
    agent.close()
    paid: Any = np.array([1.0], np.float32)  # as a vector of one environment pays
    one: Any = np.float32(1.0)
    for each in (1.0, 1, one, paid):
        Agent(constant(0)).score(each)


@pytest.mark.parametrize("options", [{"window": 1}, {"drop": 0.0}, {"drop": float("nan")}])
def test_a_rule_for_rollbacks_is_checked(options: Mapping[str, Any]) -> None:
    """A window of one score and a drop of nothing are refused."""
    with pytest.raises(ConfigError):
        Rollback(**options)


class Heeding(Towards):
    """A distiller that is told which executor acts, and refuses every other snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Floats | None] = []
        self.count = 0

    def follow(self, weights: Floats | None) -> None:
        self.heard.append(weights)

    def snapshot(self) -> Any:
        self.count += 1
        return super().snapshot() if self.count % 2 == 0 else None

    def refused(self) -> Mapping[str, int]:
        return {"odd": (self.count + 1) // 2}


def test_a_gated_distiller_hears_of_swaps_and_may_refuse_its_own_weights() -> None:
    """It is told of the first executor and of those that others swap in; it counts."""
    distiller = Heeding()
    port = InlineDistiller(distiller, swap_every=1)
    with Agent(constant(2), planner=Echo(), planner_latency=0, distiller=port) as agent:
        acted = [agent.act(see(3)) for _ in range(4)]
        agent.swap(constant(1))
        agent.swap(initial("mlp:5", SPEC))
        agent.act(see(3))
        assert agent.executor.architecture == "mlp:5"
        metrics = agent.metrics()
    assert acted == [3] * 4
    assert metrics["swaps_refused_total"]["odd"] >= 2
    first, second = distiller.heard
    assert first is not None
    assert np.array_equal(first, constant(2).vector())
    assert second is None


def gated(record: str = "") -> Towards:
    """Make one in a distiller's process that leaves what it heard in a file."""

    class Writing(Heeding):
        def follow(self, weights: Floats | None) -> None:
            super().follow(weights)
            if record:
                with Path(record).open("a") as file:
                    choice = -1 if weights is None else int(weights[-4:].argmax())
                    file.write(f"{choice}\n")

    return Writing()


def test_a_distiller_process_hears_of_swaps_and_its_old_weights_are_dropped(tmp_path: Path) -> None:
    """What was learnt before a swap by hand is never swapped in after it."""
    record = tmp_path / "heard"
    distiller = ProcessDistiller(
        Process("tests.test_runtime_swaps:gated", {"record": str(record)}, nice=0),
        publish_seconds=0.01,
        patience=Patience(start=ENOUGH),
    )
    planner = Process(f"{HERE}:Echo", nice=0)
    with Agent(constant(0), planner=planner, distiller=distiller) as agent:

        def acting(done: Callable[[], bool]) -> Callable[[], bool]:
            return lambda: agent.act(see(3)) in range(4) and done()

        wait_for(acting(lambda: agent.executor.version >= 2))
        agent.swap(initial("mlp:5", SPEC))
        wait_for(acting(lambda: "-1" in record.read_text()))
        assert agent.executor.architecture == "mlp:5"
        agent.swap(constant(1))
        wait_for(acting(lambda: agent.executor.version >= 3))
        assert agent.metrics()["swaps_refused_total"]["odd"] > 0
    heard = record.read_text().split()
    assert heard[:2] == ["0", "-1"]
    assert "1" in heard


def test_versions_never_come_twice() -> None:
    """After a rollback the distiller's next executor has a number of its own."""
    port = InlineDistiller(Towards(), swap_every=1)
    with Agent(constant(2), planner=Echo(), planner_latency=0, distiller=port) as agent:
        for _ in range(4):
            agent.act(see(3))
        newest = agent.executor.version
        agent.rollback()
        assert agent.executor.version < newest
        for _ in range(3):
            agent.act(see(3))
        assert agent.executor.version > newest
