"""Vectorised environments: resets at the next step or the same, links, and what goes wrong."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from agentkd import environments
from agentkd.distillation import CollectionOptions, open_task, run_distillation
from agentkd.distillation.collector import Collector
from agentkd.distillation.stretch import Collected
from agentkd.errors import EpisodeError
from agentkd.measure.evaluate import evaluate
from agentkd.spec import env_spec
from agentkd.types import ActionDist, Categorical, Floats, Gaussian
from tests.test_distill_stretches import always_one, followed, one, zero

BOX = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
MODES = {"next": AutoresetMode.NEXT_STEP, "same": AutoresetMode.SAME_STEP}


class Crowd(VectorEnv[Any, Any, Any]):
    """Each observes its number and how old its episode is; environment i has episodes of 3 + i."""

    def __init__(self, num_envs: int = 4, mode: str = "next", fault: str = "") -> None:
        self.num_envs, self.fault = num_envs, fault
        self.metadata = {"autoreset_mode": MODES.get(mode, mode)}
        self.single_observation_space, self.observation_space = BOX, batch_space(BOX, num_envs)
        self.single_action_space = gym.spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.at = np.zeros(num_envs, int)
        self.over = np.zeros(num_envs, bool)
        self.length = 3 + np.arange(num_envs)
        self.ticks = 0

    def _seen(self) -> Any:
        return np.stack([np.arange(self.num_envs), self.at], axis=1).astype(np.float64)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.at[:], self.over[:] = 0, False
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        assert actions.shape == (self.num_envs,)
        self.ticks += 1
        self.at = np.where(self.over, 0, self.at + 1)
        reward = np.where(self.over, 0.0, actions).astype(float)
        ended = (self.at == self.length) & ~self.over
        info: dict[str, Any] = {}
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
            if ended.any():
                info["final_obs"] = self._seen()
            self.at[ended] = 0
        else:
            self.over = ended
        seen = self._seen()
        if self.ticks == 3:
            match self.fault:
                case "raises":
                    raise RuntimeError("wheel came off")
                case "shape":
                    seen = seen[:, :1]
                case "few":
                    seen = seen[:-1]
                case "reward":
                    reward[1] = np.nan
                case "flags":
                    ended = ended.astype(float)
                case "blind":
                    seen[0] = np.nan
        return seen, reward, ended, np.zeros(self.num_envs, bool), info


def same(num_envs: int = 4) -> Crowd:
    """Make a crowd that resets at the same step."""
    return Crowd(num_envs, "same")


def fixed() -> Crowd:
    """Make a crowd of three, whatever is asked for."""
    return Crowd(3)


def crowd(planner: Any = zero, mode: str = "next", fault: str = "", **more: Any) -> Collector:
    options = {"stretch": 8.0, **more}
    return Collector(lambda: Crowd(4, mode, fault), planner, env_spec(Crowd()), **options)


DRIVERS = [pytest.param(lambda: one, id="function"), pytest.param(always_one, id="compiled")]


def whole(seen: list[Collected]) -> None:
    """Check that each episode's labels are its states without the last, each once."""
    followed(seen)
    obs = np.concatenate([each.obs for each in seen])
    ended = np.concatenate([each.ended for each in seen])
    for number in range(4):
        mine = obs[:, 0] == number
        ages, last = obs[mine, 1], ended[mine] > 0
        assert (ages == np.arange(len(ages)) % (3 + number)).all()
        assert (last == (ages == 2 + number)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("ticks", [1, 5])
def test_every_state_is_labelled_once(mode: str, driver: Any, ticks: int) -> None:
    """No label of the state that ended an episode, or of a step that only resets."""
    made, executor = crowd(mode=mode), driver()
    seen = [made.step(executor, 0.5, ticks) for _ in range(60)]
    whole(seen)
    assert set(made.recent) <= {3.0, 4.0, 5.0, 6.0}
    assert len(made.recent) > 2


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_own_vectors_are_read_as_they_reset(mode: str) -> None:
    """`SyncVectorEnv` in both modes gives the labels that its environments would give alone."""

    class Alone(gym.Env[Any, Any]):
        observation_space, action_space = BOX, gym.spaces.Discrete(2)

        def __init__(self, number: int) -> None:
            self.number, self.at = number, 0

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            self.at = 0
            return np.array([self.number, 0.0]), {}

        def step(self, action: Any) -> Any:
            self.at += 1
            over = self.at == 3 + self.number
            return np.array([self.number, float(self.at)]), float(action), over, False, {}

    def make() -> Any:
        functions = [lambda number=number: Alone(number) for number in range(4)]
        return SyncVectorEnv(functions, autoreset_mode=MODES[mode])

    made = Collector(make, zero, env_spec(Crowd()), stretch=8.0)
    whole([made.step(one, 0.5, 4) for _ in range(20)])


def test_episodes_that_end_together_leave_no_empty_stretch() -> None:
    """A step that only resets everything is followed by one that makes labels."""

    class Even(Crowd):
        def __init__(self) -> None:
            super().__init__()
            self.length[:] = 3

    made = Collector(Even, zero, env_spec(Even()), stretch=8.0)
    seen = [made.step(one, 0.0) for _ in range(9)]
    assert [len(each.obs) for each in seen] == [4] * 9
    followed(seen)


@pytest.mark.parametrize("mode", MODES)
def test_memories_begin_with_their_episodes(mode: str) -> None:
    """Of the planner and of the executor, row by row."""
    wrong: list[Floats] = []

    class Remembering:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1), np.float32),)

        def __call__(self, obs: Floats, state: Any, /) -> Any:
            alive = obs[:, 1] < 3 + obs[:, 0]
            wrong.extend(obs[alive & (obs[:, 1] != state[0][:, 0])])
            return zero(obs), (state[0] + 1,)

    made = crowd(Remembering(), mode)
    for _ in range(30):
        made.step(Remembering(), 0.5, 3)
    assert not wrong


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", r"Crowd: step raised RuntimeError .*wheel came off, at step 2"),
        ("shape", r"Crowd: step returned observations .*\(4, 1\).*, at step 2"),
        ("few", r"Crowd: step returned 3 observations of 4 environments, at step 2"),
        ("reward", r"Crowd: The reward of environment 1 of 4 is nan, at step 2"),
        ("flags", r"Crowd: step returned terminations of shape \(4,\) and dtype float64"),
    ],
)
def test_what_they_do_wrong_is_named(fault: str, words: str) -> None:
    """With their name, the environment where it is one, and the step."""
    with pytest.raises(EpisodeError, match=words):
        crowd(fault=fault).step(one, 0.0, 8)


def test_a_blind_one_makes_no_label_for_a_tick() -> None:
    """The others go on; what follows is not linked over the gap."""
    made = crowd(fault="blind")
    seen = made.step(one, 0.0, 8)
    assert made.blind == 1
    assert np.isfinite(seen.obs).all()
    first = seen.env == 0
    assert seen.link[first][:3].tolist() == [0, 4, 4]


@pytest.mark.parametrize("mode", MODES)
def test_a_blind_one_is_counted_once_for_each_episode(mode: str) -> None:
    """However many ticks of it are lost."""

    class Dim(Crowd):
        """Environment 3, whose episodes have six ticks, sees nothing from its second to its end."""

        def _seen(self) -> Any:
            seen = super()._seen()
            seen[3] = np.nan if self.at[3] >= 2 else seen[3]
            return seen

    made = Collector(lambda: Dim(4, mode), zero, env_spec(Crowd()), stretch=8.0)
    while made._many.env.ticks < 40:  # type: ignore[union-attr]
        made.step(one, 0.5, 4)
    episodes = {"next": 40 / 7, "same": 40 / 6}[mode]
    assert made.blind in (int(episodes), int(episodes) + 1)


def test_one_that_stays_blind_is_named() -> None:
    """It would be lost, and nobody told."""

    class Dark(Crowd):
        def _seen(self) -> Any:
            seen = super()._seen()
            seen[2] = np.nan if self.ticks else seen[2]
            return seen

    made = Collector(Dark, zero, env_spec(Crowd()), stretch=8.0)
    words = r"Dark gave NaN .* environment 2 of 4 for 2000 ticks in a row"
    for _ in range(249):
        made.step(one, 0.5, 8)
    with pytest.raises(EpisodeError, match=words):
        list(itertools.chain.from_iterable(made.steps(one, 0.5, 8) for _ in range(2)))


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3, start=5),
        gym.spaces.Box(np.float32([0.5]), np.float32([1.0])),  # type: ignore[arg-type]
    ],
)
def test_a_blind_one_does_an_action_of_the_space(space: Any) -> None:
    """Zero is not one everywhere."""
    wrong: list[Any] = []

    class Elsewhere(Crowd):
        def __init__(self) -> None:
            super().__init__()
            self.single_action_space, self.action_space = space, batch_space(space, 4)

        def step(self, actions: Any) -> Any:
            wrong.extend(each for each in actions if not space.contains(each))
            seen, _, *rest = super().step(np.zeros(4))
            seen[1] = np.nan
            return seen, np.zeros(4), *rest

    def planner(obs: Floats, /) -> ActionDist:
        if isinstance(space, gym.spaces.Discrete):
            return Categorical(np.zeros((len(obs), 3), np.float32))
        return Gaussian(np.full((len(obs), 1), 0.7, np.float32), np.full((len(obs), 1), -2.0))

    made = Collector(Elsewhere, planner, env_spec(Elsewhere()), stretch=8.0)
    made.step(planner, 1.0, 8)
    assert not wrong


@pytest.mark.parametrize("mode", ["Disabled", None])
def test_one_that_does_not_reset_is_refused(mode: Any) -> None:
    """The error says what to set."""
    with pytest.raises(EpisodeError, match=r"is vectorised and .*autoreset_mode.*NEXT_STEP"):
        crowd(mode=mode)


@pytest.mark.parametrize("name", ["Crowd", "same"])
def test_one_alone_ends_with_the_observation_it_ended_in(name: str) -> None:
    """Not with that of the next episode, however it resets."""
    env = environments.make(f"tests.test_distill_vectors:{name}")
    obs, _ = env.reset(seed=0)
    seen = [obs]
    while True:
        obs, _, terminated, _, _ = env.step(1)
        seen.append(obs)
        if terminated:
            break
    assert [each[1] for each in seen] == [0, 1, 2, 3]
    result = evaluate(f"tests.test_distill_vectors:{name}", one, episodes=3, seed=0)
    assert result.returns == (3.0, 3.0, 3.0)


def test_a_function_makes_as_many_as_are_asked_for() -> None:
    """By its argument `num_envs`; one without it gives what it has."""
    options = CollectionOptions(environments=6)

    def count(name: str) -> int:
        task = open_task(f"tests.test_distill_vectors:{name}", zero)
        made = task.collector(options, 0)
        return len(made.step(one, 0.0).obs)

    assert [count(name) for name in ("Crowd", "same", "fixed")] == [6, 6, 3]


def test_an_id_with_a_vectorised_form_is_made_so_where_there_are_many() -> None:
    """CartPole has one; a few are made one by one."""
    task = open_task("CartPole-v1", lambda obs: Categorical(np.zeros((len(obs), 2), np.float32)))
    few, many = (task.collector(CollectionOptions(environments=n), 0) for n in (4, 40))
    assert few._many is None
    assert many._many is not None
    assert len(many.step(one, 0.0).obs) == 40


def test_a_crowd_is_distilled_from() -> None:
    """From the name to an executor that does what the planner does, the same under a seed."""

    def planner(obs: Floats, /) -> ActionDist:
        return Categorical(np.stack([obs[:, 1] - 2.5, 2.5 - obs[:, 1]], 1).astype(np.float32))

    results = [
        run_distillation(
            "tests.test_distill_vectors:same",
            planner,
            "mlp:16",
            labels=2000,
            collection=CollectionOptions(environments=5),
            episodes=2,
        )
        for _ in range(2)
    ]
    assert results[0].labels == 2000
    assert np.array_equal(results[0].executor.vector(), results[1].executor.vector())
    assert results[0].returns is not None
    assert results[0].returns.executor == results[0].returns.planner
