"""Tasks: whatever environment and planner are given as, they are opened once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO

from agentkd.distillation import Returns, open_task, run_distillation
from agentkd.distillation.dataset import About, read_dataset
from agentkd.distillation.recording import DatasetWriter
from agentkd.errors import ConfigError, EpisodeError, PlannerError
from agentkd.executors.architecture import initial
from agentkd.spec import BoxSpec, Spec
from agentkd.types import Categorical, Floats
from tests.cli_planners import balance

ENV = "CartPole-v1"


class Closure:
    """Balances by a function that cannot be pickled."""

    def __init__(self) -> None:
        self._rule: Callable[[Floats], Categorical] = lambda obs: balance(obs * 1)

    def __call__(self, obs: Floats, /) -> Categorical:
        return self._rule(obs)


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Counts its copies and its closings."""

    made = 0

    def __init__(self) -> None:
        super().__init__(gym.make(ENV))
        type(self).made += 1
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_live_model_is_distilled_and_measured() -> None:
    """One call takes the model as it is and says what the executor kept."""
    model = PPO("MlpPolicy", ENV, seed=0, device="cpu", n_steps=64)
    looks: list[Any] = []

    def enough() -> bool:
        return bool(looks) and looks[-1].steps > 50

    found = run_distillation(
        ENV,
        model,
        "mlp:8",
        seconds=10_000.0,
        episodes=2,
        watch=looks.append,
        every=0.0,
        stop=enough,
    )
    assert (found.steps > 50, found.returns) == (True, None)
    found = run_distillation(ENV, model, "mlp:8", labels=320, episodes=3, eval_seed=7)
    assert found.returns is not None
    assert [len(each) for each in (found.returns.planner, found.returns.executor)] == [3, 3]
    assert found.returns.seed == 7
    assert found.kept is not None


def test_a_live_environment_is_stepped_alone_and_left_open() -> None:
    """No other one is made of it, and it goes on afterwards."""
    env = Watched()
    Watched.made = 0
    found = run_distillation(env, Closure(), "mlp:8", labels=200, episodes=2)
    assert (Watched.made, env.closed, found.labels) == (0, 0, 200)
    assert found.returns is not None
    assert len(found.returns.executor) == 2
    env.reset()
    env.step(0)


def test_a_factory_makes_as_many_as_are_stepped() -> None:
    """It is called for each of them, and its environments are closed."""
    Watched.made = 0
    found = run_distillation(Watched, Closure(), "mlp:8", labels=160, episodes=0)
    assert found.labels == 160
    assert Watched.made == 1 + 16


def test_what_another_process_can_load_is_told() -> None:
    """A name and references are; objects are not."""
    ref = "tests.cli_planners:balance"
    assert open_task(ENV, ref).refs == (ref,)
    assert open_task(ENV, [ref, ref]).refs == (ref, ref)
    assert open_task(Watched, ref).refs == ()
    assert open_task(ENV, balance).refs == ()


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """The environment, the planner, its answers and a dataset are all looked at."""

    def nothing(obs: Floats, /) -> Categorical:
        return Categorical(np.full((len(obs), 2), np.nan, np.float32))

    def broken() -> Any:
        raise OSError("no cable")

    with pytest.raises(ConfigError, match="env is a int"):
        open_task(3, balance)
    with pytest.raises(EpisodeError, match=r"broken could not be built.*no cable"):
        open_task(broken, balance)
    with pytest.raises(PlannerError, match="NaN"):
        open_task(ENV, nothing)
    with pytest.raises(ConfigError, match="for references"):
        open_task(ENV, balance, algorithm="PPO")
    task = open_task(ENV, balance)
    other = Spec(task.spec.obs, BoxSpec((-1.0,), (1.0,), (1,)))
    with pytest.raises(ConfigError, match=r"^mine\.akd is for"):
        task.executor(initial("mlp:4", other), name="mine.akd")
    with DatasetWriter(tmp_path, About(ENV, task.spec)) as writer:
        obs = np.zeros((2, 4), np.float32)
        flags = np.zeros(2, bool)
        writer.add(obs, balance(obs), obs[:, 0], ~flags, flags.astype(np.uint8))
    data = read_dataset(tmp_path)
    with pytest.raises(ConfigError, match="The dataset is for 4 numbers"):
        open_task("Pendulum-v1", data=data)
    policy: Any = open_task(data=data).planner.policy
    with pytest.raises(PlannerError, match="by its labels only"):
        policy(obs)


def test_progress_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Only where it is wanted, or on a terminal."""
    how: Any = {"labels": 160, "episodes": 0, "every": 0.0}
    run_distillation(ENV, balance, "mlp:4", **how)
    assert capsys.readouterr().err == ""
    run_distillation(ENV, balance, "mlp:4", progress=True, **how)
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "100%" in said.err
    assert "160 labels" in said.err


def test_retention_is_of_the_same_seeds() -> None:
    """Half of what the planner has above chance is a half."""
    found = Returns((10.0, 10.0), (0.0, 0.0), 0, (5.0, 5.0))
    assert found.retention.mean == 0.5
