"""Practice in a planner's model, and the search that it guides."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.distillation.ppo import Ppo, PpoOptions, Running, live_from
from agentkd.distillation.practice import PracticeOptions, Practised, explained_by, practise, save
from agentkd.distillation.task import Task, open_task
from agentkd.errors import BundleError, ConfigError, LoadError, PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.planners import load_planner
from agentkd.planners.search.guide import VALUE_BOX, Guide, read_guide
from agentkd.planners.search.mpc import MpcOptions, SamplingControl
from agentkd.planners.search.worlds import Doubles
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point
from policies import mpc
from tests.cli_reports import report, undocumented

SMALL = PpoOptions(environments=64, ticks=8, batch=512, epochs=1)
BOX = BoxSpec((-1.0,), (1.0,), (1,))
QUICK = PpoOptions(
    environments=32,
    ticks=8,
    batch=128,
    discount=0.1,
    trace=0.1,
    learning_rate=1e-2,
    value_rate=1e-2,
    spread=0.5,
)
"""For a world in which only the next reward counts."""


def spec_of(obs: int) -> Spec:
    """A world of so many numbers, with one action between −1 and 1."""
    return Spec(ObsSpec((Part("", "box", (obs,), "float32"),)), BOX)


class Follow:
    """Pays for doing what is observed, and draws nothing; its state is (place, ticks lived).

    It ends after `ends` ticks, or never.
    """

    low = np.array([-1.0])
    high = np.array([1.0])

    def __init__(self, ends: float = math.inf) -> None:
        self.ends = ends

    def restore(self, obs: Floats, /) -> Doubles:
        return np.array([obs[0], 0.0], float)

    def observe(self, states: Doubles, /) -> Floats:
        return states[..., :1].astype(np.float32)

    def step(self, states: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles, Any]:
        rewards = 1 - np.square(actions[:, 0] - states[:, 0])
        # A place that follows from the one before, and looks drawn.
        after = np.stack([np.sin(7 * states[:, 0] + 1), states[:, 1] + 1], axis=1)
        return rewards, after, after[:, 1] >= self.ends

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        raise AssertionError("A guided search lives tick by tick.")

    def features(self, states: Doubles, /) -> Doubles:
        return states[..., :1]


def value_of(number: float, obs: int = 1) -> Executor:
    """A value that expects the same everywhere."""
    fresh = initial("linear", replace(spec_of(obs), action=VALUE_BOX))
    numbers = fresh.vector()
    numbers[2 * obs :] = 0.0
    numbers[-1] = number
    return fresh.with_vector(numbers, 0)


def begun(world: Any, options: PpoOptions = QUICK, length: int = 20) -> Ppo:
    """Someone who learns in a world of one number."""
    starts = np.stack([np.linspace(-1, 1, 32), np.zeros(32)], axis=1)
    own = initial("mlp:16", spec_of(1), seed=1)
    value = initial("mlp:16", replace(spec_of(1), action=VALUE_BOX), seed=2)
    return Ppo(world, own, value, starts, length, options, 3)


def test_running_moments_are_those_of_all_rows() -> None:
    """In whatever batches they come."""
    rows = np.random.default_rng(0).normal(3.0, 2.0, (300, 2))
    running = Running(2)
    for some in np.split(rows, [7, 120, 121]):
        running.add(some)
    np.testing.assert_allclose(running.mean, rows.mean(0))
    np.testing.assert_allclose(running.std, rows.std(0))


def test_an_executor_learns_what_pays() -> None:
    """It comes to do what it observes, and the value to expect what follows."""
    taught = begun(Follow())
    for each in range(25):
        taught.learn(each / 25)
    places = np.linspace(-0.9, 0.9, 7, dtype=np.float32)[:, None]
    spec = spec_of(1)
    np.testing.assert_allclose(dists.mode(taught.executor()(places), spec.action), places, atol=0.2)
    assert taught.ticks == 25 * 32 * 8
    # One a tick, less the square of what is tried.
    expected = taught.value().outputs(places).mean()
    assert 0.7 < expected < 1 / (1 - QUICK.discount)


def test_the_end_of_a_world_is_worth_nothing() -> None:
    """Where all is over after a tick, the value is that tick's reward, not of 1000 more."""
    taught = begun(Follow(ends=1), replace(QUICK, discount=0.999, trace=0.999))
    for each in range(10):
        taught.learn(each / 10)
    assert taught.value().outputs(np.zeros((1, 1), np.float32))[0, 0] < 1.5


def test_an_executor_that_was_trained_keeps_its_scale() -> None:
    """It does not move before the value knows it."""
    own = replace(initial("mlp:16", spec_of(1)), mean=np.array([0.5], np.float32))
    value = initial("mlp:16", replace(spec_of(1), action=VALUE_BOX))
    starts = np.zeros((4, 2))
    taught = Ppo(Follow(), own, value, starts, 20, SMALL, 0)
    taught.learn(0.0)
    np.testing.assert_array_equal(taught.executor().vector(), own.vector())
    np.testing.assert_array_equal(taught.value().mean, own.mean)


def test_a_model_that_breaks_is_named() -> None:
    """NaN in a reward ends practice with an error that says what to do."""

    class Broken(Follow):
        def step(self, states: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles, Any]:
            rewards, after, over = super().step(states, actions)
            return rewards * np.nan, after, over

    with pytest.raises(PlannerError, match="over="):
        begun(Broken()).learn(0.0)
    with pytest.raises(PlannerError, match="NaN"):
        live_from(Broken(), lambda obs: obs, np.zeros((2, 2)), 5)


def test_what_comes_after_an_end_does_not_count() -> None:
    """Rewards are NaN there, and returns are of what came before."""
    rewards, seen = live_from(Follow(ends=3), lambda obs: obs, np.zeros((2, 2)), 10)
    assert rewards.shape == (3, 2)
    assert seen.shape == (3, 2, 1)
    np.testing.assert_allclose(rewards, 1.0, atol=1e-6)


def test_a_value_explains_what_it_tells_apart() -> None:
    """A constant error does not count; a constant explains nothing."""
    seen = np.random.default_rng(0).uniform(-1, 1, (40, 3, 1)).astype(np.float32)
    rewards = seen[..., 0].astype(float)
    fresh = initial("linear", replace(spec_of(1), action=VALUE_BOX))
    line = fresh.with_vector(np.array([0, 1, 1, 5], np.float32), 0)
    assert explained_by(line, rewards, seen, 1e-9) == pytest.approx(1.0)
    assert explained_by(value_of(3.0), rewards, seen, 1e-9) == pytest.approx(0.0, abs=1e-6)


@pytest.fixture(scope="module")
def pendulum() -> Task:
    """A pendulum with a planner that has a model."""
    return open_task("Pendulum-v1", "policies.mpc:pendulum")


def few(**more: Any) -> PracticeOptions:
    """A practice that is soon over."""
    return PracticeOptions(**{"ticks": 14_000, "restarts": 2, "ppo": SMALL, **more})


def test_practice_repeats_itself_and_keeps_the_best(pendulum: Task) -> None:
    """The same ticks and seed give the same numbers; each best is better than the last."""
    kept: list[Practised] = []
    looks: list[Any] = []
    best = practise(pendulum, "mlp:8", few(), keep=kept.append, watch=looks.append)
    assert [each.returned for each in kept] == sorted(each.returned for each in kept)
    assert best.returned == kept[-1].returned
    assert best.ticks >= 14_000
    assert not best.interrupted
    assert {look.left for look in looks} == {2, 1}
    assert {look.restart for look in looks if look.left == 2} == {0, 1}
    assert all(a.done <= b.done for a, b in pairwise(looks))
    again = practise(pendulum, "mlp:8", few(threads=2))
    np.testing.assert_array_equal(again.executor.vector(), best.executor.vector())
    np.testing.assert_array_equal(again.value.vector(), best.value.vector())
    other = practise(pendulum, "mlp:8", few(seed=1))
    assert not np.array_equal(other.executor.vector(), best.executor.vector())


def test_practice_that_is_stopped_gives_the_best_so_far(pendulum: Task) -> None:
    """What was judged is not lost."""
    looks: list[Any] = []
    how = few(ticks=10_000_000, restarts=1)
    best = practise(pendulum, "mlp:8", how, watch=looks.append, stop=lambda: len(looks) >= 2)
    assert best.interrupted
    assert best.executor.version == 0


def test_practice_goes_on_from_an_executor(pendulum: Task) -> None:
    """Its scale stays."""
    own = replace(initial("mlp:8", pendulum.spec), mean=np.full(3, 0.1, np.float32))
    best = practise(pendulum, own, few(ticks=5_000, restarts=1))
    np.testing.assert_array_equal(best.executor.mean, own.mean)


@pytest.mark.parametrize(
    ("env", "planner", "executor", "error", "told"),
    [
        ("CartPole-v1", "tests.cli_planners:balance", "mlp:8", SpecError, "`rollouts`"),
        ("Pendulum-v1", "policies.mpc:pendulum", "gru:8", ConfigError, "memory"),
        ("Pendulum-v1", "tests.test_practice:halved", "mlp:8", SpecError, "no observe and no step"),
    ],
)
def test_what_cannot_be_practised_is_told(
    env: str, planner: str, executor: str, error: type[Exception], told: str
) -> None:
    """Planners without a model, models without steps, executors with a memory."""
    with pytest.raises(error, match=told):
        practise(open_task(env, planner), executor, few())


class Halved:
    """A pendulum without what practice needs."""

    low, high = mpc.Pendulum.low, mpc.Pendulum.high
    restore, roll, features = (
        getattr(mpc.Pendulum, name) for name in ("restore", "roll", "features")
    )


def halved(spec: Spec) -> Any:
    """A planner whose world has no steps."""
    del spec
    policy: Any = lambda obs: Point(np.zeros((len(obs), 1), np.float32))  # noqa: E731
    policy.rollouts = Halved()
    return policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 1.0, "ticks": 5},
        {},
        {"ticks": 0},
        {"seconds": math.inf},
        {"ticks": 1, "restarts": 0},
    ],
)
def test_options_of_practice_are_checked(wrong: dict[str, Any]) -> None:
    """One budget, numbers in range."""
    with pytest.raises(ConfigError):
        PracticeOptions(**wrong)


@pytest.mark.parametrize("name", ["discount", "learning_rate", "environments"])
def test_options_of_learning_are_checked(name: str) -> None:
    """Minus one is out of every range."""
    with pytest.raises(ConfigError, match=name):
        PpoOptions(**{name: -1})


# The guided search.

ONE = MpcOptions("cem", ticks=2, knots=2, samples=8, iterations=1, remembered=0, seed=1)


def follows(obs: Floats) -> Point:
    """Do what is observed: the best policy of `Follow`."""
    return Point(obs)


def control(value: Executor | None, world: Any = None, **more: Any) -> SamplingControl:
    """A search that the best policy guides."""
    guide = Guide(follows, BOX, value, 0.9)
    return SamplingControl(world or Follow(), replace(ONE, **more), guide)


def test_the_guides_plan_is_taken_where_it_is_better() -> None:
    """The best policy's own plan cannot be improved: the answer is what it does."""
    here = np.array([[0.37]], np.float32)
    answer = control(None)(here)
    np.testing.assert_allclose(answer.mean, here, atol=1e-5)
    alone = SamplingControl(mpc.Pendulum(), ONE)
    assert alone(np.array([[1.0, 0.0, 0.0]], np.float32)).mean.shape == (1, 1)


def test_a_plan_ends_in_the_value() -> None:
    """Its return is what it is paid and 0.9² of what the value expects then; 0 after an end."""
    here = np.array([[0.37]], np.float32)
    (plan,) = control(value_of(10.0)).plans(here)
    assert plan.value == pytest.approx(1 + 0.9 + 0.81 * 10, rel=1e-5)
    (plan,) = control(value_of(10.0), Follow(ends=2)).plans(here)
    assert plan.value == pytest.approx(1 + 0.9, rel=1e-5)
    (plan,) = control(value_of(10.0), Follow(ends=1)).plans(here)
    assert plan.value == pytest.approx(1, rel=1e-5)
    (plan,) = control(None).plans(here)
    assert plan.value == pytest.approx(2, rel=1e-5)


def test_a_mean_answer_is_never_worse_than_the_guide() -> None:
    """It is the mean of those that count, or what the iteration began with."""
    here = np.array([[0.37]], np.float32)
    poor = Guide(lambda obs: Point(0 * obs), BOX)
    made = {
        answer: next(iter(SamplingControl(Follow(), replace(ONE, answer=answer), poor).plans(here)))
        for answer in ("best", "mean")
    }
    start = 2 - 0.37**2 - math.sin(7 * 0.37 + 1) ** 2
    assert start < made["mean"].value <= made["best"].value
    with pytest.raises(ConfigError, match="'worst'"):
        MpcOptions(answer="worst")  # type: ignore[arg-type]


def test_worlds_observe_what_they_restore() -> None:
    """A step is a roll of one tick, and what is observed comes back."""
    for make, size in (
        (mpc.half_cheetah_world, 17),
        (mpc.swimmer_world, 8),
        (mpc.inverted_pendulum_world, 4),
    ):
        world = make().with_threads(2)
        obs = 0.1 * np.random.default_rng(0).standard_normal((5, size)).astype(np.float32)
        states = np.stack([world.restore(each) for each in obs])
        np.testing.assert_allclose(world.observe(states), obs, atol=1e-6)
        actions = np.random.default_rng(1).uniform(-0.5, 0.5, (5, len(world.low)))
        rewards, after, over = world.step(states, actions)
        for index, state in enumerate(states):
            paid, through = world.roll(state, actions[index][None, None])
            assert paid[0, 0] == pytest.approx(rewards[index])
            np.testing.assert_array_equal(through[0, 0], after[index])
        assert over.shape == (5,)
    fallen = np.stack([world.restore(np.array([0, angle, 0, 0], np.float32)) for angle in (0, 0.5)])
    assert world.step(fallen, np.zeros((2, 1)))[2].tolist() == [False, True]


def written(folder: Path, spec: Spec, explained: float = 0.9) -> Practised:
    """Write what a practice would."""
    best = Practised(
        executor=initial("mlp:8", spec, seed=5),
        value=initial("mlp:8", replace(spec, action=VALUE_BOX)),
        returned=1.0,
        explained=explained,
        discount=0.9,
        ticks=10,
        seconds=1.0,
    )
    save(folder, best, {"env": "Pendulum-v1"})
    return best


def test_a_practice_guides_a_planner(tmp_path: Path, pendulum: Task) -> None:
    """By its folder; another executor proposes if one is named; a poor value is left out."""
    spec = pendulum.spec
    best = written(tmp_path, spec)
    guide = read_guide(tmp_path, spec)
    assert guide.value is not None
    assert guide.discount == 0.9
    obs = np.array([[1.0, 0.0, 0.0]], np.float32)
    ref = "policies.mpc:guided"
    known = load_planner(ref, spec, args={"practised": str(tmp_path), "samples": 4})
    policy: Any = known.policy
    assert policy.horizon == 5
    assert policy.options.samples == 4
    assert policy(obs).mean.shape == (5, 1)
    write_bundle(tmp_path / "other.akd", initial("linear", spec))
    other = read_guide(tmp_path, spec, tmp_path / "other.akd")
    assert not np.array_equal(dists.mode(other.policy(obs), spec.action), best.executor(obs).action)  # type: ignore[union-attr]
    written(tmp_path, spec, explained=0.01)
    assert read_guide(tmp_path, spec).value is None
    unguided: Any = load_planner(ref, spec, args={"practised": str(tmp_path)}).policy
    assert unguided.options.ticks == 30


def test_files_that_do_not_guide_are_refused(tmp_path: Path, pendulum: Task) -> None:
    """A missing file, another environment's, a value without its facts, one that is nonsense."""
    spec = pendulum.spec
    with pytest.raises(BundleError):
        read_guide(tmp_path, spec)
    best = written(tmp_path, spec)
    with pytest.raises(SpecError, match=r"executor\.akd"):
        read_guide(tmp_path, spec_of(3))
    write_bundle(tmp_path / "value.akd", best.executor)
    with pytest.raises(SpecError, match=r"value\.akd"):
        read_guide(tmp_path, spec)
    for facts in ({}, {"value": {"discount": 0.9}}, {"value": {"discount": 2, "explained": 1}}):
        write_bundle(tmp_path / "value.akd", best.value, facts)
        with pytest.raises(LoadError):
            read_guide(tmp_path, spec)


@pytest.mark.parametrize(
    ("ref", "args", "told"),
    [
        ("policies.mpc:guided", None, "practised"),
        ("policies.mpc:pendulum", {"practised": "x"}, "practised"),
        ("tests.cli_planners:balance", {"practised": "x"}, "spec"),
    ],
)
def test_arguments_of_a_function_are_checked(
    ref: str, args: Any, told: str, pendulum: Task
) -> None:
    """One that is missing, one too many, one for what is no function of the spec."""
    with pytest.raises(ConfigError, match=told):
        load_planner(ref, pendulum.spec, args=args)


def test_the_command_leaves_files_that_guide(tmp_path: Path) -> None:
    """An executor, a value, and a report whose keys are documented."""
    out = tmp_path / "out"
    words = ["practise", "Pendulum-v1", "--planner", "policies.mpc:planner", "--out", str(out)]
    more = ["--ticks", "8000", "--restarts", "1", "--copies", "16", "--episodes", "1"]
    assert main([*words, *more, "--executor", "mlp:8"]) == 0
    data = report(out)
    assert undocumented(data) == []
    assert data["model_ticks"] >= 8000
    assert read_bundle(data["executor"]).executor.architecture == "mlp:8"
    assert read_bundle(data["value"]).executor.spec.action == VALUE_BOX
    assert main([*words, *more, "--seconds", "1"]) == 2


def test_an_executor_that_sees_a_part_is_refused(pendulum: Task) -> None:
    """Practice trains executors that see all."""
    part = initial("mlp:8", pendulum.spec, sees="0:2")
    with pytest.raises(ConfigError, match="sees a part"):
        practise(pendulum, part, few())
