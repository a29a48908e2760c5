"""Robots whose observations are late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import environments
from agentkd.errors import ConfigError
from envs.late import Late

ENV = "envs.late:agentkd/HalfCheetahLate-v0"


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*A Box observation space m")
def test_it_shows_what_was_and_what_is() -> None:
    """Three ticks ago; at first what was so at the reset."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    env: Any = environments.make(f'{ENV}{{"ticks": 3}}')
    check_env(env, skip_render_check=True)
    plain = environments.make("HalfCheetah-v5")
    seen = [plain.reset(seed=4)[0]]
    shown = [env.reset(seed=4)[0]]
    for tick in range(8):
        action = np.full(6, 0.1 * tick, np.float32)
        seen.append(plain.step(action)[0])
        shown.append(env.step(action)[0])
    for tick, each in enumerate(shown):
        assert np.array_equal(each["now"], seen[tick])
        assert np.array_equal(each["late"], seen[max(0, tick - 3)])


def test_a_lateness_that_is_none_is_named() -> None:
    """It has to be a tick at least."""
    with pytest.raises(ConfigError, match="ticks is 0"):
        Late(environments.make("CartPole-v1"), 0)
