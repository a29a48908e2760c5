"""Worlds that change at a tick, and planners that are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import dists, env_spec, load_planner
from agentkd.errors import ConfigError
from agentkd.measure.evaluate import evaluate
from agentkd.planners.planner import Planner
from agentkd.spec import Spec
from agentkd.types import Floats, Point
from envs.changing import ChangingHalfCheetah, ChangingPendulum
from policies.changing import Compensating, compensated
from policies.pendulum.train import train

PENDULUM = "envs.changing:agentkd/ChangingPendulum-v0"
SAVE = str(Path(__file__).parents[1] / "policies/pendulum")

# What Gymnasium recommends about the spaces of its own environments.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*different from the unwrapped version"),
    pytest.mark.filterwarnings("ignore:.*A Box observation space m"),
    pytest.mark.filterwarnings("ignore:.*symmetric and normalized space"),
]


def lived(env: gym.Env[Any, Any], actions: Floats) -> Floats:
    """Observe what actions lead to."""
    obs, _ = env.reset(seed=3)
    found = [obs]
    for action in actions:
        obs, _, terminated, truncated, _ = env.step(action)
        found.append(obs)
        if terminated or truncated:
            found[-1], _ = env.reset()
    return np.array(found)


@pytest.mark.parametrize("env", [ChangingPendulum(gain=-1.0), ChangingHalfCheetah(2.0)])
def test_they_are_environments(env: gym.Env[Any, Any]) -> None:
    """Gymnasium's checker finds nothing, and they are made again from their spec."""
    check_env(env, skip_render_check=True)


def test_a_motor_reverses_at_its_tick_and_turns_back() -> None:
    """What acts there does the opposite; what is observed last tells the planner at once."""
    push = np.full((9, 1), 1.3, np.float32)
    same = lived(ChangingPendulum(), push)
    other = lived(ChangingPendulum(gain=-1.0, at=4), push)
    assert np.array_equal(same[:5, :3], other[:5, :3])
    assert not np.allclose(same[5, :3], other[5, :3])
    assert other[:, 3].tolist() == [1] * 4 + [-1] * 6
    signs = np.ones((9, 1), np.float32)
    signs[4:7] = -1
    back = lived(ChangingPendulum(gain=-1.0, at=4, until=7), push * signs)
    assert np.allclose(back[:, :3], same[:, :3], atol=1e-6)
    assert back[7:, 3].tolist() == [1, 1, 1]


def test_ticks_are_counted_over_episodes() -> None:
    """A change comes once, however often an episode begins."""
    env = ChangingPendulum(length=1.3, mass=0.8, at=250)
    seen = lived(env, np.zeros((300, 1), np.float32))
    assert seen[249, 3:].tolist() == [1, 1, 1]
    assert np.allclose(seen[250:, 3:], [1.0, 1.3, 0.8])


def test_pendulums_are_drawn_anew() -> None:
    """Each episode has a world of its own, of either sign, and the seed decides."""
    env = ChangingPendulum(drawn=True)
    worlds = np.array([env.reset(seed=seed)[0][3:] for seed in range(40)])
    size = np.abs(worlds)
    assert (size >= [0.5, 0.8, 0.7]).all()
    assert (size <= [1.2, 1.4, 1.5]).all()
    assert 5 < (worlds[:, 0] < 0).sum() < 35
    assert np.array_equal(env.reset(seed=7)[0][3:], worlds[7])
    assert np.array_equal(env.step(np.zeros(1, np.float32))[0][3:], worlds[7])


def ahead(obs: Floats) -> Point:
    """A planner for the robot as it was: something of all it sees."""
    return Point(np.tanh(obs[:, 2:8] + 0.1 * obs[:, 8:14]).astype(np.float32))


@pytest.mark.parametrize("gains", [1.5, [-1, 1, 2, 1, 1, -3]])
def test_told_the_gains_a_planner_does_the_same(gains: Any) -> None:
    """With stronger or reversed motors the robot moves as it did."""
    plain = gym.make("HalfCheetah-v5")
    spec = env_spec(plain)
    told = Compensating(Planner(ahead, spec, "ahead", 0, ""))
    paths = []
    for env in (ChangingHalfCheetah(), ChangingHalfCheetah(gains, at=5)):
        obs, _ = env.reset(seed=1)
        path = []
        for _ in range(20):
            action = dists.mode(told(obs[None].astype(np.float32)), spec.action)[0]
            obs, *_ = env.step(action)
            path.append(obs[:17])
        paths.append(np.array(path))
    assert np.allclose(paths[0], paths[1], atol=1e-3)


def test_a_planner_is_loaded_for_the_robot_that_changes() -> None:
    """It answers for all that is observed, the gains among it."""
    spec = env_spec(ChangingHalfCheetah())
    known = compensated("tests.test_envs_changing:ahead", spec)
    assert known.spec == spec
    policy: Any = known.policy
    assert policy(np.ones((2, 23), np.float32)).action.shape == (2, 6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ChangingPendulum(length=0.0), "length is 0.0"),
        (lambda: ChangingPendulum(at=-1), "at is -1"),
        (lambda: ChangingPendulum(at=5, until=2), "until"),
        (lambda: ChangingPendulum(gain=float("nan")), "nan"),
        (lambda: ChangingHalfCheetah([1, 2]), "one number, or six"),
    ],
)
def test_a_world_that_cannot_be_is_refused(make: Any, match: str) -> None:
    """With the number."""
    with pytest.raises(ConfigError, match=match):
        make()


@pytest.mark.parametrize("changed", ["", '{"gain": -1.0}'])
def test_the_planner_of_the_pendulum_swings_up(changed: str) -> None:
    """Also with the motor reversed."""
    policy = load_planner(SAVE).policy
    returns = evaluate(PENDULUM + changed, policy, episodes=8, seed=1000).returns
    assert np.mean(returns) > -220


def test_its_recipe_runs(tmp_path: Path) -> None:
    """And leaves a save for what is observed."""
    train(tmp_path, 64, 3)
    spec: Spec = load_planner(str(tmp_path / "planner.zip")).spec
    assert spec.obs.size == 6
