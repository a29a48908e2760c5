"""Others are given the same planner, and what they learn is measured as ours is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from agentkd import dists
from agentkd.distillation.sb3.from_sb3 import from_sb3
from agentkd.errors import ConfigError, LoadError
from agentkd.planners import Planner, load_planner
from agentkd.spec import MultiBinarySpec, ObsSpec, Part, Spec, env_spec
from benchmarks import imitation_script, libraries
from benchmarks.__main__ import main
from benchmarks.driven import DrivenPPO
from benchmarks.libraries import Contest, Options, export
from benchmarks.pythons import note
from tests.cli_planners import balance
from tests.cli_reports import report, undocumented


def saved(folder: Path, kind: Any = DQN, env: str = "CartPole-v1") -> str:
    """A small planner's save."""
    more = {} if kind is PPO else {"buffer_size": 10}
    kwargs = {"net_arch": [8]}
    model = kind("MlpPolicy", env, policy_kwargs=kwargs, device="cpu", seed=0, **more)
    model.save(folder / "planner.zip")
    return str(folder / "planner.zip")


@pytest.mark.parametrize(
    ("kind", "env"), [(DQN, "CartPole-v1"), (PPO, "Pendulum-v1"), (SAC, "Pendulum-v1")]
)
def test_the_planner_that_others_are_given_is_the_planner(
    kind: Any, env: str, tmp_path: Path
) -> None:
    """Rebuilt by torch alone from layers, it does the same."""
    executor = from_sb3(saved(tmp_path, kind, env))
    export(executor, tmp_path / "planner.npz")
    made = gym.make(env)
    spaces = made.observation_space, made.action_space
    expert = imitation_script.Expert(*spaces, str(tmp_path / "planner.npz"))
    size = executor.spec.obs.size
    obs = np.random.default_rng(0).standard_normal((50, size)).astype(np.float32)
    theirs, _ = expert.predict(obs, deterministic=True)
    mine = dists.mode(executor(obs), executor.spec.action)
    assert np.abs(np.asarray(mine, float) - theirs).max() <= 1e-5


class Running(BaseFeaturesExtractor):
    """Normalises as imitation's extractor does, by the names that its state has."""

    def __init__(self, observation_space: Any) -> None:
        size = observation_space.shape[0]
        super().__init__(observation_space, size)
        self.normalize = nn.Module()
        self.normalize.eps = 1e-5  # type: ignore[assignment]
        self.normalize.register_buffer("running_mean", torch.linspace(-1, 1, size))
        self.normalize.register_buffer("running_var", torch.linspace(0.5, 2, size))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        state: Any = self.normalize
        spread = torch.sqrt(state.running_var + 1e-5)
        scaled: torch.Tensor = (obs - state.running_mean) / spread
        return scaled


def contest(folder: Path, env: str = "CartPole-v1", **more: Any) -> Contest:
    """A contest over a small planner."""
    spec = env_spec(gym.make(env))
    kind = DQN if env == "CartPole-v1" else PPO
    ref = saved(folder, kind, env)
    how: dict[str, Any] = {"executor": "mlp:6,5", "seconds": 1.0, "episodes": 2}
    options = Options(env=env, planner=ref, eval_seed=0, **{**how, **more})
    return Contest(options, spec, load_planner(ref, spec), 500.0, 20.0)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_what_they_learn_is_measured_as_it_acts(env: str, tmp_path: Path) -> None:
    """Their policy, behind its normaliser, becomes an executor that does the same."""
    made = gym.make(env)
    policy = ActorCriticPolicy(
        made.observation_space,
        made.action_space,
        lr_schedule=lambda _: 1e-3,
        net_arch=[6, 5],
        features_extractor_class=Running,
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(2.0)
    imitation_script.save(policy, tmp_path / "snapshot.npz")
    executor = contest(tmp_path, env)._imported(tmp_path / "snapshot.npz")
    shape = 50, executor.spec.obs.size
    obs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs, _ = policy.predict(obs, deterministic=True)
    mine = dists.mode(executor(obs), executor.spec.action)
    assert np.abs(np.asarray(mine, float) - theirs).max() <= 1e-5


def elsewhere(folder: Path) -> Path:
    """A folder in which this Python is the one that has imitation."""
    (folder / "imitation" / "bin").mkdir(parents=True)
    python = folder / "imitation" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "imitation.json").write_text(note("imitation", done=True))
    return folder


SCRIPT = """
import json, sys
import numpy as np
order = json.loads(sys.stdin.readline())
assert order["env"] == "CartPole-v1" and order["hidden"] == [6, 5]
print("something else that is printed")
said = []
for count in range(5):
    widths = [4, 6, 5, 2]
    numbers = {"mean": np.zeros(4, np.float32), "scale": np.ones(4, np.float32)}
    for i in range(3):
        numbers[f"weight{i}"] = np.zeros((widths[i + 1], widths[i]), np.float32)
        numbers[f"bias{i}"] = np.zeros(widths[i + 1], np.float32)
    path = order["folder"] + f"/{count}.npz"
    np.savez(path, **numbers)
    snapshot = {"path": path, "seconds": count + 1.0, "labels": 10 * count}
    print(json.dumps(snapshot), flush=True)
    if sys.stdin.readline().strip() != "go":
        break
"""


@pytest.mark.parametrize(("target", "taken"), [(0.95, 5), (-1.0, 1)])
def test_a_method_goes_on_until_the_target_is_kept(
    target: float, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each snapshot is measured, and then whoever made it is told to go on or stop."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(imitation_script, "__file__", str(script))
    outcome = contest(tmp_path, target=target, pythons=elsewhere(tmp_path)).run("imitation DAgger")
    assert outcome["fault"] == ""
    seconds = [each["seconds"] for each in outcome["snapshots"]]
    assert seconds == [1.0, 2.0, 3.0, 4.0, 5.0][:taken]
    reached = outcome["snapshots"][0] if target < 0 else None
    assert outcome["reached"] == reached


def test_a_python_without_imitation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last words are the reason; where none was built, the command says how to."""
    script = tmp_path / "script.py"
    script.write_text("raise ImportError('no imitation here')")
    monkeypatch.setattr(imitation_script, "__file__", str(script))
    outcome = contest(tmp_path, pythons=elsewhere(tmp_path)).run("imitation BC")
    assert "no imitation here" in outcome["fault"]
    words = ["libraries", "CartPole-v1", "--planner", saved(tmp_path), "--methods", "imitation BC"]
    (tmp_path / "empty").mkdir()
    assert main([*words, "--pythons", str(tmp_path / "empty")]) == 2
    assert "python -m benchmarks pythons imitation" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("method", ["student-driven", "teacher-driven", "ppd"])
def test_the_methods_of_ppd_leave_snapshots(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their clocks run, and they end when their time is over."""
    monkeypatch.setattr(libraries, "_EVERY", 0.05)
    outcome = contest(tmp_path, seconds=0.2, target=9.0).run(method)
    seconds = [each["seconds"] for each in outcome["snapshots"]]
    assert seconds == sorted(seconds)
    assert seconds[-1] >= 0.2
    assert outcome["snapshots"][-1]["labels"] > 0


@pytest.mark.parametrize("by_planner", [False, True])
def test_without_a_reward_the_executor_comes_to_the_planner(by_planner: bool) -> None:
    """Whoever drives; the planner keeps the pole up, the executor does not at first."""
    planner = Planner(balance, env_spec(gym.make("CartPole-v1")), "rule", 4, "")
    envs = VecNormalize(make_vec_env("CartPole-v1", 4, seed=0))
    how: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
    model = DrivenPPO(
        "MlpPolicy",
        envs,
        planner=planner,
        by_planner=by_planner,
        n_steps=32,
        batch_size=128,
        learning_rate=2e-2,
        **how,
    )
    model.learn(1024)
    assert model.ep_info_buffer is not None
    lengths = [each["l"] for each in model.ep_info_buffer]
    if by_planner:
        assert not lengths or min(lengths) > 200
    else:
        assert min(lengths) < 100
    model.learn(9216)
    obs = np.random.default_rng(0).uniform(-0.2, 0.2, (500, 4)).astype(np.float32)
    mine, said = (dists.mode(each(obs), planner.spec.action) for each in (from_sb3(model), balance))
    assert (mine == said).mean() > 0.9


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    """Executors without layers, planners of several choices."""
    with pytest.raises(ConfigError, match="linear"):
        contest(tmp_path, executor="linear").run("ppd")
    from agentkd.executors.architecture import initial

    several = Spec(ObsSpec((Part("", "box", (2,), "float32"),)), MultiBinarySpec(2))
    with pytest.raises(LoadError, match="one choice"):
        export(initial("mlp:3", several), tmp_path / "x.npz")


def test_the_command_leaves_a_table_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a method fails, with the reason."""
    monkeypatch.setattr(libraries, "_EVERY", 0.05)
    script = tmp_path / "script.py"
    script.write_text("raise ImportError('no imitation here')")
    monkeypatch.setattr(imitation_script, "__file__", str(script))
    out = tmp_path / "out"
    words = ["libraries", "CartPole-v1", "--planner", saved(tmp_path)]
    words += ["--methods", "imitation BC", "ppd", "--seconds", "0.1", "--episodes", "2"]
    words += ["--pythons", str(elsewhere(tmp_path))]
    assert main([*words, "--out", str(out), "--target", "99"]) == 0
    assert "no imitation here" in capsys.readouterr().out
    data = report(out)
    snapshots = [each["snapshots"][0] for each in data["results"] if each["snapshots"]]
    assert undocumented(data, *data["results"], *snapshots) == []
    assert [each["method"] for each in data["results"]] == ["imitation BC", "ppd"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--methods", "gail"])
    assert "gail" in capsys.readouterr().err
