"""Environments: names with arguments, and what they return is checked."""

from __future__ import annotations

import json
import logging
import re
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import environments
from agentkd.cli.main import _COMMANDS, main
from agentkd.deploy.bundle import read_bundle
from agentkd.environment_checks import Checked, misfit
from agentkd.errors import ConfigError, EpisodeError, RefError, SpecError
from agentkd.executors.architecture import initial
from agentkd.measure.evaluate import evaluate
from agentkd.spec import env_spec

HERE = "tests.test_environments"
BOX = gym.spaces.Box(-9, 9, (2,), np.float32)
GOOD = np.zeros(2, np.float32)


class Told(gym.Env[Any, Any]):
    """Returns what it is told to."""

    observation_space: Any = BOX
    action_space: Any = gym.spaces.Discrete(2)

    def __init__(
        self, *, step: Any = (GOOD, 1.0, False, False, {}), reset: Any = (GOOD, {})
    ) -> None:
        self.results = {"step": step, "reset": reset}

    def give(self, method: str) -> Any:
        result = self.results[method]
        if isinstance(result, BaseException):
            raise result
        return result

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.give("reset")

    def step(self, action: Any) -> Any:
        return self.give("step")


class Stubborn(Told):
    """Cannot be closed, as a simulator whose server is gone; ends at once."""

    def __init__(self) -> None:
        super().__init__(step=(GOOD, 1.0, True, False, {}))

    def close(self) -> None:
        raise RuntimeError("not connected to the physics server")


class Heavy(Told):
    """Takes arguments."""

    def __init__(self, mass: float, *, name: str = "") -> None:
        super().__init__()
        if mass < 0:
            raise ValueError(f"mass {mass} is negative")
        self.mass, self.name = mass, name


class Seedless(Told):
    """Takes no seed, as environments before gym 0.26."""

    def reset(self) -> Any:  # type: ignore[override]
        return self.give("reset")


class Unsupported(Told):
    """Observes a text."""

    observation_space = gym.spaces.Text(5)


def after(obs: Any = GOOD, reward: Any = 1.0, *rest: Any) -> tuple[Any, ...]:
    """What a step returns, with other values from the left."""
    return (obs, reward, *rest, *(False, False, {})[len(rest) :])


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((GOOD, 1.0, False, {}), "a tuple of 4.*gym before 0.26.*shimmy"),
        (None, "None.*terminated, truncated"),
        ([*after()], "type list"),
        (after(reward=np.ones(1, np.float32)), r"shape \(1,\).*as reward.*float\("),
        (after(reward=None), "None as reward"),
        (after(reward="1.0"), "type str as reward"),
        (after(reward=1j), "type complex as reward"),
        (after(reward=float("nan")), "reward is nan"),
        (after(reward=np.float32("inf")), "reward is inf"),
        (after(reward=10**400), "reward is inf"),
        (after(GOOD, 1.0, None), "None as terminated.*True or False"),
        (after(GOOD, 1.0, np.array([True])), r"shape \(1,\).*as terminated"),
        (after(GOOD, 1.0, False, {}), "type dict as truncated"),
        (after(GOOD, 1.0, False, False, None), "None as info"),
        (after(np.zeros(3, np.float32)), r"shape \(3,\) instead of \(2,\)"),
        (after(np.zeros((1, 2))), r"shape \(1, 2\) instead of \(2,\)"),
        (after(None), "None instead of numbers"),
        (after(np.array(["a", "b"])), "instead of numbers"),
        (after([[1], [1, 2]]), "no array"),
        (OSError("the cable is loose"), r"step raised OSError.*cable.*on the action 1"),
    ],
)
def test_a_wrong_step_is_told_with_environment_step_and_remedy(result: Any, words: str) -> None:
    """Each kind of wrong result names the environment, the step and the seed."""
    env = Checked(Told(step=result), "my.robot:Arm")
    env.reset(seed=7)
    with pytest.raises(EpisodeError, match=f"(?s)^my.robot:Arm: .*{words}") as caught:
        env.step(1)
    assert "at step 0 of an episode (seed 7)" in str(caught.value)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (GOOD, "an array of shape.*gym before 0.26"),
        ((GOOD, GOOD), "tuple of 2"),
        ((np.zeros(3), {}), "instead of"),
        (KeyError("joint"), "reset raised KeyError.*joint"),
    ],
)
def test_a_wrong_reset_is_told_too(result: Any, words: str) -> None:
    """An observation alone is the old API, also where it could be unpacked."""
    with pytest.raises(EpisodeError, match=f"(?s)^arm: .*{words}"):
        Checked(Told(reset=result), "arm").reset(seed=0)


def test_a_reset_without_a_seed_is_told_how_to_take_one() -> None:
    """The remedy is the signature."""
    with pytest.raises(EpisodeError, match="seed=None"):
        environments.make(f"{HERE}:Seedless").reset(seed=0)


@pytest.mark.parametrize(
    "result",
    [
        after(np.zeros(2, np.float64), np.float64(2.5), np.bool_(True)),
        after([0.0, 1.0], 3),
        after(np.array([0, 1]), np.array(1.0), 0, 1),
        after(np.array([np.nan, 0], np.float32)),
    ],
)
def test_what_other_libraries_accept_passes(result: Any) -> None:
    """Other float types, lists and NumPy's scalars are good; rewards become floats."""
    env = Checked(Told(step=result), "arm")
    env.reset()
    _, reward, terminated, truncated, _ = env.step(0)
    assert type(reward) is float
    assert type(terminated) is bool
    assert type(truncated) is bool


def test_nan_can_be_refused() -> None:
    """Distillers that would fail on it have it refused by the environment's name."""
    bad = after(np.array([np.nan, 0], np.float32))
    env = Checked(Told(step=bad), "arm", finite=True)
    env.reset()
    with pytest.raises(EpisodeError, match=r"arm: .*NaN"):
        env.step(0)


IMAGE = gym.spaces.Box(0, 255, (2,), np.uint8)
WORLD = gym.spaces.Dict({"eye": IMAGE, "at": gym.spaces.Discrete(3, start=1)})


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (IMAGE, np.array([0.5, 0.1], np.float32), "fractions"),
        (IMAGE, np.array([0, 300]), "outside 0 to 255"),
        (IMAGE, np.array([0, 200]), ""),
        (gym.spaces.Discrete(3), 3, "outside 0 to 2"),
        (gym.spaces.Discrete(3), np.zeros(3), r"\(3,\) instead of \(\)"),
        (gym.spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "outside"),
        (gym.spaces.MultiBinary(2), np.array([0, 2]), "outside"),
        (WORLD, {"eye": np.zeros(2), "at": 3}, ""),
        (WORLD, {"eye": np.zeros(2)}, r"keys \['at'\]"),
        (WORLD, {"eye": np.zeros(3), "at": 3}, r"eye: .*\(3,\)"),
        (WORLD, GOOD, "instead of a dictionary"),
        (gym.spaces.Tuple([BOX]), (GOOD, GOOD), "instead of 1 parts"),
        (gym.spaces.Tuple([BOX]), (GOOD[:1],), "0: it has shape"),
    ],
)
def test_an_observation_is_compared_with_its_space(space: Any, obs: Any, words: str) -> None:
    """Structure, shape, kind and range have to fit; "" says that they do."""
    found = misfit(space, obs)
    if not words:
        assert found == ""
    else:
        assert re.search(words, found), found


def test_a_close_that_raises_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What was measured is given; the log has what the environment said."""
    spec = env_spec(Told())
    with caplog.at_level(logging.WARNING):
        got = evaluate(f"{HERE}:Stubborn", initial("linear", spec), episodes=2, seed=0)
    assert got.returns == (1.0, 1.0)
    assert "close raised RuntimeError" in caplog.text
    assert f"{HERE}:Stubborn" in caplog.text


class Game(Told):
    """Ends the program, as games do when their window is closed."""

    def step(self, action: Any) -> Any:
        raise SystemExit(4)

    def close(self) -> None:
        raise SystemExit(5)


def test_an_environment_that_ends_the_program_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """An exit has no words of its own; one in `close` is none, for results would be lost."""
    env = Checked(Game(), "my.game:Snake")
    env.reset()
    with pytest.raises(SystemExit) as caught:
        env.step(1)
    env.close()
    assert caught.value.code == 4
    assert "my.game:Snake: step ends the program: SystemExit" in caplog.text
    assert "my.game:Snake: close raised SystemExit" in caplog.text


@pytest.mark.parametrize("env", ["sys:exit", lambda: sys.exit(3)])
def test_an_environment_that_ends_the_program_instead_of_itself_is_named(env: Any) -> None:
    """A command would end with status 0 and without a word."""
    with pytest.raises(EpisodeError, match="could not be built: SystemExit"):
        environments.make(env)


def test_an_environment_of_another_class_will_do() -> None:
    """Methods and spaces are what counts; an object without them is named."""
    inner = Told()
    other = SimpleNamespace(
        reset=inner.reset,
        step=inner.step,
        observation_space=BOX,
        action_space=inner.action_space,
        robot="left",
    )
    env = Checked(other, "other")
    env.reset(seed=1)
    assert env.step(0)[1] == 1.0
    assert env.robot == "left"
    env.close()
    with pytest.raises(EpisodeError, match=r"type SimpleNamespace without step"):
        Checked(SimpleNamespace(reset=1), "odd")
    with pytest.raises(SpecError, match=r"Unsupported: An observation of kind Text"):
        environments.make(f"{HERE}:Unsupported")


def test_one_that_cannot_be_built_says_what_it_takes() -> None:
    """Missing, unknown and refused arguments come with the environment's name."""
    with pytest.raises(EpisodeError, match=r"Heavy.*'mass'.*It takes mass, name"):
        environments.make(f"{HERE}:Heavy")
    with pytest.raises(EpisodeError, match=r"Heavy.*mas.*It takes mass, name"):
        environments.make(f'{HERE}:Heavy{{"mas": 1}}')
    with pytest.raises(EpisodeError, match=r"Heavy.*mass -1 is negative"):
        environments.make(f'{HERE}:Heavy{{"mass": -1}}')
    with pytest.raises(EpisodeError, match=r"CartPole-v1.*sutton"):
        environments.make('CartPole-v1{"suton": true}')
    with pytest.raises(RefError, match="Did you mean"):
        environments.make("CartPoll-v1")


def test_a_name_carries_arguments() -> None:
    """They are read from KEY=VALUE and JSON, and a name with them makes the same."""
    name = environments.with_arguments(f"{HERE}:Heavy", ["mass=2.5", '{"name": "a b"}', "name=c=d"])
    assert environments.split(name) == (f"{HERE}:Heavy", {"mass": 2.5, "name": "c=d"})
    made = environments.make(name)
    assert (made.unwrapped.mass, made.unwrapped.name) == (2.5, "c=d")
    assert environments.with_arguments("A-v0", []) == "A-v0"
    more = environments.with_arguments(name, ["mass=3", "name=True"])
    assert environments.split(more)[1] == {"mass": 3, "name": True}
    lander = environments.make('LunarLander-v3{"gravity": -5.0}')
    assert lander.unwrapped.gravity == -5.0


@pytest.mark.parametrize("word", ["gravity", "1=2", "{", '{"a": }', "[1]", "=3"])
def test_arguments_that_are_none_are_refused(word: str) -> None:
    """The message shows both forms."""
    with pytest.raises(ConfigError, match="--env-args"):
        environments.with_arguments("A-v0", [word])
    with pytest.raises(RefError, match="JSON object"):
        environments.make("CartPole-v1{oops")


def test_a_folder_is_named_after_an_environment() -> None:
    """Colons, slashes and braces do not get into it."""
    name = environments.folder_name('envs.a:agentkd/F-v0{"gravity": -5, "text": "a/b"}')
    assert name == "envs.a.agentkd-F-v0-gravity=-5-text=a-b"


def test_a_file_makes_only_environments() -> None:
    """A name in a file makes what is registered or a class, and calls no function."""
    for good in ("A-v0", 'A-v0{"x": 1}', f"{HERE}:Heavy", 'mine:A-v0{"x": 1}', ""):
        assert environments.named_by_file(good) == good
    for bad in (
        'os:system{"command": "true"}',
        "os:abort",
        "sys:exit",
        "antigravity:X-v0",
        "idlelib.idle:main",
        f"{HERE}:import_module",
        f'{HERE}:Heavy{{"gravity": 1}}',
        "gymnasium:make",
        "gymnasium:Space",
    ):
        with pytest.raises(RefError, match="name the environment yourself"):
            environments.named_by_file(bad)
    for missing in ("nowhere:Env", f"{HERE}:Nothing"):
        with pytest.raises(RefError):
            environments.named_by_file(missing)


def test_a_name_is_checked_without_making_anything() -> None:
    """A wrong module, attribute or id is an error; a good one is not built."""
    environments.check_name(f"{HERE}:Heavy")
    environments.check_name("CartPole-v1")
    environments.check_name("CartPole")
    for wrong in (f"{HERE}:Heavi", "nowhere:Env", "CartPoll-v1", "nowhere:A-v0"):
        with pytest.raises(RefError):
            environments.check_name(wrong)


def test_every_command_with_an_environment_takes_its_arguments() -> None:
    """--env-args is there wherever an environment or planners' folders are named."""
    for home, _, _ in _COMMANDS.values():
        fields = import_module(home).Options.__dataclass_fields__
        named = "env" in fields or "planners" in fields
        assert named == ("env_args" in fields), home


def test_arguments_go_with_labels_reports_and_executors(tmp_path: Path) -> None:
    """What was recorded with arguments is distilled and measured with them."""
    labels, out = tmp_path / "labels", tmp_path / "out"
    planner = ["--planner", "tests.cli_planners:balance"]
    words = ["record", "CartPole-v1", "--env-args", "sutton_barto_reward=true"]
    words += [*planner, "--labels", "64", "--episodes", "1", "--environments", "4"]
    assert main([*words, "--out", str(labels)]) == 0
    words = ["distill", "--data", str(labels), "--executor", "linear", "--steps", "5"]
    assert main([*words, "--episodes", "1", "--out", str(out)]) == 0
    name = 'CartPole-v1{"sutton_barto_reward": true}'
    for folder in (labels, out):
        assert json.loads((folder / "report.json").read_text())["env"] == name
    provenance = read_bundle(out / "executor.akd").manifest["provenance"]
    assert provenance["env"] == name
    # There every step but the last one pays nothing.
    got = json.loads((labels / "report.json").read_text())["planner_return"]
    assert got <= 0
