"""Labels for executors that see old observations and past actions, and what is learnt of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import env_spec
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.collector import Collector
from agentkd.distillation.distiller import Distiller
from agentkd.distillation.history import Histories
from agentkd.distillation.loop import run_distillation as distill
from agentkd.distillation.process_source import ProcessSource
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import open_task
from agentkd.executors.architecture import initial
from agentkd.executors.layers import Past
from agentkd.executors.past import past_layer, rolled, unrolled
from agentkd.measure.evaluate import evaluate
from agentkd.planners import load_planner
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats, Labels, Point
from tests.deploy_executors import lively
from tests.views_robot import Robot, regulate
from tests.waiting import wait_for

BOX = BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))


def test_histories_hold_what_was_done() -> None:
    """Each label comes with the old observations and the new actions of its own episode."""
    buffer = LabelBuffer(60, linked=True)
    number = np.arange(200)
    # Two numbers observed, then the action before: a hundred and the number of its tick.
    obs = np.stack([number, number % 3, 1000 + number], axis=1).astype(np.float32)
    link = np.where(number < 3, 0, 3).astype(np.int32)
    for at in range(0, 200, 10):
        some = slice(at, at + 10)
        buffer.add(obs[some], Categorical(np.zeros((10, 2), np.float32)), link[some])
    past = Past(size=2, count=2, lag=3, width=1, actions=4)
    histories = Histories(buffer, past)
    found, packed = histories.draw(300, np.random.default_rng(0))
    assert (found.shape, packed.shape) == ((300, 8), (300, 2))
    newest = found[:, 7] - 1000
    assert (newest >= 140 + 3 * 4).all()
    assert (found[:, 4:] == 1000 + newest[:, None] - np.array([9, 6, 3, 0])).all()
    assert (found[:, [0, 2]] == newest[:, None] - np.array([12, 9])).all()
    assert (found[:, 1] == newest % 3).all()


def test_a_history_begins_with_a_blank() -> None:
    """Before an episode's first tick there is the mean of everything."""
    buffer = LabelBuffer(60, linked=True)
    obs = np.array([[0, 100], [1, 101], [2, 102]], np.float32)
    buffer.add(obs, Categorical(np.zeros((3, 2), np.float32)), np.array([0, 1, 1], np.int32))
    histories = Histories(buffer, Past(size=1, count=1, lag=2, width=1, actions=2))
    histories.blank = np.array([-1, -2], np.float32)
    found, _ = histories.draw(50, np.random.default_rng(0))
    kinds = {tuple(each) for each in found.tolist()}
    assert kinds == {(-1, -2, 100), (-1, 100, 101), (0, 101, 102)}


def test_what_is_learnt_without_the_past_goes_back_behind_it() -> None:
    """The normaliser is that of one observation and one action."""
    executor = lively("mlp:6 0:3,stack:2,delay:2", BOX)
    again = rolled(unrolled(executor), executor)
    assert np.array_equal(again.vector(), executor.vector())
    assert past_layer(again) == past_layer(executor)


class Noted(gym.Env[Any, Any]):
    """Shows the last action itself, so that labels can be compared with it."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of seven ticks."""
        super().reset(seed=seed)
        self.tick = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show what was done, and the tick."""
        self.tick += 1
        return np.array([action[0], self.tick], np.float32), 0.0, False, self.tick == 7, {}


def wander(obs: Floats) -> Any:
    """Do something else at each tick."""
    return Point(np.sin(obs[:, 1:] + obs[:, :1]).astype(np.float32))


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_labels_say_what_was_executed(share: float, vector: bool) -> None:
    """Whoever drives: planner, executor or both; one environment after another or all at once."""
    executor = initial("mlp:4", env_spec(Noted()), sees="1,delay:2", seed=3)

    def make() -> Any:
        if not vector:
            return Noted()
        mode = gym.vector.AutoresetMode.SAME_STEP
        return gym.vector.SyncVectorEnv([Noted] * 3, autoreset_mode=mode)

    collector = Collector(make, wander, env_spec(Noted()), count=3, stretch=4)
    for _ in range(20):
        found = collector.step(executor.policy, share, ticks=3)
        labels = found.labels
        assert labels.obs.shape[1] == 3
        assert np.allclose(labels.obs[:, 2], labels.obs[:, 0])
        assert (labels.obs[labels.obs[:, 1] == 0, 2] == 0).all()
    collector.close()


def test_the_executor_is_told_what_the_planner_did() -> None:
    """While labels are collected its memory holds the executed action, whoever drove."""
    executor = initial("mlp:4", env_spec(Noted()), sees="1,delay:2", seed=3)
    policy: Any = executor.policy
    states: list[Any] = []

    class Watched:
        taken, executed, initial_state = policy.taken, policy.executed, policy.initial_state

        def __call__(self, obs: Floats, state: Any) -> Any:
            states.append((obs.copy(), state[1].copy()))
            return policy(obs, state)

    collector = Collector(Noted, wander, env_spec(Noted()), count=2, stretch=4)
    for _ in range(20):
        collector.step(Watched(), 0.5, ticks=2)
    assert len(states) > 20
    for obs, taken in states:
        assert np.allclose(taken[:, 0], obs[:, 0])
    collector.close()


def test_labels_of_another_process_say_it_too() -> None:
    """The ring has room for the action."""
    task = open_task(
        "tests.test_views_past_learnt:Noted",
        "tests.test_views_past_learnt:wander",
        executor_sees="1,delay:2",
    )
    executor = task.executor("mlp:4")
    source = ProcessSource(task, executor, CollectionOptions(environments=2), 0)
    found: list[Labels] = []
    try:

        def came() -> bool:
            found.extend(source.take())
            return bool(found)

        wait_for(came)
        obs = np.concatenate([each.obs for each in found])
        assert obs.shape[1] == 3
        assert np.allclose(obs[:, 2], obs[:, 0])
    finally:
        source.close()


def test_it_learns_to_act_on_what_is_old() -> None:
    """An executor that is shown the past does better than one that acts on stale observations."""
    how: Any = {"labels": 12_000, "steps_per_label": 0.1, "episodes": 20, "progress": False}
    made = distill(
        Robot,
        regulate,
        "mlp:32",
        planner_sees="state",
        executor_sees="state,delay:2",
        seed=1,
        **how,
    )
    assert made.returns is not None
    kept = made.returns.retention.mean

    class Stale(gym.ObservationWrapper[Any, Any, Any]):
        """Shows the planner what was true two ticks ago."""

        def reset(self, **options: Any) -> Any:
            self.old = [np.zeros(2, np.float32)] * 2
            return super().reset(**options)

        def observation(self, observation: Any) -> Any:
            self.old.append(observation["state"])
            return {**observation, "state": self.old[-3]}

    planner = load_planner("tests.views_robot:regulate", env_spec(Robot()), sees="state")
    stale = np.mean(
        evaluate(lambda: Stale(Robot()), planner.policy, episodes=20, seed=1000).returns
    )
    best, chance = np.mean(made.returns.planner), np.mean(made.returns.random)
    assert kept > 0.97 > (stale - chance) / (best - chance)


def test_looks_leave_time_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a look takes long, the next one comes ten times as much later."""
    now, looks = [0.0], []

    def clock() -> float:
        now[0] += 1e-3
        return now[0]

    def watch(progress: Any) -> None:
        looks.append(progress.labels)
        now[0] += 10.0

    monkeypatch.setattr("agentkd.distillation.run.time", SimpleNamespace(monotonic=clock))
    how: Any = {"planner_sees": "state", "episodes": 0, "watch": watch, "every": 1e-6}
    distill(Robot, regulate, "mlp:4", executor_sees="state,delay:2", labels=4000, **how)
    # The first, and that at the end.
    assert len(looks) == 2


def test_a_look_at_a_history_is_the_executors_own_answer() -> None:
    """The agreement of one that sees the past is that along its episodes."""
    spec = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), DiscreteSpec(2))
    obs = np.random.default_rng(0).standard_normal((300, 1)).astype(np.float32)
    link = np.where(np.arange(300) % 50, 1, 0).astype(np.int32)
    learner = Distiller(initial("mlp:4", spec, sees="stack:3", seed=1))
    executor = initial("mlp:4", spec, sees="stack:3", seed=1)
    said = np.concatenate([executor.follow(each) for each in np.split(obs, 6)])
    learner.add(obs, Categorical(said), link)
    assert learner.agreement(300) == 1.0
    learner.add(obs, Categorical(-said), link)
    # Where no unit is above zero all answers are alike.
    assert learner.agreement(250) < 0.2
