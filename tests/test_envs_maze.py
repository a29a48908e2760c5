"""The maze: walls hold, carts stay in corridors, and its planner arrives."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import maze
from envs import maze_rules as rules
from policies.maze import AHEAD, Thinker


def _cell(place: np.ndarray) -> tuple[int, int]:
    x, y = np.floor(place).astype(int).tolist()
    return x, y


def _next_door(ways: np.ndarray, here: tuple[int, int], there: tuple[int, int]) -> bool:
    step = np.subtract(there, here)
    return any(ways[(*here, way)] and (step == rules.WAYS[way]).all() for way in range(4))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_an_environment() -> None:
    """Gymnasium's own checks pass."""
    check_env(gym.make("envs.maze:agentkd/Maze-v0").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_can_be_reached(seed: int) -> None:
    """A maze has no closed rooms, its ways lead back, and the flag is away from the player."""
    layout = rules.draw(np.random.default_rng(seed))
    away = rules.distances(layout.open_ways, layout.start)
    assert away.max() < rules.SIZE**2
    assert away[layout.target] > rules.SIZE
    for x, y, way in np.argwhere(layout.open_ways):
        there = np.add((x, y), rules.WAYS[way])
        assert layout.open_ways[(*there, (way + 2) % 4)]


def test_walls_hold_the_player_and_the_carts() -> None:
    """From tick to tick a player and each cart stay in a cell, or go where it is open."""
    random = np.random.default_rng(0)
    layout = rules.draw(random)
    carts = rules.Carts(layout, random)
    place, speed = np.array(layout.start) + 0.5, np.zeros(2)
    wanted = rules.MOVES[0]
    for tick in range(2_000):
        if tick % 7 == 0:
            wanted = rules.MOVES[random.integers(len(rules.MOVES))]
        before = np.vstack([place, carts.places])
        place, speed = rules.move(layout.open_ways, place, speed, wanted)
        carts.step()
        after = np.vstack([place, carts.places])
        for here, there in zip(map(_cell, before), map(_cell, after), strict=True):
            step = np.abs(np.subtract(there, here))
            # A player may cross a corner, one axis after the other.
            ways = [(there[0], here[1]), (here[0], there[1])]
            around = step.sum() == 2 and any(
                _next_door(layout.open_ways, here, way) and _next_door(layout.open_ways, way, there)
                for way in ways
            )
            assert here == there or _next_door(layout.open_ways, here, there) or around
        on_line = np.abs(carts.places - np.floor(carts.places) - 0.5).min(axis=1)
        assert on_line.max() < 1e-9


def test_many_players_move_as_each_alone() -> None:
    """A batch of mazes, and many moves in each, give what one at a time gives."""
    random = np.random.default_rng(1)
    layouts = [rules.draw(random) for _ in range(3)]
    place = random.uniform(0.2, rules.SIZE - 0.2, (3, 9, 2))
    place = np.floor(place) + np.clip(place % 1, rules.RADIUS, 1 - rules.RADIUS)
    speed = random.normal(size=(3, 9, 2))
    ways = np.stack([layout.open_ways for layout in layouts])
    many = rules.move(ways, place, speed, np.broadcast_to(rules.MOVES, (3, 9, 2)))
    for maze_, move in np.ndindex(3, 9):
        alone = rules.move(
            layouts[maze_].open_ways, place[maze_, move], speed[maze_, move], rules.MOVES[move]
        )
        assert np.allclose(many[0][maze_, move], alone[0])
        assert np.allclose(many[1][maze_, move], alone[1])


def test_planner_arrives_and_says_the_way() -> None:
    """It touches nothing on unseen mazes, and its goal is the cells that come next."""
    env = maze.Maze()
    for seed in (500, 501):
        obs, _ = env.reset(seed=seed)
        ways, target = env._layout.open_ways, env._layout.target
        left = rules.distances(ways, target)
        over = False
        while not over:
            moves, goals = Thinker().answers(obs[None])
            way = [_cell(place) for place in goals.reshape(AHEAD, 2)]
            here = _cell(obs[:2])
            for there in way:
                assert there == here == target or (
                    _next_door(ways, here, there) and left[there] == left[here] - 1
                )
                here = there
            obs, reward, ended, cut, info = env.step(int(moves.logits[0].argmax()))
            over = ended or cut
        assert info["arrived"]
        assert reward == pytest.approx(100.0 - 0.1 * env._ticks)


def test_what_an_observation_has() -> None:
    """The parts that it is said to have are where they are said to be."""
    env = maze.Maze()
    obs, _ = env.reset(seed=3)
    assert obs[maze.OWN] == pytest.approx([*np.array(env._layout.start) + 0.5, 0, 0, 0, 0])
    assert (obs[maze.WAYS].reshape(rules.SIZE, rules.SIZE, 4) > 0.5).tolist() == (
        env._layout.open_ways.tolist()
    )
    assert obs[maze.TARGET] == pytest.approx(np.array(env._layout.target) + 0.5)
    carts = obs[maze.CARTS].reshape(rules.CARTS, 4)
    assert carts[:, :2] == pytest.approx(env._carts.places)
    near = obs[maze.NEAR].reshape(rules.SEEN, 4)
    beside = np.linalg.norm(carts[:, :2] - obs[:2], axis=1)
    seen = np.linalg.norm(near[:, :2], axis=1)
    assert seen[0] == pytest.approx(beside.min()) or beside.min() > rules.FAR
    free = np.ones((rules.SIZE, rules.SIZE, 4), bool)
    free[3, 5, 1] = free[3, 3, 0] = False
    assert rules.room(free, np.array((3.2, 3.7))) == pytest.approx([0.8, 2.3, 2.5, 2.5])


def test_it_draws_itself() -> None:
    """A picture for each tick, and none where none is wanted."""
    env = maze.Maze("rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(1)
    assert first.shape == env.render().shape
    assert (first != env.render()).any()
    assert maze.Maze().render() is None
