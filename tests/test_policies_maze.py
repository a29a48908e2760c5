"""The maze's executor, and the recipe that makes it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from agentkd.deploy.bundle import read_bundle
from agentkd.measure.live import Setting, live
from agentkd.runtime import StrategyOptions
from envs import maze
from policies import maze as policy
from policies.maze.train import Players, train

FILE = Path(policy.__file__).parent / "executor.akd"
SETTING = Setting(
    "envs.maze:agentkd/Maze-v0",
    20.0,
    "virtual",
    10,
    0.0,
    None,
    None,
    4,
    20_000,
    strategies=StrategyOptions(goals=policy.Thinker.goals),
)


def test_together_they_arrive() -> None:
    """With its planner half a second late it arrives; alone it does not know the way."""
    executor = read_bundle(FILE).executor
    returns = {
        mode: asyncio.run(live(SETTING, mode, executor, policy.Thinker())).result.returns
        for mode in ("executor", "runtime")
    }
    assert np.mean(returns["runtime"]) > 60
    assert np.mean(returns["executor"]) < 20


def test_the_recipe_repeats_itself() -> None:
    """The same seed gives the same executor, and it sees neither the maze nor the flag."""
    first, second = (train("mlp:8", labels=640, steps=100, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.vector(), second.vector())
    assert first.spec.obs.size == maze.NEAR.stop + policy.Thinker.goals.width


def test_labels_say_where_episodes_begin() -> None:
    """Rows follow one another, player by player, until one begins anew."""
    obs, goals, logits, starts = Players(0).take(60)
    assert obs.shape[:2] == goals.shape[:2] == logits.shape[:2] == starts.shape
    assert starts[:, 0].all()
    moved = np.linalg.norm(np.diff(obs[..., :2], axis=1), axis=2)
    # A wall may push a player who comes round a corner.
    assert moved[~starts[:, 1:]].max() < 0.2


def test_the_model_foretells_the_player_and_most_carts() -> None:
    """Walls included; carts go another way only where they may choose, or turn round by chance."""
    world, random = maze.Maze(), np.random.default_rng(0)
    apart = []
    for seed in range(20):
        obs, _ = world.reset(seed=seed)
        for _ in range(20):
            actions = random.integers(9, size=3)
            found, over = policy.ahead(obs, actions.tolist()), False
            for action in actions:
                obs, _, over, _, _ = world.step(action)
                if over:
                    break
            if over:
                break
            np.testing.assert_allclose(found[maze.OWN], obs[maze.OWN], atol=1e-5)
            np.testing.assert_allclose(found[maze.ROOM], obs[maze.ROOM], atol=1e-5)
            np.testing.assert_array_equal(found[maze.WAYS], obs[maze.WAYS])
            carts = np.abs(found[maze.CARTS] - obs[maze.CARTS]).reshape(-1, 4)
            apart.extend(carts.max(axis=1))
    assert np.mean(np.array(apart) < 1e-5) > 0.9
    np.testing.assert_allclose(policy.ahead(obs, []), obs, atol=1e-5)
