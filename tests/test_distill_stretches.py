"""Labels of several ticks at a time: who drives, what is labelled, and what goes wrong."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import initial
from agentkd.distillation.collector import Collector
from agentkd.distillation.sequences import CUT
from agentkd.distillation.sources import LocalSource, Several, longest
from agentkd.distillation.stretch import Collected
from agentkd.environment_checks import Checked
from agentkd.errors import EpisodeError, PlannerError, SpecError
from agentkd.executors.native import compile_native
from agentkd.spec import env_spec
from agentkd.types import ActionDist, Categorical, Floats, Labels


class Counting(gym.Env[Any, Any]):
    """Observes its own number and how many ticks its episode is old; an episode has seven."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    made = 0

    def __init__(self, fault: str = "") -> None:
        self.fault, self.number, self.at = fault, Counting.made, 0
        Counting.made += 1

    def _seen(self) -> Any:
        return np.array([self.number, self.at], np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        obs, reward, ended = self._seen(), float(action), self.at == 7
        if self.at == 3:
            match self.fault:
                case "raises":
                    raise RuntimeError("wheel came off")
                case "shape":
                    obs = obs[:1]
                case "reward":
                    reward = float("nan")
                case "old":
                    return obs, reward, ended, {}
                case "flag":
                    return obs, reward, "no", False, {}
                case "blind":
                    obs = obs * np.nan
        return obs, reward, ended, False, {}


def zero(obs: Floats, /) -> Categorical:
    """Choose 0."""
    return Categorical(np.tile(np.array([50.0, -50.0], np.float32), (len(obs), 1)))


def one(obs: Floats, /) -> ActionDist:
    """Choose 1."""
    return Categorical(zero(obs).logits[:, ::-1].copy())


def always_one() -> Any:
    """Make an executor that chooses 1, compiled where there is a compiler."""
    executor = initial("linear", env_spec(Counting()), seed=0)
    vector = np.zeros_like(executor.vector())
    vector[-2:] = [-5.0, 5.0]
    executor = executor.with_vector(vector, 1)
    assert executor.act(np.zeros(2, np.float32)) == 1
    return compile_native(executor) or executor


def collector(planner: Any = zero, fault: str = "", **more: Any) -> Collector:
    spec, Counting.made = env_spec(Counting()), 0
    options = {"count": 4, "stretch": 8.0, **more}
    return Collector(lambda: Checked(Counting(fault), "Counting"), planner, spec, **options)


DRIVERS = [pytest.param(lambda: one, id="function"), pytest.param(always_one, id="compiled")]


def followed(seen: list[Collected]) -> None:
    """Check that each label's link leads to the tick before it in the same environment."""
    obs = np.concatenate([each.obs for each in seen])
    link = np.concatenate([each.link for each in seen])
    begins = np.concatenate([each.begins for each in seen])
    env = np.concatenate([each.env for each in seen])
    assert (env == obs[:, 0]).all()
    assert ((link == 0) == begins).all()
    assert (obs[begins, 1] == 0).all()
    later = np.flatnonzero(link > 0)
    before = obs[later - link[later]]
    assert (before[:, 0] == obs[later, 0]).all()
    assert (before[:, 1] + 1 == obs[later, 1]).all()
    assert not (link == CUT).any()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("ticks", [1, 5, 8])
def test_every_state_is_labelled_and_linked(driver: Any, ticks: int) -> None:
    """However many ticks are collected at a time, and whoever drives."""
    made, executor = collector(), driver()
    seen = [made.step(executor, 0.5, ticks) for _ in range(40)]
    assert all(len(each.obs) == 4 * ticks for each in seen)
    assert all((each.labels.dist.logits.argmax(1) == 0).all() for each in seen)  # type: ignore[union-attr]
    followed(seen)
    ended = np.concatenate([each.ended for each in seen])
    assert (ended == (np.concatenate([each.obs for each in seen])[:, 1] == 6)).all()


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_planner_is_asked_at_once_about_what_the_executor_drove_through(driver: Any) -> None:
    """One answer labels all ticks of all environments."""
    asked: list[int] = []

    def planner(obs: Floats, /) -> ActionDist:
        asked.append(len(obs))
        return zero(obs)

    made = collector(planner)
    made.step(driver(), 0.0, 8)
    assert asked == [32]


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_planner_has_its_share_of_the_stretches(driver: Any) -> None:
    """A quarter of the ticks is the planner's; rewards tell who acted."""
    made, executor = collector(stretch=8.0), driver()
    made.step(executor, 1.0, 8)
    rewards = np.concatenate([made.step(executor, 0.25, 8).reward for _ in range(400)])
    # Some episodes are the executor's alone: the planner has less than a quarter of all.
    assert 0.05 < 1 - rewards.mean() < 0.25
    assert set(made.recent) == {7.0}


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_environment_has_a_driver_of_its_own(driver: Any) -> None:
    """One driver for all would make few stretches: a short run would miss the planner's share."""
    made, executor = collector(count=16, stretch=50.0), driver()
    made.step(executor, 1.0, 8)
    mean = [made.step(executor, 0.75, 1).reward.mean() for _ in range(14)]
    # What the executor leads pays 1; of all at once it would pay 0 or 1.
    assert 0.1 < np.mean(mean) < 0.65
    assert sum(0 < each < 1 for each in mean) > 11


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_same_seed_gives_the_same_labels(driver: Any) -> None:
    """And another seed gives others."""

    def planner(obs: Floats, /) -> ActionDist:
        return Categorical(np.zeros((len(obs), 2), np.float32))

    runs = []
    for seed in (3, 3, 4):
        made, executor = collector(planner, seed=seed), driver()
        runs.append(np.concatenate([made.step(executor, 0.5, 6).reward for _ in range(30)]))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", r"Counting: step raised RuntimeError .*wheel came off.*at step 2"),
        ("shape", r"Counting: step returned an observation .*\(1,\) instead of \(2,\), at step 2"),
        ("reward", r"Counting: The reward is nan, at step 2"),
        ("old", r"Counting: step returned a tuple of 4, at step 2"),
        ("flag", r"Counting: step returned an object of type str as terminated, at step 2"),
    ],
)
def test_what_an_environment_does_wrong_is_named(driver: Any, fault: str, words: str) -> None:
    """Its name, the step and what it was, also where a compiled executor drives."""
    with pytest.raises(EpisodeError, match=words):
        collector(fault=fault).step(driver(), 0.0, 8)


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_environment_that_goes_blind_begins_anew(driver: Any) -> None:
    """An observation of NaN is not labelled, and what follows is an episode's first."""
    made, executor = collector(fault="blind"), driver()
    seen = [made.step(executor, 0.5, 8) for _ in range(6)]
    obs = np.concatenate([each.obs for each in seen])
    assert np.isfinite(obs).all()
    assert obs[:, 1].max() == 2
    assert made.blind == 4 * 15  # after each third tick of 48, the last not yet seen
    followed(seen)


def test_an_answer_of_another_length_is_refused() -> None:
    """One row for many observations is no answer to them."""

    def planner(obs: Floats, /) -> ActionDist:
        return zero(obs[: max(1, len(obs) - 1)])

    with pytest.raises(SpecError, match=r"answered 4 observations with a categorical of shape"):
        collector(planner).step(one, 0.0)


def test_an_executor_with_a_memory_sees_every_tick() -> None:
    """It is shown each state once, in order, whoever drives and however many at a time."""
    shown: list[Floats] = []

    class Remembering:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1), np.float32),)

        def __call__(self, obs: Floats, state: Any, /) -> Any:
            shown.append(np.concatenate([obs, state[0]], axis=1))
            return one(obs), (state[0] + 1,)

    made = collector()
    for _ in range(6):
        made.step(Remembering(), 0.5, 4)
    rows = np.concatenate(shown)
    # Its memory is as old as the episode.
    assert (rows[:, 1] == rows[:, 2]).all()
    assert len(rows) == 6 * 4 * 4


def test_a_budget_of_labels_is_divided_into_parts() -> None:
    """Few labels are collected a tick at a time, many some hundred at a time."""
    assert [longest(16, labels) for labels in (320, 10_000, 100_000)] == [1, 9, 16]
    assert [longest(count) for count in (1, 16, 256, 4096)] == [16, 16, 4, 1]


def test_a_slow_planner_is_asked_about_few_ticks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With seconds, as many as there is time for; a quick one is asked about all it may be."""
    now = 0.0
    monkeypatch.setattr("agentkd.distillation.sources.time.monotonic", lambda: now)
    cost = 0.001

    def planner(obs: Floats, /) -> ActionDist:
        nonlocal now
        now += cost * len(obs)
        return zero(obs)

    source = LocalSource(collector(planner), initial("linear", env_spec(Counting())), 0.1, 8)
    quick = [len(each.obs) // 4 for each in source.take()]
    assert quick[:4] == [1, 2, 4, 8]
    cost = 1.0
    slow = [len(each.obs) // 4 for _ in range(4) for each in source.take()]
    assert slow == [8, 4, 2, 1]


def test_a_take_does_not_wait_for_a_slow_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives nothing after each of its answers, and the same labels in the end."""
    now = cost = 0.0
    monkeypatch.setattr("agentkd.distillation.sources.time.monotonic", lambda: now)
    asked: list[int] = []

    def planner(obs: Floats, /) -> ActionDist:
        nonlocal now
        now += cost * len(obs)
        asked.append(len(obs))
        return Categorical(np.stack([obs[:, 1], 2 + 0 * obs[:, 1]], axis=1))

    def taken() -> tuple[list[int], Floats]:
        executor = initial("linear", env_spec(Counting()))
        source = LocalSource(collector(planner), executor, ticks=8)
        found: list[Labels] = []
        waits: list[int] = []
        while len(found) < 12:
            if len(found) == 2:
                source.update(executor, 0.2)
            before = len(asked)
            found += source.take()
            waits.append(sum(asked[before:]))
        return waits, np.concatenate([np.c_[each.obs, each.link] for each in found])

    quick, wanted = taken()
    assert len(quick) == 12
    cost = 1.0
    slow, labels = taken()
    assert max(slow) == 4
    assert np.array_equal(labels, wanted)


def test_labels_before_a_fault_are_not_lost() -> None:
    """A planner that fails amid a `take` has given what it gave; the next one says why."""
    asked = 0

    def planner(obs: Floats, /) -> ActionDist:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise ValueError("worn out")
        return zero(obs)

    source = LocalSource(collector(planner), initial("linear", env_spec(Counting())), 1e6, 8)
    assert [len(each.obs) // 4 for each in source.take()] == [1, 2]
    for _ in range(2):
        with pytest.raises(PlannerError, match="worn out"):
            source.take()


def test_links_of_several_sources_count_the_labels_of_all() -> None:
    """A link leads to its own environment's tick before, whatever comes between."""

    class Cut:
        """Gives a collector's labels in batches of odd sizes."""

        restarts = dropped = 0

        def __init__(self, first: int, size: int) -> None:
            made = collector(seed=first)
            every = [made.step(one, 0.5, 5) for _ in range(12)]
            obs = np.concatenate([each.obs for each in every])
            obs[:, 0] += first
            link = np.concatenate([each.link for each in every])
            self.batches = [
                [Labels(obs[at : at + size], zero(obs[at : at + size]), link[at : at + size])]
                for at in range(0, len(obs), size)
            ]

        def take(self) -> list[Labels]:
            return self.batches.pop(0) if self.batches else []

    several = Several([Cut(0, 7), Cut(10, 3), Cut(20, 31)])  # type: ignore[list-item]
    found = [labels for _ in range(90) for labels in several.take()]
    obs = np.concatenate([each.obs for each in found])
    link = np.concatenate([each.link for each in found if each.link is not None])
    later = np.flatnonzero(link > 0)
    before = obs[later - link[later]]
    assert len(obs) == 3 * 240
    assert ((link == 0) == (obs[:, 1] == 0)).all()
    assert (before == obs[later] - [0, 1]).all()
