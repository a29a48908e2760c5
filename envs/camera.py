"""A lander that is filmed: grey images for an executor, the eight numbers for its planner.

`agentkd/LunarLanderCamera-v1` is LunarLander-v3 that shows a dictionary:

    camera   (64, 64) uint8: sky 0, ground 96, legs 176, lander 255
    state    what LunarLander-v3 shows, (8,)

An image says where things are and not how fast: `--executor-sees camera,stack:4`. It is drawn here,
in NumPy and with soft edges, so that a movement by a part of a pixel is seen. Gymnasium's own
`render` takes several times as long.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

PIXELS = 64
LOW, HIGH = np.array([4.0, 2.5]), np.array([16.0, 14.5])
"""The corners of what the camera sees, in metres; the lander starts at (10, 13.3), the pad is at
(10, 3.3). A lander that strays further is not in the picture."""
GROUND, LEG, BODY = 96.0, 176.0, 255.0
_SCALE = PIXELS / (HIGH - LOW)
_NEAR = 12
"""Pixels around the lander's middle outside of which nothing of it is."""

Image = NDArray[np.uint8]


def ground(env: Any) -> NDArray[np.float32]:
    """Draw the ground of an episode, (64, 64)."""
    points = np.array([env.sky_polys[0][0], *(each[1] for each in env.sky_polys)])
    columns = LOW[0] + (np.arange(PIXELS) + 0.5) / _SCALE[0]
    height = (np.interp(columns, *points.T) - LOW[1]) * _SCALE[1]
    rows = PIXELS - 0.5 - np.arange(PIXELS)[:, None]
    return np.asarray(GROUND * np.clip(height - rows + 0.5, 0.0, 1.0), np.float32)


def draw(env: Any, behind: NDArray[np.float32]) -> Image:
    """Draw the lander before what `ground` gave: (64, 64)."""
    picture = behind.copy()
    middle = (np.array(env.lander.position) - LOW) * _SCALE
    first = np.clip(middle.astype(int) - _NEAR, 0, PIXELS)
    last = np.clip(middle.astype(int) + _NEAR, 0, PIXELS)
    if (first < last).all():
        x = np.arange(first[0], last[0]) + 0.5
        y = np.arange(last[1], first[1], -1)[:, None] - 0.5
        window = picture[PIXELS - last[1] : PIXELS - first[1], first[0] : last[0]]
        for part, shade in ((env.legs[0], LEG), (env.legs[1], LEG), (env.lander, BODY)):
            for fixture in part.fixtures:
                corners = [part.transform * corner for corner in fixture.shape.vertices]
                inside = _inside((np.array(corners) - LOW) * _SCALE, x, y)
                window += inside * (shade - window)
    return picture.astype(np.uint8)


def _inside(corners: Any, x: Any, y: Any) -> Any:
    """Say how much of each pixel is within a convex polygon, anticlockwise: (rows, columns)."""
    along = np.roll(corners, -1, axis=0) - corners
    length = np.hypot(*along.T)
    normal = along / length[:, None]
    # How far each pixel's middle is to the left of each edge.
    offset = normal[:, 1] * corners[:, 0] - normal[:, 0] * corners[:, 1]
    left = offset[:, None, None] + normal[:, 0, None, None] * y - normal[:, 1, None, None] * x
    return np.clip(left.min(axis=0) + 0.5, 0.0, 1.0)


class Camera(
    gym.ObservationWrapper[dict[str, NDArray[Any]], Any, NDArray[Any]],
    gym.utils.RecordConstructorArgs,
):
    """LunarLander-v3 with a camera."""

    def __init__(self, env: gym.Env[NDArray[Any], Any]) -> None:
        """Take LunarLander-v3."""
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._ground = np.zeros((PIXELS, PIXELS), np.float32)
        space: Any = gym.spaces.Dict(
            {
                "camera": gym.spaces.Box(0, 255, (PIXELS, PIXELS), np.uint8),
                "state": env.observation_space,
            }
        )
        self.observation_space = space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Film new ground."""
        state: Any
        state, info = self.env.reset(seed=seed, options=options)
        self._ground = ground(self.unwrapped)
        return self.observation(state), info

    def observation(self, observation: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Add an image to the eight numbers."""
        return {"camera": draw(self.unwrapped, self._ground), "state": observation}


def lander(**options: Any) -> gym.Env[dict[str, NDArray[Any]], Any]:
    """Make a filmed LunarLander-v3; options are its own."""
    return Camera(gym.make("LunarLander-v3", **options))


gym.register("agentkd/LunarLanderCamera-v1", entry_point="envs.camera:lander")
