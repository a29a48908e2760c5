"""A maze with carts that roam in it: `agentkd/Maze-v0`.

Strategy and reflex both matter here. A player that does not know the way does not arrive, and a
plan that is a second old leads into a cart.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from agentkd.types import Floats
from envs import maze_rules as rules

LIMIT = 800
OWN, ROOM, NEAR, WAYS, TARGET, CARTS = (
    slice(0, 6),
    slice(6, 10),
    slice(10, 22),
    slice(22, 166),
    slice(166, 168),
    slice(168, 188),
)
"""Where an observation has what; a policy that sees `0:22` sees what is around it alone."""
SIZE = 188
_PIXELS = 40
ARRIVED, TOUCHED = 100.0, -50.0


def observe(
    ways: rules.Bools,
    place: rules.Doubles,
    speed: rules.Doubles,
    flag: rules.Doubles,
    carts: rules.Doubles,
) -> Floats:
    """Lay out what a player observes, (188,).

    Args:
        ways: The maze, (x, y, 4).
        place: Where the player is, (2,).
        speed: The player's velocity, (2,).
        flag: Where the flag is, (2,).
        carts: Places and velocities of the carts, (carts, 4).
    """
    beside = carts[:, :2] - place
    nearest = np.argsort(np.linalg.norm(beside, axis=1))[: rules.SEEN]
    near = np.concatenate([beside[nearest], carts[nearest, 2:]], axis=1)
    hidden = np.linalg.norm(near[:, :2], axis=1) > rules.FAR
    near[hidden] = (rules.FAR, rules.FAR, 0.0, 0.0)
    parts = [
        *(place, speed, place - np.floor(place) - 0.5),
        *(rules.room(ways, place), near.ravel()),
        *(ways.ravel(), flag, carts.ravel()),
    ]
    return np.concatenate(parts).astype(np.float32)


class Maze(gym.Env[Floats, np.int64]):
    """Find the way to a flag in 40 s, and touch no cart.

    Actions: 0 rest, 1 to 4 right, up, left, down, 5 to 8 the diagonals; a velocity is reached in
    some ticks of 1/20 s. Arriving pays 100 minus two for each second, touching a cart costs 50;
    both end the episode.

    An observation has 188 numbers: place, velocity and place in the cell (6), how far walls are
    (4), the three nearest carts, relative (12), the maze as open ways of each cell (144), the flag
    (2), and all carts (20).

    Args:
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode: str | None = None) -> None:
        """Lay out the spaces."""
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-rules.SIZE, rules.SIZE, (SIZE,), np.float32)
        self.action_space = gym.spaces.Discrete(len(rules.MOVES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Draw a maze, and begin."""
        super().reset(seed=seed, options=options)
        self._layout = rules.draw(self.np_random)
        self._carts = rules.Carts(self._layout, self.np_random)
        self._place = np.array(self._layout.start) + 0.5
        self._speed = np.zeros(2)
        self._ticks = 0
        self._trace = [self._place]
        return self._seen(), {}

    def step(self, action: np.int64 | int) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Move the player, then the carts."""
        ways = self._layout.open_ways
        wanted = rules.MOVES[int(action)]
        self._place, self._speed = rules.move(ways, self._place, self._speed, wanted)
        self._carts.step()
        self._ticks += 1
        self._trace.append(self._place)
        apart = np.linalg.norm(self._carts.places - self._place, axis=1).min()
        touched = bool(apart < rules.TOUCH)
        flag = np.array(self._layout.target) + 0.5
        arrived = not touched and bool(np.linalg.norm(self._place - flag) < 0.3)
        reward = 0.0
        if touched:
            reward = TOUCHED
        elif arrived:
            reward = ARRIVED - 2.0 * self._ticks * rules.TICK
        info = {"arrived": arrived, "touched": touched}
        return self._seen(), reward, touched or arrived, self._ticks >= LIMIT, info

    def _seen(self) -> Floats:
        carts = np.concatenate([self._carts.places, self._carts.speeds], axis=1)
        flag = np.array(self._layout.target) + 0.5
        return observe(self._layout.open_ways, self._place, self._speed, flag, carts)

    def render(self) -> Any:
        """Draw walls, flag, carts, and the player with the way behind him."""
        if self.render_mode != "rgb_array":
            return None
        from PIL import Image, ImageDraw

        side = rules.SIZE * _PIXELS
        image = Image.new("RGB", (side + 1, side + 1), (250, 250, 248))
        pen = ImageDraw.Draw(image)

        def at(place: Any) -> tuple[float, float]:
            return float(place[0]) * _PIXELS, side - float(place[1]) * _PIXELS

        def disc(place: Any, radius: float, colour: Any) -> None:
            x, y = at(place)
            far = radius * _PIXELS
            pen.ellipse((x - far, y - far, x + far, y + far), fill=colour)

        flag = np.array(self._layout.target)
        pen.rectangle(
            (*at(np.add(flag, (0.2, 0.8))), *at(np.add(flag, (0.8, 0.2)))), fill=(90, 170, 90)
        )
        pen.line([at(place) for place in self._trace], fill=(170, 190, 220), width=3)
        for x in range(rules.SIZE):
            for y in range(rules.SIZE):
                corners = ((1, 0), (1, 1)), ((0, 1), (1, 1)), ((0, 0), (0, 1)), ((0, 0), (1, 0))
                for way, (begin, end) in enumerate(corners):
                    if not self._layout.open_ways[x, y, way]:
                        here = np.array((x, y))
                        pen.line([at(here + begin), at(here + end)], fill=(60, 60, 70), width=3)
        for place in self._carts.places:
            disc(place, rules.TOUCH - rules.RADIUS, (200, 70, 60))
        disc(self._place, rules.RADIUS, (40, 90, 190))
        return np.asarray(image)


gym.register("agentkd/Maze-v0", entry_point="envs.maze:Maze")
