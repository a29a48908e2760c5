"""A film shows what was lived, fits its page, and never harms a run."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from agentkd import environments
from agentkd.cli.main import main
from agentkd.cli.run_film import NAMES, add_film, choose_episode, take_of
from agentkd.cli.terminal import View
from agentkd.errors import EpisodeError
from agentkd.executors.architecture import initial
from agentkd.measure.live import Acts, Lived, Setting, live
from agentkd.report import film as films
from agentkd.report import panels
from agentkd.report.film import Take, film, renders
from agentkd.report.html import page
from agentkd.report.model import Film, Report
from agentkd.report.panels import SHOWN, WIDTH, Panel, compose, picture
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec, env_spec
from tests.cli_reports import report, undocumented

HERE = "tests.test_report_film"
DRAWN = "tests.cli_planners:Drawn"


class World(gym.Env[Any, Any]):
    """The action is the reward; an episode has no end of its own."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1e6, 1e6, (1,), np.float32)
    action_space: Any = gym.spaces.Box(-9.0, 9.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, shows: str = "grid") -> None:
        self.render_mode, self.shows = render_mode, shows
        self.noise = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at = seed or 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        return np.zeros(1, np.float32), float(np.sum(action)), False, False, {}

    def render(self) -> Any:
        if self.shows == "noise":
            return self.noise.integers(0, 256, (128, 128, 3), np.uint8)
        if self.shows == "text":
            return "a frog"
        if self.shows == "nothing":
            return None
        frame = np.zeros((8, 8, 3), np.uint8)
        frame[self.at % 8] = 200
        return frame


class Choices(World):
    """The same with choices."""

    action_space = gym.spaces.Discrete(9)


class Fickle(World):
    """Rewards by chance."""

    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, float(np.random.default_rng().normal()), *rest


def take(name: str = "with agentkd", ticks: int = 6, who: str = "executor") -> Take:
    """An arm that does the same at each tick."""
    return Take(name, [np.ones(2, np.float32)] * ticks, [who] * ticks, 2.0 * ticks)


def frames(data: bytes) -> list[Image.Image]:
    """The frames of an animation."""
    opened = Image.open(io.BytesIO(data))
    found = []
    for number in range(getattr(opened, "n_frames", 1)):
        opened.seek(number)
        found.append(opened.convert("RGB"))
    return found


def close(pixel: Any, colour: str) -> bool:
    """Whether a pixel has a colour, but for what the compression does to it."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool(np.abs(np.asarray(pixel[:3], int) - wanted).max() < 40)


def test_arms_are_side_by_side_and_who_acts_is_in_colour() -> None:
    """Each tick a frame: where an arm ended, a bar without colour says so."""
    takes = [take("planner alone", 3, "hold"), take(ticks=6, who="strategy")]
    made = film(f"{HERE}:World", 7, takes, 20.0, "the first one")
    found = frames(made.moving)
    assert len(found) == 7
    assert {each.size for each in found} == {(made.width, made.height)}
    assert made.width > 2 * WIDTH
    bar = made.height - 24
    left, right = WIDTH - 10, 2 * WIDTH
    for number, frame in enumerate(found):
        assert close(frame.getpixel((right, bar)), SHOWN["strategy"].rgb) == (number < 6)
        assert close(frame.getpixel((left, bar)), SHOWN["hold"].rgb) == (number < 3)
    assert frames(made.still)[0].size == (made.width, made.height)
    assert "planner alone 6.0, with agentkd 12.0" in made.text
    assert made.caption.startswith("Seed 7, the first one. Who acts: ")
    assert "blue: planner's strategy, pink: hold last action." in made.caption
    assert made.caption.endswith("Shown at its own speed, 20 ticks per second.")


def test_choices_are_filmed_as_well() -> None:
    """Actions are those of the environment, of whatever kind."""
    made = film(f"{HERE}:Choices", 0, [Take("a", [3, 4], ["guided"] * 2, 7.0)], 20.0)
    assert "yellow: executor with a goal" in made.caption


def test_a_return_that_differs_is_not_shown() -> None:
    """An environment that does not repeat itself has no film."""
    with pytest.raises(EpisodeError, match=r"does not repeat itself.* of with agentkd was 12"):
        film(f"{HERE}:Fickle", 0, [take()], 20.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rewards": [2.0, 2.0, 1.5]}, r"the reward at tick 2 was 1\.5, and 2 when"),
        ({"ends": [(False, False), (True, False)]}, "terminated at tick 1, and went on when"),
        ({"ends": [(False, True)]}, "was truncated at tick 0, and went on when"),
    ],
)
def test_each_tick_is_compared(change: Any, reason: str) -> None:
    """In an episode that was cut off, too, which has no return."""
    with pytest.raises(EpisodeError, match=f"does not repeat itself.*{reason}"):
        film(f"{HERE}:World", 0, [replace(take(), total=None, **change)], 20.0)


def test_a_take_that_is_cut_off_has_no_end() -> None:
    """What it had returned until then is called that."""
    cut = replace(take(), total=None, rewards=[2.0] * 6)
    assert "with agentkd 12.0 so far." in film(f"{HERE}:World", 0, [cut], 20.0).text


@pytest.mark.parametrize(("shows", "reason"), [("text", "shape"), ("nothing", "object")])
def test_what_is_no_picture_is_refused(shows: str, reason: str) -> None:
    """The error says what came instead."""
    with pytest.raises(EpisodeError, match=rf"render returned .*{reason}"):
        film(f'{HERE}:World{{"shows": "{shows}"}}', 0, [take()], 20.0)


def test_a_film_fits_its_limit() -> None:
    """Noise is coarser where there is less room; where nothing helps, it is refused."""
    world = f'{HERE}:World{{"shows": "noise"}}'
    large = film(world, 0, [take()], 20.0)
    limit = len(large.moving) * 6 // 10
    small = film(world, 0, [take()], 20.0, limit=limit)
    assert len(small.moving) <= limit
    assert small.caption == large.caption
    with pytest.raises(EpisodeError, match="beyond 99 bytes"):
        film(world, 0, [take()], 20.0, limit=99)


@pytest.mark.parametrize(
    ("ticks", "hz", "step", "span", "milliseconds"),
    [
        (100, 20.0, 1, 100, 50),
        (100, 50.0, 3, 100, 60),
        (1000, 50.0, 4, 1000, 72),  # 20 s of its own time
        (1000, 1000.0, 50, 1000, 50),
        (10, 5.0, 1, 10, 200),
        (200, 5.0, 1, 200, 90),  # 40 s of its own time
        (5000, 50.0, 12, 3600, 60),
    ],
)
def test_a_film_lasts_at_most_twenty_seconds(
    ticks: int, hz: float, step: int, span: int, milliseconds: int
) -> None:
    """Short episodes in their own time, longer ones faster, very long ones cut."""
    pace = films._pace(ticks, hz, 300)
    assert (pace.step, pace.span, pace.milliseconds) == (step, span, milliseconds)
    assert -(-span // step) * milliseconds <= 18_000
    assert (f"Cut after {span:,} of {ticks:,} ticks" in pace.told) == (span < ticks)


def test_a_cut_film_is_checked_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The return that is compared is that of the whole episode."""
    monkeypatch.setattr(films, "_MOST", 2)
    monkeypatch.setattr(films, "_LEAST", 2)
    wrong = Take("a", take(ticks=40).actions, ["hold"] * 40, 79.0)
    with pytest.raises(EpisodeError, match="repeat"):
        film(f"{HERE}:World", 0, [wrong], 20.0)
    assert "Cut after 8 of 40" in film(f"{HERE}:World", 0, [take(ticks=40)], 20.0).caption


def test_a_slow_renderer_makes_fewer_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole episode is shown all the same."""
    monkeypatch.setattr(films, "_PATIENCE", 0.0)
    made = film(f"{HERE}:World", 0, [take(ticks=240)], 20.0)
    assert len(frames(made.moving)) == 25
    assert "Cut" not in made.caption


def test_each_source_has_a_colour_that_black_is_read_on() -> None:
    """All that may act have one, and its contrast is at least 6:1."""
    from agentkd.runtime.loop import SOURCES

    assert {*SOURCES, "guided"} == set(SHOWN)
    for who in SHOWN.values():
        light = [int(who.rgb[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in light]
        luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
        assert (luminance + 0.05) / 0.05 >= 6, who.colour


@pytest.mark.parametrize("shape", [(400, 600), (480, 480), (900, 90), (3, 5), (1, 4000)])
def test_pictures_of_any_shape_fit_a_panel(shape: tuple[int, int]) -> None:
    """Large ones shrink, small ones grow, and their form stays."""
    shown = picture(np.zeros((*shape, 4), np.uint8))
    assert shown.width <= WIDTH
    assert shown.height <= 320
    panel = Panel("executor alone", ["executor"], 1, -12_345.6, shown)
    drawn = compose([panel] * 3, 1)
    assert drawn.width < 900


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8749, "0.87"),
        (-177.43, "-177.4"),
        (-12_345.6, "-12,346"),
        (-1.251e6, "-1,251k"),
        (-1.3e7, "-1e+07"),
    ],
)
def test_what_is_written_fits_its_panel(value: float, text: str) -> None:
    """A return stands beside the arm's name, and each word for who acts in its bar."""
    from PIL import ImageFont

    font = ImageFont.load_default(panels._SIZE)
    assert panels.short(value) == text
    names = max(map(font.getlength, NAMES.values()))
    assert names + font.getlength(text) < WIDTH
    for word in (*(who.word for who in SHOWN.values()), "over at tick 123,456"):
        assert font.getlength(word) < WIDTH - 16


def lived(*returns: float, length: int = 4, kept: int = 100, cut: int = 0) -> Lived:
    """An arm whose episodes returned this."""
    ticks = min(kept, length * len(returns) + cut)
    acts = Acts(list(range(ticks)), ["executor"] * ticks)
    result: Any = SimpleNamespace(returns=returns, lengths=(length,) * len(returns))
    part = Part("", "box", (1,), "float32")
    executor = initial("linear", Spec(ObsSpec((part,)), DiscreteSpec(2)))
    return Lived(result, executor, (), interrupted=False, acts=acts)


@pytest.mark.parametrize(
    ("arms", "episode", "why"),
    [
        (
            {"planner": lived(0, 5, 9), "runtime": lived(10, 10, 10)},
            1,
            "the runtime and the planner",
        ),
        ({"runtime": lived(1, 1), "planner": lived(0, 9)}, 1, "the runtime and the planner"),
        ({"executor": lived(5, 1, 4)}, 2, "the median return"),
        ({"executor": lived(5, 1, 4, kept=9)}, 1, "2 episodes"),
        ({"executor": lived(5, 6), "runtime": lived(cut=3)}, 0, "the first one"),
    ],
)
def test_the_typical_episode_is_shown(arms: Mapping[str, Lived], episode: int, why: str) -> None:
    """That with the median difference, among those that every arm has lived to the end."""
    found, told = choose_episode(arms)
    assert found == episode
    assert why in told


def test_a_take_is_one_episode() -> None:
    """Its ticks and its return; where it was cut off, what was done until then."""
    whole = take_of("runtime", lived(1, 2, 3), 1)
    assert (whole.actions, whole.total) == ([4, 5, 6, 7], 2)
    cut = take_of("planner", lived(1, cut=2), 1)
    assert (cut.actions, cut.total) == ([4, 5], None)


def test_the_page_shows_the_film_once() -> None:
    """The still stands in for it in print and without motion; both are in the page."""
    made = Film(b"moving", b"still", 30, 20, "<both>", "Seed 3 & more.")
    data = {"argv": [], "date": "", "platform": "", "schema": 1, "versions": {}}
    text = page(data, Report(data, lead="A lead <b>.", film=made))
    assert "A lead &lt;b&gt;." in text
    assert "Seed 3 &amp; more." in text
    pictures = re.findall(
        r'<img class="(\w+)" src="data:image/webp;base64,([^"]+)" alt="(.*?)"', text
    )
    assert pictures == [
        ("moving", "bW92aW5n", "&lt;both&gt;"),
        ("still", "c3RpbGw=", "&lt;both&gt;"),
    ]
    assert "img-src data:" in text
    assert "prefers-reduced-motion: reduce" in text
    assert text.index("A lead") < text.index("<img")


def command(out: Path, *more: str, env: str = DRAWN) -> list[str]:
    """A short run."""
    return [
        *("run", env, "--planner", "tests.cli_planners:balance", "--clock", "virtual"),
        *("--executor", "mlp:4", "--planner-latency", "3", "--episodes", "1"),
        *("--learn-ticks", "30", "--out", str(out), *more),
    ]


def test_a_run_is_filmed_and_measures_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The film shows the returns that were measured; without a film they are the same."""
    assert main(command(tmp_path / "a")) == 0
    said = capsys.readouterr().out
    assert main(command(tmp_path / "b", "--film", "off")) == 0
    seen, unseen = report(tmp_path / "a"), report(tmp_path / "b")
    assert undocumented(seen, seen["film"]) == []
    assert "film" not in unseen
    assert not (tmp_path / "b" / "film.webp").exists()
    text = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    for kind in ("rows marked", "strips", "shares", "distributions marked"):
        assert f'class="area {kind}"' in text
    for name, arm in seen["arms"].items():
        assert arm["returns"] == unseen["arms"][name]["returns"]
        shown = {"planner": "planner alone", "executor": "executor alone"}.get(name, "with agentkd")
        assert f"{shown} {arm['returns'][0]:,.1f}" in text
        shown = shown.replace("planner alone", "late planner")
        assert f"{shown} {arm['returns'][0]:,.0f}" in " ".join(said.split()).replace("Late", "late")
    assert len(text) < 3_000_000
    assert len(frames((tmp_path / "a" / "film.webp").read_bytes())) > 10
    assert "film.webp" in said


def plain() -> Report:
    """A report without a film."""
    return Report({"arms": {}})


def setting(env: str) -> Setting:
    """A short arm."""
    return Setting(env, 200.0, "wall", None, 0.0, ticks=20, seconds=None, episodes=None, seed=3)


class Unmade(gym.Wrapper[Any, Any, Any, Any]):
    """Says that it renders, and takes no render_mode."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))


class Blind(Unmade):
    """Does not render."""

    metadata = {"render_modes": ["ansi"]}


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (DRAWN + '{"fault": "no display"}', "the renderer raised OSError"),
        (f"{HERE}:Unmade", "render_mode"),
        (f"{HERE}:Fickle", "repeat itself"),
    ],
)
def test_a_renderer_that_fails_costs_the_film_only(
    env: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says why, and the report stays as it is."""
    before = plain()
    assert add_film(View(), before, setting(env), {"runtime": lived(1.0)}) is before
    said = " ".join(capsys.readouterr().out.split())
    assert "No film: " in said
    assert reason in said


def test_what_does_not_render_is_told_if_a_film_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured; by default nothing is said."""
    blind, before = f"{HERE}:Blind", plain()
    assert not renders(blind)
    assert main(command(tmp_path / "a", "--film", "on", env=blind)) == 2
    said = capsys.readouterr()
    assert "--film on" in said.err
    assert "render_modes" in " ".join(said.err.split())
    assert not (tmp_path / "a").exists()
    assert add_film(View(), before, setting(blind), {"runtime": lived(1.0)}) is before
    assert capsys.readouterr().out.strip() == ""


def test_without_pillow_there_is_no_film(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing package is named."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    before = plain()
    assert add_film(View(), before, setting(DRAWN), {"runtime": lived(1.0)}) is before
    assert "No film: it needs the package PIL." in capsys.readouterr().out


def test_what_was_done_and_not_kept_is_not_filmed(capsys: pytest.CaptureFixture[str]) -> None:
    """A line says so."""
    before = plain()
    arms = {"runtime": lived(1.0, kept=0)}
    assert add_film(View(), before, setting(DRAWN), arms) is before
    assert "decisions were missed" in " ".join(capsys.readouterr().out.split())


def test_a_wall_clock_is_filmed_as_it_was() -> None:
    """What was done in real time is stepped again; an arm that was cut off is no episode."""
    executor = initial("linear", env_spec(environments.make(DRAWN)), seed=1)
    how = replace(setting(DRAWN), kept=12, episodes=1, ticks=None)
    arm = asyncio.run(live(how, "executor", executor, None))
    assert len(arm.acts.who) == min(12, arm.result.ticks)
    arm = asyncio.run(live(replace(how, kept=1000), "executor", executor, None))
    made = add_film(View(), plain(), how, {"executor": arm})
    assert made.film is not None
    assert made.data["film"]["seed"] == 3
    assert f"executor alone {arm.result.returns[0]:,.1f}" in made.film.text
