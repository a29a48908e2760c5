"""A distillation from end to end, on small environments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.distillation import CollectionOptions, Progress, distill
from agentkd.distillation.collector import Collector
from agentkd.distillation.run import Budget
from agentkd.distillation.sources import HeadStart, Several
from agentkd.environment_checks import Checked
from agentkd.errors import AgentkdError, ConfigError, EpisodeError, PlannerError
from agentkd.planners import Planner
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec, env_spec
from agentkd.types import ActionDist, Categorical, Floats, Labels, QValues

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))


def balance(obs: Floats, /) -> Categorical:
    """Push towards where the pole falls."""
    lean = 4.0 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


def broken(obs: Floats, /) -> QValues:
    """Answer with nothing but NaN."""
    return QValues(np.full((len(obs), 2), np.nan, np.float32))


BALANCE = Planner(balance, CARTPOLE, "rule", 4, "")


def play(policy: Any, episodes: int) -> float:
    """Mean return over the first seeds."""
    env = gym.make("CartPole-v1")
    total = 0.0
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        done = False
        while not done:
            obs, reward, ended, cut, _ = env.step(policy.act(obs))
            total += float(reward)
            done = ended or cut
    return total / episodes


def test_the_executor_does_what_the_planner_does() -> None:
    """4,000 labels of a balancing rule make an executor that balances."""
    result = distill("CartPole-v1", BALANCE, "mlp:16", labels=4000, episodes=0)
    assert result.labels >= 4000
    assert not result.interrupted
    assert play(result.executor, 5) == 500.0


def test_a_budget_of_labels_repeats_itself_exactly() -> None:
    """The same seed gives the same executor; another seed another one."""
    vectors = [
        distill(
            "CartPole-v1", BALANCE, "mlp:8", labels=320, episodes=0, seed=seed
        ).executor.vector()
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_an_interruption_keeps_what_was_learnt(tmp_path: Path) -> None:
    """Ctrl-C ends with an executor, and the next run goes on where it ended."""

    def interrupt(look: Progress) -> None:
        if look.steps > 100:
            raise KeyboardInterrupt

    first = distill(
        "CartPole-v1",
        BALANCE,
        "mlp:8",
        labels=4000,
        episodes=0,
        watch=interrupt,
        every=0.0,
        checkpoint=tmp_path,
    )
    assert first.interrupted
    assert 100 < first.steps < 3000
    second = distill(
        "CartPole-v1", BALANCE, "mlp:8", labels=4000, episodes=0, checkpoint=tmp_path, resume=True
    )
    assert second.labels == 4000
    assert not second.interrupted
    assert second.steps > first.steps


def test_a_disk_that_refuses_costs_no_executor(tmp_path: Path) -> None:
    """Learning goes on without a checkpoint, and says so."""
    (tmp_path / "file").touch()
    result = distill(
        "CartPole-v1",
        BALANCE,
        "mlp:8",
        labels=640,
        episodes=0,
        checkpoint=tmp_path / "file" / "checkpoint",
    )
    assert result.steps > 0
    assert not result.interrupted
    assert "file" in result.unsaved


def test_a_planner_that_raises_later_leaves_what_was_learnt() -> None:
    """Also where labels and learning take turns in one process."""
    asked = 0

    def mortal(obs: Floats, /) -> Categorical:
        nonlocal asked
        asked += 1
        if asked > 40:
            raise ValueError("worn out")
        return balance(obs)

    planner = Planner(mortal, CARTPOLE, "mortal", 0, "")
    result = distill("CartPole-v1", planner, "mlp:8", labels=4000, episodes=0)
    assert "worn out" in result.fault
    assert result.steps > 0


def test_resuming_with_other_environments_still_lets_the_executor_drive(tmp_path: Path) -> None:
    """What is published does not hang on how labels divide."""
    published: list[bool] = []
    for count, labels in ((16, 1008), (12, 4000)):
        result = distill(
            "CartPole-v1",
            BALANCE,
            "mlp:8",
            labels=labels,
            episodes=0,
            collection=CollectionOptions(environments=count),
            checkpoint=tmp_path,
            resume=count == 12,
            every=0.0,
        )
        # There is an agreement only once an executor was published.
        published.append(any(np.isfinite(look.agreement) for look in result.history))
    assert published == [True, True]


def test_few_labels_are_learnt_from_too() -> None:
    """A budget below the usual beginning is no reason to learn nothing."""
    result = distill("CartPole-v1", BALANCE, "mlp:8", labels=32, episodes=0)
    assert result.steps > 0


@pytest.mark.parametrize("collectors", [1, 2])
def test_labels_come_from_processes_of_their_own(tmp_path: Path, collectors: int) -> None:
    """With a time budget and a reference, children collect and the executor learns."""
    (tmp_path / "rules.py").write_text(RULES)
    looks: list[Progress] = []

    def enough() -> bool:
        return bool(looks) and looks[-1].labels > 2000 and looks[-1].steps > 200

    with working_in(tmp_path):
        result = distill(
            "CartPole-v1",
            "rules:balance",
            "mlp:16",
            seconds=10_000.0,
            collection=CollectionOptions(collectors=collectors),
            episodes=0,
            watch=looks.append,
            every=0.1,
            stop=enough,
        )
    assert result.labels > 2000
    assert result.executor.version > 1


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    """The planner's own words reach the caller."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    with working_in(tmp_path), pytest.raises(PlannerError, match="no luck today"):
        distill("CartPole-v1", "faulty:planner", seconds=10_000.0, episodes=0)


def test_what_was_learnt_outlives_its_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planner that dies is tried again, and in the end the executor is kept."""
    monkeypatch.setattr("agentkd.distillation.process_source._RESTARTS", 1)
    (tmp_path / "mortal.py").write_text(MORTAL)
    with working_in(tmp_path):
        one = CollectionOptions(collectors=1)
        result = distill(
            "CartPole-v1", "mortal:planner", seconds=10_000.0, episodes=0, collection=one
        )
    assert "worn out" in result.fault
    assert result.interrupted
    assert result.restarts == 1
    assert result.steps > 0
    assert np.isfinite(result.executor.vector()).all()


RULES = """
import numpy as np
from agentkd.types import Categorical
def balance(obs):
    lean = 4 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], 1).astype(np.float32))
"""
FAULTY = """
from agentkd.types import Categorical
import numpy as np
def planner(obs):
    if len(obs) > 1:
        raise ValueError("no luck today")
    return Categorical(np.zeros((1, 2), np.float32))
"""


MORTAL = """
from agentkd.types import Categorical
import numpy as np
answers = 0
def planner(obs):
    global answers
    answers += 1
    if answers > 64:
        raise ValueError("worn out")
    return Categorical(np.zeros((len(obs), 2), np.float32))
"""


class working_in:  # noqa: N801
    """Run in a folder, with it on the import path, and leave no trace of it."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder."""
        self._patch = pytest.MonkeyPatch()
        self._folder = folder

    def __enter__(self) -> None:
        """Go there."""
        self._patch.chdir(self._folder)
        self._patch.syspath_prepend(str(self._folder))

    def __exit__(self, *_: object) -> None:
        """Go back."""
        self._patch.undo()


def test_a_planner_that_says_nan_is_named_at_once() -> None:
    """Nobody waits a minute to learn that there was nothing to learn."""
    planner = Planner(broken, CARTPOLE, "broken", 0, "")
    with pytest.raises(AgentkdError, match="NaN or infinity"):
        distill("CartPole-v1", planner, labels=100, episodes=0)


def test_a_distillation_needs_an_end() -> None:
    """A budget of nothing, or of no time, is refused."""
    for wrong in ({}, {"seconds": 0.0}, {"labels": 0}):
        with pytest.raises(ConfigError):
            Budget(**wrong)


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


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("exponential", [1.0, 0.5, 0.25, 0.1]),
        ("linear", [1.0, 0.5, 0.1, 0.1]),
        ("constant", [0.1, 0.1, 0.1, 0.1]),
        ("none", [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_share_falls_as_its_schedule_says(schedule: Any, shares: list[float]) -> None:
    """Half of it is gone after `halving` labels, where it falls at all."""
    options = CollectionOptions(halving=100, least_share=0.1, schedule=schedule)
    assert [options.share(n) for n in (0, 100, 200, 100_000)] == shares
    with pytest.raises(ConfigError, match="Did you mean"):
        CollectionOptions(schedule=schedule[:-1])


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


class Given:
    """A source that gives what it is told to, one batch at a `take`."""

    restarts, dropped = 3, 2

    def __init__(self, batches: list[Any]) -> None:
        """Remember the batches; an error among them is raised."""
        self.batches = batches
        self.updates = self.closed = 0

    def take(self) -> list[Any]:
        """Give the next batch, nothing when there is none."""
        batch = self.batches.pop(0) if self.batches else []
        if isinstance(batch, Exception):
            raise batch
        return [batch] if batch else []

    def update(self, executor: Any, share: float) -> None:
        """Count."""
        self.updates += 1

    def returns(self) -> list[float]:
        """Give one."""
        return [7.0]

    def close(self) -> None:
        """Count."""
        self.closed += 1


def label(number: int) -> Labels:
    """A batch that carries its number."""
    return Labels(np.full((1, 1), number, np.float32), say(0)(np.zeros((1, 1), np.float32)))


class Clock:
    """A clock on which each look takes a millisecond."""

    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        cls.now += 0.001
        return cls.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    """Give the source that has a head start a clock of its own."""
    monkeypatch.setattr("agentkd.distillation.sources.time", Clock)
    return Clock


def test_labels_come_from_here_until_they_come_from_there(clock: type[Clock]) -> None:
    """Then what collected here ends, and is not asked again."""
    here = Given([label(n) for n in range(100_000)])
    there = Given([[], [], label(-1), [], label(-2)])
    source = HeadStart(lambda: here, there)
    source.update(None, 1.0)  # type: ignore[arg-type]
    firsts = [source.take() for _ in range(2)]
    assert all(labels and labels[0][0][0, 0] >= 0 for labels in firsts)
    assert [float(obs[0, 0]) for obs, *_ in source.take()] == [-1.0]
    assert here.closed == 1
    assert source.take() == []
    source.update(None, 1.0)  # type: ignore[arg-type]
    assert (here.updates, there.updates) == (1, 2)
    assert (source.restarts, source.dropped, source.returns()) == (3, 2, [7.0])
    source.close()
    assert (here.closed, there.closed) == (1, 1)


def test_what_fails_here_is_left_to_the_other_source(clock: type[Clock]) -> None:
    """Neither a start that fails nor a planner that raises ends anything."""
    here = Given([label(0), PlannerError("worn out")])
    source = HeadStart(lambda: here, Given([[], [], label(-1)]))
    assert len(source.take()) == 1
    assert source.take() == []
    assert here.closed == 1
    assert len(source.take()) == 1

    def failing() -> Any:
        raise OSError("no wheel")

    assert HeadStart(failing, Given([])).take() == []


def test_several_sources_are_one(clock: type[Clock]) -> None:
    """Labels come from all; what is counted is added up, and all are closed."""
    first, second = Given([label(0), []]), Given([label(1), label(2)])
    source = Several([first, second])
    assert [float(obs[0, 0]) for obs, *_ in source.take()] == [0.0, 1.0]
    assert [float(obs[0, 0]) for obs, *_ in source.take()] == [2.0]
    source.update(None, 0.5)  # type: ignore[arg-type]
    assert (first.updates, second.updates) == (1, 1)
    assert (source.restarts, source.dropped, source.returns()) == (6, 4, [7.0, 7.0])
    source.close()
    assert (first.closed, second.closed) == (1, 1)
    with pytest.raises(ConfigError, match="collectors is 0"):
        CollectionOptions(collectors=0)


def test_a_slow_planner_does_not_keep_the_distiller_waiting(clock: type[Clock]) -> None:
    """After one tick that took long, the rest comes from there."""

    class Slow(Given):
        def take(self) -> list[Any]:
            clock.now += 0.15
            return super().take()

    here = Slow([label(0), label(1)])
    source = HeadStart(lambda: here, Given([]))
    assert len(source.take()) == 1
    assert source.take() == []
    assert here.closed == 1
