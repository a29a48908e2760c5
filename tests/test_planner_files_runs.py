"""Folders of runs: which checkpoint they mean, and what their settings tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentkd.errors import LoadError
from agentkd.planners import load_planner
from agentkd.planners.files.tensors import load_checkpoint
from tests.policy_files import FILES, answers, load


def test_what_a_checkpoint_does_not_tell_is_announced_once(tmp_path: Path) -> None:
    """The defaults of rsl_rl are named with the flag; with agent.yaml beside nothing is assumed."""
    with pytest.warns(UserWarning, match=r"activation=elu.*epsilon=0\.01.*--planner-args") as heard:
        load_planner(str(FILES / "rsl5_mlp.pt"))
    assert len(heard) == 1
    path = run_folder(
        tmp_path, "rsl5_mlp.pt", "actor:\n  class_name: MLPModel\n  activation: ELU\n"
    )
    load_planner(str(path))


def run_folder(tmp_path: Path, file: str, settings: str) -> Path:
    """Lay out a run's folder as Isaac Lab does, with params/agent.yaml."""
    (tmp_path / "params").mkdir(parents=True, exist_ok=True)
    (tmp_path / "params" / "agent.yaml").write_text(settings)
    path = tmp_path / "model_20.pt"
    path.write_bytes((FILES / file).read_bytes())
    return path


def test_the_settings_of_a_run_tell_activation_and_distribution(tmp_path: Path) -> None:
    """A Beta's interval and a class of Python's are read from agent.yaml; the tag is not."""
    settings = (
        "seed: 42\nactor:\n  class_name: MLPModel\n  hidden_dims: !!python/tuple\n  - 8\n  - 6\n"
        "  activation: elu\n  distribution_cfg:\n    class_name: BetaDistribution\n"
        "    action_range:\n    - -2.0\n    - 1.0\n"
    )
    planner = load_planner(str(run_folder(tmp_path, "rsl5_beta.pt", settings)))
    known = np.load(FILES / "rsl5_beta.npz")
    (answer,) = answers(planner, known["obs"])
    np.testing.assert_allclose(answer.mean, known["mean"][0], atol=1e-5)
    np.testing.assert_allclose(np.exp(answer.log_std), known["std"][0], atol=1e-5)


def test_a_run_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    """Of model_20.pt and model_100.pt the latter is read; two policies without numbers are not."""
    path = run_folder(tmp_path, "rsl5_plain.pt", "actor:\n  activation: elu\n")
    path.rename(tmp_path / "model_100.pt")
    run_folder(tmp_path, "rsl5_mlp.pt", "actor:\n  activation: elu\n")
    assert load_planner(str(tmp_path)).name == "rsl_rl actor of model_100.pt"
    both = tmp_path / "exported"
    both.mkdir()
    for name in ("a.pt", "b.pt"):
        (both / name).write_bytes((FILES / "rsl5_plain.pt").read_bytes())
    with pytest.raises(LoadError, match=r"2 policy files \(a.pt, b.pt\); name one"):
        load_planner(str(both))


SKRL = """seed: 42
models:
  separate: false
  policy:
    class: GaussianMixin
    network:
    - name: net
      input: OBSERVATIONS
      layers:
      - 8
      - 6
      activations: elu
    output: ACTIONS
  value:
    class: DeterministicMixin
    network:
    - name: net
      activations: relu
"""
RL_GAMES = """params:
  seed: 42
  network:
    name: actor_critic
    space:
      continuous:
        mu_activation: None
        sigma_activation: None
    mlp:
      units: [8, 6]
      activation: elu
  config:
    clip_actions: false
"""


@pytest.mark.parametrize(
    ("file", "place", "settings"),
    [
        ("skrl2_shared.pt", "checkpoints/best_agent.pt", SKRL),
        ("skrl2_shared.pt", "checkpoints/agent_300.pt", SKRL),
        ("rlgames_mlp.pth", "nn/robot.pth", RL_GAMES),
    ],
)
def test_a_run_of_isaac_lab_needs_no_arguments(
    file: str, place: str, settings: str, tmp_path: Path
) -> None:
    """Settings are found from the folder of the checkpoints; the best or last one is taken."""
    for path in (place, "checkpoints/agent_99.pt", "nn/last_robot_ep_9.pth", "params/agent.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes((FILES / file).read_bytes())
    if "checkpoints" in place:
        (tmp_path / "checkpoints" / "agent_99.pt").write_bytes(b"older")
    else:
        (tmp_path / "nn" / "last_robot_ep_9.pth").write_bytes(b"later")
    (tmp_path / "params" / "agent.yaml").write_text(settings)
    planner = load_planner(str(tmp_path))
    assert planner.name.endswith(Path(place).name)
    known = np.load((FILES / file).with_suffix(".npz"))
    (answer,) = answers(planner, known["obs"])
    np.testing.assert_allclose(answer.mean, known["mean"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("told", "bounds"),
    [
        ("", (-20.0, 2.0)),
        ("min_log_std: -0.5\n    max_log_std: -0.2", (-0.5, -0.2)),
        ("max_log_std: -0.4", (-20.0, -0.4)),
        ("clip_log_std: false\n    min_log_std: 1.0", (-np.inf, np.inf)),
    ],
)
def test_the_deviation_is_clipped_as_the_run_says(
    told: str, bounds: tuple[float, float], tmp_path: Path
) -> None:
    """skrl keeps the bounds of the deviation's logarithm in the settings of the run."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "agent.yaml").write_text(
        SKRL.replace("    class: GaussianMixin\n", f"    class: GaussianMixin\n    {told}\n", 1)
    )
    found = torch.load(FILES / "skrl2_shared.pt", weights_only=True)
    log_std = found["policy"]["log_std_parameter"]
    log_std[:] = torch.linspace(-1.0, 3.0, len(log_std))
    torch.save(found, tmp_path / "agent_1.pt")
    planner = load_planner(tmp_path / "agent_1.pt")
    obs = np.load((FILES / "skrl2_shared.pt").with_suffix(".npz"))["obs"]
    (answer,) = answers(planner, obs[:4])
    assert np.allclose(answer.log_std, np.clip(log_std.numpy(), *bounds), atol=1e-6)


@pytest.mark.parametrize("told", ["min_log_std: 1.0\n    max_log_std: 0.0", "max_log_std: high"])
def test_bounds_of_a_deviation_that_are_none_are_refused(told: str, tmp_path: Path) -> None:
    """The file and both values are named."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "agent.yaml").write_text(
        SKRL.replace("    class: GaussianMixin\n", f"    class: GaussianMixin\n    {told}\n", 1)
    )
    (tmp_path / "agent_1.pt").write_bytes((FILES / "skrl2_shared.pt").read_bytes())
    with pytest.raises(
        LoadError, match=r"agent\.yaml: min_log_std and max_log_std of the policy are"
    ):
        load_planner(tmp_path / "agent_1.pt")


@pytest.mark.parametrize(
    ("file", "settings", "args"),
    [
        ("rsl5_plain.pt", "actor:\n  activation: elu\n  obs_normalization: true\n", {}),
        ("rsl3_gru.pt", "policy:\n  activation: elu\n  actor_obs_normalization: True\n", {}),
        ("rsl3_gru.pt", "empirical_normalization: true\npolicy:\n  activation: elu\n", {}),
        (
            "skrl2_plain.pt",
            "agent:\n  state_preprocessor: null\n  observation_preprocessor: RunningScaler\n",
            {"activation": "relu"},
        ),
        (
            "skrl1_plain.pt",
            "agent:\n  state_preprocessor: RunningStandardScaler\n",
            {"activation": "relu"},
        ),
        ("", "params:\n  config:\n    normalize_input: True\n", {"activation": "elu"}),
    ],
)
def test_a_normaliser_that_the_settings_promise_is_not_left_out(
    file: str, settings: str, args: dict[str, Any], tmp_path: Path
) -> None:
    """A checkpoint without it is refused unless the user says that there is none."""
    path = run_folder(tmp_path, file or "rlgames_mlp.pth", settings)
    if not file:
        model = load_checkpoint(path.read_bytes(), "x")["model"]
        model = {k: v for k, v in model.items() if "running_mean_std" not in k}
        torch.save({"model": model, "epoch": 1}, path)
    with pytest.raises(LoadError, match=r"agent\.yaml promises one.*normaliser=off"):
        load(path, **args)
    planner: Any = load(path, normaliser="off", **args)
    assert planner.policy.network.normaliser is None


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("rsl3_hetero.pt", "policy:\n  activation: elu\n  state_dependent_std: True\n"),
        (
            "rsl5_hetero.pt",
            "actor:\n  distribution_cfg: {class_name: HeteroscedasticGaussian, x: [1, 2]}  # one\n",
        ),
        ("rsl5_hetero.pt", "actor: {activation: elu, state_dependent_std: 'True'}\n"),
    ],
)
def test_a_deviation_of_its_own_is_told_by_the_settings_however_they_are_written(
    file: str, settings: str, tmp_path: Path
) -> None:
    """YAML's true has several spellings, and a mapping may stand on one line."""
    planner = load(run_folder(tmp_path, file, settings))
    known = np.load((FILES / file).with_suffix(".npz"))
    (answer, *_) = answers(planner, known["obs"])
    np.testing.assert_allclose(answer.mean, known["mean"][0], atol=1e-5)
    np.testing.assert_allclose(np.exp(answer.log_std), known["std"][0], atol=1e-5)


def test_a_distribution_that_is_not_read_is_refused(tmp_path: Path) -> None:
    """A class of one's own is not taken for none of rsl_rl's."""
    settings = "actor:\n  activation: elu\n  distribution_cfg: {class_name: Own, x: {y: 1}}\n"
    path = run_folder(tmp_path, "rsl5_hetero.pt", settings)
    with pytest.raises(LoadError, match=r"class_name is Own, .*distribution="):
        load(path)
    assert load(path, distribution="heteroscedastic").spec.obs.size == 5


@pytest.mark.parametrize(
    "settings",
    [
        "actor:\n  activation: elu\n  obs_normalization: !!bool true\n",
        "actor:\n  activation: elu\n  obs_normalization:\n    true\n",
        "actor:\n  activation: elu\n  obs_normalization : yes\n",
        "actor:\n  activation: elu\n  'obs_normalization': on\n",
        "{actor: {activation: elu, obs_normalization: true}}\n",
        "on: &on true\nactor:\n  activation: elu\n  obs_normalization: *on\n",
        "\ufeffactor:\n  activation: elu\n  obs_normalization: true\n",
    ],
)
def test_settings_are_read_however_yaml_lets_them_be_written(settings: str, tmp_path: Path) -> None:
    """What would be overlooked is a normaliser that is missing, or an activation."""
    path = run_folder(tmp_path, "rsl5_plain.pt", settings)
    with pytest.raises(LoadError, match="promises one"):
        load(path)
    run_folder(tmp_path, "rsl5_plain.pt", settings.replace("true", "off").replace("yes", "no"))
    if "on\n" not in settings:
        load_planner(str(path))


def test_settings_that_are_not_read_are_refused(tmp_path: Path) -> None:
    """What another mapping brings in is not left out."""
    settings = "base: &base\n  activation: elu\nactor:\n  <<: *base\n"
    path = run_folder(tmp_path, "rsl5_plain.pt", settings)
    with pytest.raises(LoadError, match=r"agent\.yaml, line 4: .*--planner-args"):
        load(path)


def test_a_skrl_run_whose_observations_have_no_preprocessor_needs_none(tmp_path: Path) -> None:
    """In skrl 2 the state's is not the policy's."""
    settings = "agent:\n  observation_preprocessor: null\n  state_preprocessor: Scaler\n"
    load(run_folder(tmp_path, "skrl2_plain.pt", settings), activation="relu")


def test_clipping_that_is_not_applied_is_announced(tmp_path: Path) -> None:
    """Isaac Lab's wrapper clips; the planner does not."""
    settings = "clip_actions: 1.5\nactor:\n  activation: elu\n"
    with pytest.warns(UserWarning, match=r"clip_actions of .*agent\.yaml is not applied"):
        load_planner(str(run_folder(tmp_path, "rsl5_plain.pt", settings)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activations: elu": "activations: [elu, relu]"}, "activations is elu, relu; one value"),
        ({"activations: elu": "activations: magic"}, "'magic' is not known"),
        ({"output: ACTIONS": "output: 5 * ACTIONS"}, r"output '5 \* ACTIONS' is not known"),
    ],
)
def test_settings_that_are_not_understood_are_named(
    changes: dict[str, str], said: str, tmp_path: Path
) -> None:
    """The file and the value are in the message."""
    text = SKRL
    for old, new in changes.items():
        text = text.replace(old, new)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "agent.yaml").write_text(text)
    (tmp_path / "agent_1.pt").write_bytes((FILES / "skrl2_shared.pt").read_bytes())
    with pytest.raises(LoadError, match=said) as caught:
        load(tmp_path / "agent_1.pt")
    assert "agent.yaml" in str(caught.value)
