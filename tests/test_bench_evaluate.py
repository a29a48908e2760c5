"""Evaluation: seeds, rows that step together, memory, faults."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import pytest

from agentkd import environments
from agentkd.errors import (
    ConfigError,
    EpisodeError,
    NumbersError,
    PlannerError,
    RefError,
    SpecError,
)
from agentkd.executors.architecture import initial
from agentkd.measure.agreement import Sample, agreement_with
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.spec import env_spec
from agentkd.types import Categorical, Floats, Point, State

WALK = "tests.bench_envs:Walk"


def always(choice: int) -> Any:
    def policy(obs: Floats) -> Categorical:
        return Categorical(np.eye(3, dtype=np.float32)[[choice] * len(obs)])

    return policy


@final
class Counts:
    """Remembers how often it was asked, and acts 2 from the third time on."""

    def initial_state(self, batch: int) -> State:
        return (np.zeros((batch, 1), np.float32),)

    def __call__(self, obs: Floats, state: State) -> tuple[Categorical, State]:
        (asked,) = state
        assert len(asked) == len(obs)
        chosen = np.where(asked[:, 0] >= 2, 2, 0)
        return Categorical(np.eye(3, dtype=np.float32)[chosen]), (asked + 1,)


@pytest.mark.parametrize("copies", [1, 3, 8])
def test_episode_i_is_reset_with_seed_plus_i(copies: int) -> None:
    """Whatever steps together, returns stand in the order of the seeds."""
    got = evaluate(WALK, always(2), episodes=8, seed=10, copies=copies)
    lengths = tuple(3 + seed % 4 for seed in range(10, 18))
    assert got.lengths == lengths
    assert got.returns == tuple(2.0 * length for length in lengths)
    assert got.cut == 0


@pytest.mark.parametrize("copies", [1, 3, 8])
def test_a_memory_is_reset_row_by_row(copies: int) -> None:
    """Each episode begins with a fresh memory, also beside rows amid theirs."""
    got = evaluate(WALK, Counts(), episodes=8, seed=10, copies=copies)
    assert got.returns == tuple(2.0 * (1 + seed % 4) for seed in range(10, 18))


def test_a_memory_that_cannot_be_written_is_copied() -> None:
    """A policy may hand out states that are read-only."""

    @final
    class Frugal:
        def initial_state(self, batch: int) -> State:
            return (np.broadcast_to(np.float32(0), (batch, 1)),)

        def __call__(self, obs: Floats, state: State) -> tuple[Categorical, State]:
            return Counts()(obs, state)

    assert evaluate(WALK, Frugal(), episodes=3, seed=10, copies=2).returns == (
        evaluate(WALK, Counts(), episodes=3, seed=10).returns
    )


def test_the_same_arguments_give_the_same_returns() -> None:
    """An evaluation repeats itself exactly, chance's own too."""
    spec = env_spec(environments.make("Pendulum-v1"))
    policy = initial("mlp:16", spec, seed=3)
    first, second = (evaluate("Pendulum-v1", policy, episodes=3, seed=5) for _ in range(2))
    assert first == second
    assert len(set(first.returns)) == 3
    chance = [evaluate_random("Pendulum-v1", episodes=3, seed=5) for _ in range(2)]
    assert chance[0] == chance[1]
    assert chance[0] != evaluate_random("Pendulum-v1", episodes=3, seed=6)


def test_chance_depends_on_the_seed_and_not_on_the_neighbours() -> None:
    """Random play of a seed is the same alone and among others."""
    together = evaluate_random(WALK, episodes=4, seed=20)
    alone = evaluate_random(WALK, episodes=1, seed=22)
    assert together.returns[2] == alone.returns[0]


def test_it_agrees_with_a_plain_loop() -> None:
    """One environment, stepped by hand, gives the same return."""
    env = environments.make("CartPole-v1")
    policy = initial("mlp:8", env_spec(env), seed=1)
    obs, _ = env.reset(seed=42)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
        total += float(reward)
        over = terminated or truncated
    assert evaluate("CartPole-v1", policy, episodes=1, seed=42).returns == (total,)


def test_actions_have_the_shape_and_dtype_of_the_space() -> None:
    """A box of doubles gets doubles in its shape; dictionaries are laid out flat."""
    seen: list[tuple[int, ...]] = []

    def policy(obs: Floats) -> Point:
        seen.append(obs.shape)
        return Point(np.full((len(obs), 2), 9.0, np.float32))

    got = evaluate("tests.bench_envs:Arm", policy, episodes=2, seed=0)
    assert seen[0] == (2, 7)
    assert got.returns == (4.0 * 3, 4.0 * 4)


def test_progress_tells_each_episode() -> None:
    """The watch hears every end, in order, with the mean so far."""
    heard: list[tuple[int, int, float]] = []

    def watch(done: int, total: int, mean: float) -> None:
        heard.append((done, total, mean))

    got = evaluate(WALK, always(1), episodes=5, seed=0, copies=2, progress=watch)
    assert [each[:2] for each in heard] == [(n, 5) for n in range(1, 6)]
    assert heard[-1][2] == pytest.approx(np.mean(got.returns))


def test_an_episode_without_end_is_cut_and_counted() -> None:
    """An environment that never ends gives returns all the same."""
    got = evaluate("tests.bench_envs:Endless", always(1), episodes=3, seed=0, max_steps=50)
    assert (got.lengths, got.cut) == ((50, 50, 50), 3)


def test_an_environment_that_raises_is_told_with_its_place() -> None:
    """Seed and step are in the message, and so is what it said."""
    with pytest.raises(EpisodeError, match="the gearbox is gone") as caught:
        evaluate("tests.bench_envs:Breaks", always(1), episodes=5, seed=10)
    assert "step 2 of an episode (seed 12)" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_whose_nan_it_is() -> None:
    """An observation of NaN is the environment's fault, an answer the policy's."""
    blind = "tests.bench_envs:Blind"

    def follows(obs: Floats) -> Categorical:
        return Categorical(np.repeat(obs[:, :1], 3, axis=1))

    with pytest.raises(EpisodeError, match=r"observation.*step 1 of.*\(seed 11\)"):
        evaluate(blind, follows, episodes=3, seed=10)

    def broken(obs: Floats) -> Categorical:
        logits = np.zeros((len(obs), 3), np.float32)
        logits[obs[:, 0] == 11] = np.nan
        return Categorical(logits)

    with pytest.raises(NumbersError, match=r"policy.*step 0 of.*\(seed 11\)"):
        evaluate(WALK, broken, episodes=3, seed=10)


def test_a_reward_of_nan_is_refused() -> None:
    """A return is never NaN in silence."""
    with pytest.raises(EpisodeError, match="reward is nan"):
        evaluate("tests.bench_envs:Priceless", always(0), episodes=1, seed=0)


def test_a_policy_that_raises_is_told_with_its_place() -> None:
    """What a policy raises comes as a PlannerError that says where."""

    def broken(_: Floats) -> Categorical:
        raise RuntimeError("out of memory")

    with pytest.raises(PlannerError, match=r"RuntimeError.*step 0.*out of memory"):
        evaluate(WALK, broken, episodes=1, seed=0)


def test_a_policy_for_other_actions_is_refused() -> None:
    """A point where there are choices is no action."""
    with pytest.raises(SpecError, match="another environment"):
        evaluate(WALK, lambda obs: Point(np.zeros((len(obs), 1), "f4")), episodes=1, seed=0)


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"seed": -1}, {"max_steps": 0}, {"copies": 0}])
def test_numbers_that_cannot_be_meant_are_refused(wrong: dict[str, int]) -> None:
    """Each is named with its value."""
    ((name, value),) = wrong.items()
    options: dict[str, Any] = {"episodes": 1, "seed": 0, **wrong}
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        evaluate(WALK, always(0), **options)


def test_an_unknown_environment_is_a_reference_error() -> None:
    """The name that was meant is suggested."""
    with pytest.raises(RefError, match="CartPole-v1"):
        evaluate("CartPol-v1", always(0), episodes=1, seed=0)


def test_a_sample_is_bounded_and_even() -> None:
    """Each state is as likely to be kept, early or late."""
    sample = Sample(most=500, seed=1)
    for step in range(100):
        obs = np.full((50, 1), step, np.float32)
        sample(obs, np.arange(50))
    assert (sample.seen, sample.size, sample.obs.shape) == (5000, 500, (500, 1))
    assert abs(sample.obs.mean() - 49.5) < 5.0
    assert sample.actions.shape == (500,)


def test_agreement_is_measured_where_the_reference_went() -> None:
    """On those states a policy agrees with itself, and with another in part."""
    spec = env_spec(environments.make(WALK))

    def by_parity(obs: Floats) -> Categorical:
        return Categorical(np.eye(3, dtype=np.float32)[(obs[:, 1] % 2).astype(int)])

    sample = Sample()
    evaluate(WALK, by_parity, episodes=4, seed=0, visited=sample)
    assert sample.size == 3 + 4 + 5 + 6
    assert agreement_with(sample, by_parity, spec) == 1.0
    even = (sample.obs[:, 1] % 2 == 0).mean()
    assert agreement_with(sample, always(0), spec) == pytest.approx(even)
    few = Sample(most=5)
    evaluate(WALK, by_parity, episodes=4, seed=0, visited=few)
    assert agreement_with(few, by_parity, spec) == 1.0
    assert np.isnan(agreement_with(sample, Counts(), spec))
    assert np.isnan(agreement_with(Sample(), always(0), spec))
