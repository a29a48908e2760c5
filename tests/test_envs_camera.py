"""The lander that is filmed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import environments

pytest.importorskip("Box2D", reason="Box2D is not installed")
from envs import camera

ENV = "envs.camera:agentkd/LunarLanderCamera-v1"

# What Gymnasium recommends about the spaces of its own environments.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*different from the unwrapped version"),
    pytest.mark.filterwarnings("ignore:.*A Box observation space m"),
]


def test_it_is_an_environment() -> None:
    """It keeps Gymnasium's rules, and its state is what LunarLander-v3 shows."""
    env, plain = environments.make(ENV), environments.make("LunarLander-v3")
    check_env(env, skip_render_check=True)
    obs, _ = env.reset(seed=3)
    assert np.array_equal(obs["state"], plain.reset(seed=3)[0])
    assert np.array_equal(env.step(2)[0]["state"], plain.step(2)[0])


def test_the_lander_is_where_its_state_says() -> None:
    """Its middle is as far to the right and as high as the pixels that are not ground or sky."""
    env: Any = environments.make(ENV)
    obs, _ = env.reset(seed=3)
    for _ in range(60):
        obs, *_ = env.step(0)
    bright = np.where(obs["camera"] > camera.GROUND + 10, obs["camera"].astype(float), 0.0)
    rows, columns = np.indices(bright.shape)
    place = env.unwrapped.lander.position
    width, height = (camera.HIGH - camera.LOW) / 64
    across = camera.LOW[0] + (bright * (columns + 0.5)).sum() / bright.sum() * width
    high = camera.HIGH[1] - (bright * (rows + 0.5)).sum() / bright.sum() * height
    assert abs(across - place.x) < 0.3
    assert abs(high - place.y) < 0.5


def test_ground_is_below_and_sky_above() -> None:
    """The landing place is flat, at the height that the environment says."""
    env: Any = environments.make(ENV)
    obs, _ = env.reset(seed=5)
    middle = obs["camera"][:, 32]
    top = (camera.HIGH[1] - env.unwrapped.helipad_y) / (camera.HIGH[1] - camera.LOW[1]) * 64
    assert (middle[int(top) + 1 :] == int(camera.GROUND)).all()
    assert (obs["camera"][20 : int(top) - 1, 32] == 0).all()


def test_a_part_of_a_pixel_is_seen() -> None:
    """A movement of a twentieth of a pixel changes the image; one beyond the edge does not fail."""
    env: Any = environments.make(ENV)
    env.reset(seed=5)
    lander, behind = env.unwrapped, camera.ground(env.unwrapped)
    before = camera.draw(lander, behind)
    x, y = lander.lander.position
    lander.lander.position = (x + 0.016, y)
    assert (camera.draw(lander, behind) != before).sum() > 3
    for place in ((-3.0, 8.0), (0.1, 16.9), (19.9, 1.1), (10.0, 30.0)):
        lander.lander.position = place
        assert camera.draw(lander, behind).shape == (64, 64)
