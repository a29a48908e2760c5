"""A film is made in a process of its own, of actions as they were decided."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentkd import environments
from agentkd.cli.run_film import take_of
from agentkd.errors import EpisodeError
from agentkd.executors.architecture import initial
from agentkd.measure.live import live
from agentkd.report.film import Take
from agentkd.report.film_child import film_apart
from agentkd.spec import env_spec
from tests.test_report_film import World, setting

HERE = "tests.test_report_film_child"
TAKE = Take("a", [np.ones(2, np.float32)] * 6, ["executor"] * 6, 6.0)


class Heavy(World):
    """Changes the action in place, and renders as it is told."""

    def step(self, action: Any) -> Any:
        action *= 0.5
        obs, reward, *_ = super().step(action)
        return obs, reward, self.at >= 20, False, {}

    def render(self) -> Any:
        if self.shows == "abort":
            os.abort()
        if self.shows == "hang":
            threading.Event().wait()
        return super().render()


def test_an_action_is_kept_as_it_was_decided() -> None:
    """An environment that changes it in place is filmed all the same."""
    executor = initial("linear", env_spec(environments.make(f"{HERE}:Heavy")), seed=1)
    how = replace(setting(f"{HERE}:Heavy"), kept=100, episodes=1, ticks=None, clock="virtual")
    arm = asyncio.run(live(how, "executor", executor, None))
    acts = arm.acts
    assert len(acts.actions) == len(acts.who) == len(acts.rewards) == 17
    assert acts.ends == [(False, False)] * 16 + [(True, False)]
    np.testing.assert_allclose([0.5 * np.sum(each) for each in acts.actions], acts.rewards, 1e-5)
    before = acts.actions[0].copy()
    made = film_apart(how.env, 3, [take_of("executor", arm, 0)], 20.0, "")
    assert f"executor alone {arm.result.returns[0]:,.1f}" in made.text
    np.testing.assert_array_equal(acts.actions[0], before)


@pytest.mark.parametrize(
    ("shows", "reason"), [("abort", "ended its process"), ("hang", "took more than 5 s")]
)
def test_a_renderer_that_aborts_or_hangs_ends_nothing_else(shows: str, reason: str) -> None:
    """It has a process of its own, and a limit."""
    env = f'{HERE}:Heavy{{"shows": "{shows}"}}'
    with pytest.raises(EpisodeError, match=reason):
        film_apart(env, 0, [TAKE], 20.0, "", limit=5.0 if shows == "hang" else 120.0)


def test_choices_are_choices_in_the_other_process() -> None:
    """They stay whole numbers."""
    made = film_apart(
        "tests.test_report_film:Choices", 0, [Take("a", [3, 4], ["hold"] * 2, 7.0)], 20.0, "x"
    )
    assert "a 7.0" in made.text
    assert getattr(Image.open(io.BytesIO(made.moving)), "n_frames", 1) == 3


def test_pygame_films_without_a_screen_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SDL looked for a Wayland session, and printed that there is none."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    film_apart("CartPole-v1", 0, [Take("a", [0, 1], ["hold"] * 2, None)], 20.0, "")
    said = capfd.readouterr()
    assert said.out + said.err == ""
