"""The maze's planner: it knows the way, and looks at what the carts may do.

    agentkd run envs.maze:agentkd/Maze-v0 --planner policies.maze:planner --executor-sees 0:22

Its goal is the way, the next cells of it; its answer is the next move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from agentkd.planners import Planner
from agentkd.runtime.goals import Goals
from agentkd.spec import Spec
from agentkd.types import Categorical, Floats, Guidance
from envs import maze
from envs import maze_rules as rules
from envs.maze_rules import Doubles

SEES = "0:22"
"""What an executor sees: itself, the walls and the carts beside it."""
AHEAD = 4
"""Cells of the way in a goal."""
HELD = 10
"""Ticks for which a move is tried."""
_ROUNDING = 1e-4
_CLOSE = 0.45
_SURE = 14.0
_TOUCH = 4.0


@lru_cache(4096)
def _way(ways: bytes, x: int, y: int) -> tuple[Doubles, Doubles]:
    """Cells left and the centre of the cell that comes next, from each cell to a target."""
    shape = (rules.SIZE, rules.SIZE, 4)
    open_ways = np.frombuffer(ways, bool).reshape(shape)
    left = rules.distances(open_ways, (x, y)).astype(float)
    after = np.empty((rules.SIZE, rules.SIZE, 2))
    for here in np.ndindex(left.shape):
        beside = [tuple(np.add(here, rules.WAYS[way])) for way in np.flatnonzero(open_ways[here])]
        after[here] = min(beside, key=lambda each: left[each])
    after[x, y] = x, y
    return left, after + 0.5


class Thinker:
    """Answers for a batch of observations, (batch, 188)."""

    goals = Goals(2 * AHEAD, max_age=40)

    def __call__(self, obs: Floats, /) -> Guidance:
        """Return the next moves, and the ways ahead as goals."""
        moves, ways = self.answers(obs)
        return Guidance(rows=moves, goal=ways)

    def answers(self, obs: Floats) -> tuple[Categorical, Floats]:
        """Return the next moves, and the ways ahead, (batch, 2 · AHEAD)."""
        numbers = obs.astype(float)
        ways = obs[:, maze.WAYS] > 0.5
        targets = np.floor(numbers[:, maze.TARGET]).astype(int)
        found = [
            _way(each.tobytes(), int(target[0]), int(target[1]))
            for each, target in zip(ways, targets, strict=True)
        ]
        left = np.stack([each[0] for each in found])
        after = np.stack([each[1] for each in found])
        open_ways = ways.reshape(len(obs), rules.SIZE, rules.SIZE, 4)
        scores = _scores(numbers, open_ways, left, after)
        moves = Categorical((_SURE * scores).astype(np.float32))
        return moves, _ahead(numbers[:, :2], after)


def _cells(places: Doubles) -> Any:
    return np.clip(np.floor(places), 0, rules.SIZE - 1).astype(int)


def _ahead(places: Doubles, after: Doubles) -> Floats:
    """The centres of the cells that come next, (batch, 2 · AHEAD)."""
    rows, way = np.arange(len(places)), []
    here = places
    for _ in range(AHEAD):
        cells = _cells(here)
        here = after[rows, cells[:, 0], cells[:, 1]]
        way.append(here)
    return np.concatenate(way, axis=1).astype(np.float32)


def _scores(obs: Doubles, ways: Any, left: Doubles, after: Doubles) -> Doubles:
    """How good each move is, held for some ticks, in cells, (batch, moves)."""
    count, tried = len(obs), len(rules.MOVES)
    shape = (count, tried, 2)
    place = np.broadcast_to(obs[:, None, 0:2], shape)
    speed = np.broadcast_to(obs[:, None, 2:4], shape)
    wanted = np.broadcast_to(rules.MOVES, shape)
    carts = obs[:, maze.CARTS].reshape(count, 1, rules.CARTS, 4)
    harm = np.zeros((count, tried))
    for tick in range(1, HELD + 1):
        place, speed = rules.move(ways, place, speed, wanted)
        there = carts[..., :2] + rules.TICK * tick * carts[..., 2:]
        apart = np.linalg.norm(there - place[:, :, None], axis=-1).min(axis=-1)
        near = np.clip((_CLOSE - apart) / (_CLOSE - rules.TOUCH), 0.0, 1.2)
        harm = np.maximum(harm, near**2 * (1.3 - 0.6 * tick / HELD))
    cells = _cells(place)
    rows = np.arange(count)[:, None]
    coming = after[rows, cells[..., 0], cells[..., 1]]
    aim = _cells(coming)
    far = left[rows, aim[..., 0], aim[..., 1]] + np.linalg.norm(place - coming, axis=-1)
    scores: Doubles = -far - _TOUCH * harm
    scores -= scores.max(axis=1, keepdims=True)
    return scores


def ahead(obs: Floats, actions: Sequence[int]) -> Floats:
    """What will be observed after some moves, (188,), if no cart turns round for no reason.

    Where a cart may turn either way it is taken to go straight on. So the planner can be asked
    about where its answer will be heard.
    """
    numbers = obs.astype(float)
    ways = (obs[maze.WAYS] > 0.5).reshape(rules.SIZE, rules.SIZE, 4)
    place, speed = numbers[0:2], numbers[2:4]
    carts = numbers[maze.CARTS].reshape(rules.CARTS, 4)
    for action in actions:
        place, speed = rules.move(ways, place, speed, rules.MOVES[int(action)])
        carts = np.stack([_cart_moved(ways, *each) for each in carts.reshape(-1, 2, 2)])
    return maze.observe(ways, place, speed, numbers[maze.TARGET], carts)


def _cart_moved(ways: Any, place: Doubles, speed: Doubles) -> Doubles:
    """Return place and velocity of a cart after a tick, (4,)."""
    far = rules.CART_SPEED * rules.TICK
    way = int(np.argmax(rules.WAYS @ speed))
    step = rules.WAYS[way]
    # Carts go from the centre of a cell to that of the next.
    gone = float((place - 0.5) @ step) % 1.0
    left = 1.0 - (gone if gone < 1.0 - _ROUNDING else 0.0)
    if left <= far + _ROUNDING:
        cell = np.floor(place + left * step)
        place = cell + 0.5
        x, y = cell.astype(int)
        open_ways = np.flatnonzero(ways[x, y])
        onward = [each for each in open_ways if each != (way + 2) % 4] or list(open_ways)
        way = way if way in onward else int(onward[0])
        step = rules.WAYS[way]
    return np.concatenate([place + far * step, rules.CART_SPEED * step])


def planner(spec: Spec) -> Planner:
    """Make the planner."""
    policy: Any = Thinker()
    return Planner(policy, spec, "maze", 0, "")
