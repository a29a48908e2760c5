"""Minari datasets, laid out as Minari 0.5 writes them."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.distillation import run_distillation
from agentkd.distillation.minari import read_minari
from agentkd.distillation.offline import open_dataset
from agentkd.dists import mode
from agentkd.errors import ConfigError, LoadError, SpecError
from agentkd.spec import BoxSpec, MultiDiscreteSpec, obs_spec
from agentkd.types import Categorical, MultiCategorical, Point

h5py: Any = pytest.importorskip("h5py")

BOX = {"type": "Box", "dtype": "float32", "shape": [4], "low": [-9.0] * 4}
BOX["high"] = [9.0] * 4
CHOICE = {"type": "Discrete", "dtype": "int64", "start": 0, "n": 2}


def lay_out(
    folder: Path,
    episodes: list[dict[str, Any]],
    obs: dict[str, Any] = BOX,
    action: dict[str, Any] = CHOICE,
    **more: Any,
) -> Path:
    """Write episodes as Minari does; a dictionary becomes a group."""
    data = folder / "data"
    data.mkdir(parents=True)
    metadata = {
        "data_format": "hdf5",
        "observation_space": json.dumps(obs),
        "action_space": json.dumps(action),
        "env_spec": json.dumps({"id": "CartPole-v1"}),
        "dataset_id": "test/one-v0",
        "algorithm_name": "rule",
        **more,
    }
    (data / "metadata.json").write_text(json.dumps(metadata))

    def put(group: Any, name: str, value: Any) -> None:
        if isinstance(value, dict):
            inner = group.create_group(name)
            for key, each in value.items():
                put(inner, key, each)
        else:
            group.create_dataset(name, data=value)

    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for index, episode in enumerate(episodes):
            group = file.create_group(f"episode_{index}")
            for name, value in episode.items():
                put(group, name, value)
    return folder


def episode(steps: int, seed: int, *, truncated: bool = False) -> dict[str, Any]:
    """An episode whose action is whether the third number is above zero."""
    obs = np.random.default_rng(seed).standard_normal((steps + 1, 4))
    last = np.arange(steps) == steps - 1
    return {
        "observations": obs.astype(np.float32),
        "actions": (obs[:-1, 2] > 0).astype(np.int64),
        "rewards": np.ones(steps),
        "terminations": last & (not truncated),
        "truncations": last & truncated,
    }


def test_recorded_actions_become_labels(tmp_path: Path) -> None:
    """One label a step: the last observation has no action and is none."""
    path = lay_out(tmp_path / "one", [episode(3, 0), episode(2, 1, truncated=True)])
    dataset = open_dataset(path)
    assert (dataset.labels, dataset.episodes, dataset.parts) == (5, 2, 1)
    assert (dataset.about.env, dataset.about.planner) == ("CartPole-v1", "rule")
    assert dataset.about.planner_returns == (3.0, 2.0)
    rows = dataset.part(0)
    assert isinstance(rows.dist, Categorical)
    chosen = mode(rows.dist, dataset.about.spec.action)
    assert np.array_equal(chosen, rows.obs[:, 2] > 0)
    assert rows.episode.tolist() == [0, 0, 0, 1, 1]
    assert rows.ended.tolist() == [0, 0, 1, 0, 2]


def test_an_executor_is_distilled_from_recorded_actions(tmp_path: Path) -> None:
    """Hard labels are enough to find what decides."""
    path = lay_out(tmp_path / "one", [episode(40, seed) for seed in range(40)])
    result = run_distillation(data=open_dataset(path), executor="mlp:16", steps=400, every=0.0)
    assert result.history[-1].agreement > 0.9
    assert result.labels == 38 * 40


def test_parts_are_taken_by_their_names(tmp_path: Path) -> None:
    """The order of a dictionary's parts is the environment's, whatever the file's."""
    import gymnasium as gym

    one = episode(2, 0)
    flat = one["observations"]
    one["observations"] = {"b": flat[:, :3], "a": np.array([2, 0, 1])}
    three = {**BOX, "shape": [3], "low": [-9.0] * 3, "high": [9.0] * 3}
    inner = {"b": three, "a": {**CHOICE, "n": 3}}
    path = lay_out(tmp_path / "one", [one], {"type": "Dict", "subspaces": inner})
    own = open_dataset(path).part(0).obs
    assert np.allclose(own, np.hstack([flat[:2, :3], [[0, 0, 1], [1, 0, 0]]]))
    space = gym.spaces.Dict(
        {"a": gym.spaces.Discrete(3), "b": gym.spaces.Box(-9, 9, (3,), np.float32)}
    )
    from dataclasses import replace

    spec = replace(open_dataset(path).about.spec, obs=obs_spec(space))
    turned = read_minari(path, spec=spec).part(0).obs
    assert np.allclose(turned, np.hstack([own[:, 3:], own[:, :3]]))


def test_boxes_become_points_and_several_choices_several(tmp_path: Path) -> None:
    """Each kind of action has its kind of label."""
    one = episode(3, 0)
    one["actions"] = np.array([[0.5, -2.0]] * 3, np.float32)
    bounds = {"low": [-3.0, -3.0], "high": [3.0, 3.0]}
    box = {"type": "Box", "dtype": "float32", "shape": [2], **bounds}
    dataset = open_dataset(lay_out(tmp_path / "box", [one], action=box))
    assert isinstance(dataset.about.spec.action, BoxSpec)
    dist = dataset.part(0).dist
    assert isinstance(dist, Point)
    assert dataset.kind == "point"
    assert dist.action.tolist() == one["actions"].tolist()
    one["actions"] = np.array([[1, 2]] * 3)
    several = {"type": "MultiDiscrete", "dtype": "int64", "nvec": [2, 3]}
    several["start"] = [0, 0]
    dataset = open_dataset(lay_out(tmp_path / "several", [one], action=several))
    assert isinstance(dataset.about.spec.action, MultiDiscreteSpec)
    assert isinstance(dataset.part(0).dist, MultiCategorical)
    assert mode(dataset.part(0).dist, dataset.about.spec.action).tolist() == [[1, 2]] * 3


def test_many_episodes_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes stay whole, and no part is larger than asked for."""
    monkeypatch.setattr("agentkd.distillation.minari._PART", 10)
    path = lay_out(tmp_path / "one", [episode(n, n) for n in (4, 6, 7, 3, 12, 1)])
    dataset = open_dataset(path)
    parts = [dataset.part(index) for index in range(dataset.parts)]
    assert [len(rows) for rows in parts] == [10, 10, 12, 1]


def test_nothing_outside_of_the_file_is_followed(tmp_path: Path) -> None:
    """A link to another file is refused, not read."""
    other = tmp_path / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.zeros((4, 4), np.float32)
    path = lay_out(tmp_path / "one", [episode(3, 0)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = h5py.ExternalLink(str(other), "secret")
    with pytest.raises(LoadError, match="another file"):
        open_dataset(path).part(0)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"data_format": "arrow"}, "arrow"),
        ({"action_space": "{}"}, "no Minari dataset"),
        ({"observation_space": json.dumps({"type": "Text"})}, "not supported"),
    ],
)
def test_what_is_not_read_is_named(more: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Other formats, damaged descriptions and strange spaces are told apart."""
    from agentkd.errors import AgentkdError

    with pytest.raises(AgentkdError, match=reason):
        open_dataset(lay_out(tmp_path / "one", [episode(3, 0)], **more))


def test_pictures_that_were_compressed_are_refused(tmp_path: Path) -> None:
    """The policy saw pixels; a JPEG of them is something else."""
    image: dict[str, Any] = {"type": "Box", "dtype": "uint8", "shape": [32, 32, 3]}
    image["low"] = np.zeros((32, 32, 3), int).tolist()
    image["high"] = np.full((32, 32, 3), 255).tolist()
    path = lay_out(tmp_path / "one", [episode(3, 0)], image)
    with pytest.raises(LoadError, match="JPEG"):
        open_dataset(path)


def test_a_truncated_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """A download that broke off is named, without a traceback of HDF5's."""
    path = lay_out(tmp_path / "one", [episode(3, 0)])
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(LoadError, match="no Minari dataset"):
        open_dataset(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """HDF5 would wait for whoever writes into it."""
    path = lay_out(tmp_path / "one", [episode(3, 0)])
    file = path / "data" / "main_data.hdf5"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(LoadError, match="not a regular file"):
        open_dataset(path)


def test_each_array_is_read_once(tmp_path: Path) -> None:
    """Names cost a few bytes each: what they name together may be a million times the file."""
    path = lay_out(tmp_path / "one", [episode(3, 0)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_1"] = file["episode_0"]
    with pytest.raises(LoadError, match="rewards of another episode"):
        open_dataset(path)
    one = episode(3, 0)
    one["observations"] = {"a": one["observations"]}
    inner = {"type": "Dict", "subspaces": {"a": BOX}}
    path = lay_out(tmp_path / "two", [one], inner)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        group = file["episode_0/observations"]
        group["b"] = group  # would be gone into for ever
        group["b/c"] = group["a"]
    assert open_dataset(path).part(0).obs.shape == (3, 4)


def test_an_array_that_was_not_written_is_refused(tmp_path: Path) -> None:
    """It claims numbers that no byte of the file holds."""
    path = lay_out(tmp_path / "one", [episode(3, 0)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file.create_dataset("episode_0/rewards", (100_000,), "f8")
    with pytest.raises(LoadError, match="0 bytes are stored"):
        open_dataset(path)


def test_bounds_of_texts_take_no_memory(tmp_path: Path) -> None:
    """A dtype of a few letters would give each bound a gigabyte."""
    path = lay_out(tmp_path / "one", [episode(3, 0)], {**BOX, "dtype": "S1000000000"})
    with pytest.raises(SpecError, match="is not of numbers"):
        open_dataset(path)


def test_without_h5py_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it is in the message."""

    def missing(name: str) -> Any:
        if name == "h5py":
            raise ModuleNotFoundError(name=name)
        return import_module(name)

    monkeypatch.setattr("agentkd.distillation.minari.import_module", missing)
    with pytest.raises(ConfigError, match=r"agentkd\[minari\]"):
        open_dataset(lay_out(tmp_path / "one", [episode(3, 0)]))
