"""The collector: who drives, and what is labelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.distillation import CollectionOptions
from agentkd.distillation.collector import Collector
from agentkd.environment_checks import Checked
from agentkd.errors import EpisodeError
from agentkd.spec import env_spec
from agentkd.types import ActionDist, Categorical, Floats


class Counting(gym.Env[Any, Any]):
    """Counts its ticks; an episode has five; it may raise at some tick."""

    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: int = -1) -> None:
        """Remember when to raise."""
        self.at, self.fault, self.actions = 0, fault, []  # type: ignore[var-annotated]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin at 0."""
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        """Count on; the action is the reward."""
        self.at += 1
        if self.at == self.fault:
            raise RuntimeError("wheel came off")
        self.actions.append(int(action))
        return np.full(1, self.at, np.float32), float(action), self.at == 5, False, {}


def say(choice: int) -> Any:
    """Make a policy that always makes one choice."""

    def policy(obs: Floats, /) -> ActionDist:
        logits = np.full((len(obs), 2), -50.0, np.float32)
        logits[:, choice] = 50.0
        return Categorical(logits)

    return policy


@pytest.fixture
def counting() -> Iterator[tuple[Collector, list[Counting]]]:
    """A collector of eight counting environments whose planner always says 0."""
    made: list[Counting] = []

    def make() -> Counting:
        made.append(Counting())
        return made[-1]

    collector = Collector(make, say(0), env_spec(Counting()), count=8, stretch=2)
    yield collector, made
    collector.close()


def test_every_visited_state_is_labelled_by_the_planner(
    counting: tuple[Collector, list[Counting]],
) -> None:
    """Labels are the planner's, whoever drives, and no state is left out."""
    collector, _ = counting
    seen = [collector.step(say(1), share=0.5) for _ in range(20)]
    visited = np.concatenate([step.obs[:, 0] for step in seen])
    assert all(
        isinstance(s.dist, Categorical) and (s.dist.logits.argmax(1) == 0).all() for s in seen
    )
    assert np.bincount(visited.astype(int)).tolist() == [32] * 5


def test_drivers_share_by_their_shares(counting: tuple[Collector, list[Counting]]) -> None:
    """With share 1 the planner drives alone, with 0 the executor."""
    collector, made = counting
    for _ in range(10):
        collector.step(say(1), share=1.0)
    assert not any(any(env.actions) for env in made)
    for env in made:
        env.actions.clear()
    for _ in range(40):
        collector.step(say(1), share=0.0)
    assert np.mean([np.mean(env.actions) for env in made]) == 1.0


def test_only_the_executors_own_episodes_count_as_its_returns(
    counting: tuple[Collector, list[Counting]],
) -> None:
    """An episode that it drove from start to end returns 5, and no other is counted."""
    collector, _ = counting
    for _ in range(100):
        collector.step(say(1), share=0.3)
    assert len(collector.recent) == 20
    assert set(collector.recent) == {5.0}


def test_an_answer_that_is_no_number_does_not_drive() -> None:
    """Where the planner says NaN the executor acts, and the label is for the count."""
    made: list[Counting] = []

    def make() -> Counting:
        made.append(Counting())
        return made[-1]

    def faulty(obs: Floats, /) -> ActionDist:
        return Categorical(np.full((len(obs), 2), np.nan, np.float32))

    collector = Collector(make, faulty, env_spec(Counting()), count=2)
    for _ in range(5):
        collector.step(say(1), share=1.0)
    assert all(env.actions == [1] * 5 for env in made)


def test_an_environment_that_goes_blind_begins_anew() -> None:
    """An observation of NaN is not labelled; the episode ends there."""

    class Blind(Counting):
        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            return (obs * np.nan if self.at == 3 else obs), *rest

    collector = Collector(Blind, say(0), env_spec(Counting()), count=2)
    seen = [collector.step(say(0), share=1.0).obs for _ in range(9)]
    assert np.isfinite(seen).all()
    assert collector.blind == 4


def test_the_planners_share_falls_and_stops() -> None:
    """It halves every so many labels down to its floor."""
    options = CollectionOptions(halving=100, least_share=0.2)
    assert [options.share(n) for n in (0, 100, 200, 10_000)] == [1.0, 0.5, 0.25, 0.2]
    alone = CollectionOptions(halving=1, least_share=0.0)
    assert [alone.share(n) for n in (0, 10_000)] == [1.0, 0.0]


def test_what_an_episode_paid_and_how_it_ended_is_told() -> None:
    """Rewards belong to the state they were paid in; a fifth tick ends an episode."""
    collector = Collector(Counting, say(1), env_spec(Counting()), count=2)
    seen = [collector.step(say(1), share=1.0) for _ in range(6)]
    assert [step.begins.tolist() for step in seen] == [[at % 5 == 0] * 2 for at in range(6)]
    assert [int(step.ended[0]) for step in seen] == [0, 0, 0, 0, 1, 0]
    assert all((step.reward == 1.0).all() for step in seen)


def test_an_environment_that_raises_is_told_apart() -> None:
    """The fault names the environment and its own error."""
    collector = Collector(
        lambda: Checked(Counting(fault=3), "cart"), say(0), env_spec(Counting()), count=2
    )
    for _ in range(2):
        collector.step(say(0), share=1.0)
    with pytest.raises(EpisodeError, match=r"cart: step raised.*wheel came off"):
        collector.step(say(0), share=1.0)
