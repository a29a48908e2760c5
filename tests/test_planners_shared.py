"""Saves that others made years ago, where a checkout has them beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentkd import dists
from agentkd.environments import make
from agentkd.planners import load_planner
from agentkd.spec import env_spec, flatten_one
from agentkd.types import RecurrentPolicy

SHARED = Path(__file__).resolve().parents[2] / "shared" / "planners"
KNOWN = {
    "dqn-CartPole-v1": 67_586,
    "ppo-BipedalWalker-v3": 6_024,
    "ppo-HalfCheetah-v5": 71_948,
    "ppo-LunarLander-v3": 4_996,
    "sac-HalfCheetah-v5": 73_484,
    "sac-Pendulum-v1": 4_545,
    "sac-Swimmer-v5": 69_124,
    "tqc-HalfCheetah-v5": 73_484,
}


def folder(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not beside this checkout ({SHARED})")
    return SHARED / name


@pytest.mark.parametrize("name", KNOWN)
def test_old_saves_load_for_the_environment_of_today(name: str) -> None:
    """Saves that name the old gym load, count what acts, and fit their environment."""
    path = folder(name)
    kind, _, env = name.partition("-")
    spec = env_spec(make(env))
    planner = load_planner(str(path), spec)
    assert planner.name == kind.upper()
    assert planner.parameters == KNOWN[name]
    assert planner.spec == spec
    assert not isinstance(planner.policy, RecurrentPolicy)
    obs = np.random.default_rng(0).standard_normal((16, spec.obs.size))
    dists.check(planner.policy(obs.astype(np.float32)), spec.action, 16)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("dqn-CartPole-v1", 500, 500), ("sac-Pendulum-v1", -300, 0)]
)
def test_old_saves_act_well(name: str, low: float, high: float) -> None:
    """An episode's return is where the collection's own measurement says."""
    path = folder(name)
    env = make(name.partition("-")[2])
    spec = env_spec(env)
    policy = load_planner(str(path), spec).policy
    assert not isinstance(policy, RecurrentPolicy)
    obs, _ = env.reset(seed=1000)
    total, over = 0.0, False
    while not over:
        dist = policy(flatten_one(spec.obs, obs)[None])
        obs, reward, ended, cut, _ = env.step(dists.mode(dist, spec.action)[0])
        total, over = total + float(reward), ended or cut
    assert low <= total <= high
