"""Saves that are damaged, hostile, old, or for another environment."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agentkd import dists
from agentkd.errors import ConfigError, LoadError, NumbersError, RefError, SpecError, UnsafeError
from agentkd.planners import load_planner, load_policy
from agentkd.planners.sb3.vecnormalize import read_statistics
from agentkd.spec import Spec, env_spec
from tests.still import BOX, CHOICE, Env

VECTOR = spaces.Box(-2.0, 2.0, (3,), np.float32)


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def spec_of(observation: Any, action: Any) -> Spec:
    return env_spec(Env(observation, action))


@pytest.fixture
def save(tmp_path: Path) -> Path:
    """A save of A2C for three numbers and three choices."""
    path = tmp_path / "planner.zip"
    A2C("MlpPolicy", Env(VECTOR, CHOICE), policy_kwargs={"net_arch": [4]}).save(path)
    return path


def rewrite(path: Path, entry: str, change: Callable[[bytes], bytes]) -> None:
    """Change one entry of a save."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    entries[entry] = change(entries[entry])
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


def with_data(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON of a save."""

    def edit(raw: bytes) -> bytes:
        data = json.loads(raw)
        change(data)
        return json.dumps(data).encode()

    rewrite(path, "data", edit)


def with_weights(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the weights of a save."""

    def edit(raw: bytes) -> bytes:
        state = dict(torch.load(io.BytesIO(raw), weights_only=True))
        buffer = io.BytesIO()
        torch.save(change(state), buffer)
        return buffer.getvalue()

    rewrite(path, "policy.pth", edit)


# Hostile files


def test_a_hostile_save_runs_nothing(save: Path, tmp_path: Path) -> None:
    """Pickles beside the readable items are never read, whatever they hold."""
    trap = tmp_path / "trap"
    poison = base64.b64encode(pickle.dumps(Hostile(trap))).decode()

    def poisoned(data: dict[str, Any]) -> None:
        for item in data.values():
            if isinstance(item, dict) and ":serialized:" in item:
                item[":serialized:"] = poison
        data["surprise"] = {":type:": "<class 'dict'>", ":serialized:": poison}

    with_data(save, poisoned)
    assert load_planner(str(save)).name == "A2C"
    assert not trap.exists()


def test_a_hostile_space_is_refused(tmp_path: Path) -> None:
    """Where a space's pickle is needed, it is read inertly, and refused if hostile."""
    space = spaces.Dict({"a": VECTOR})
    path, trap = tmp_path / "p.zip", tmp_path / "trap"
    A2C("MultiInputPolicy", Env(space, CHOICE)).save(path)
    poison = base64.b64encode(pickle.dumps(Hostile(trap))).decode()

    def poisoned(data: dict[str, Any]) -> None:
        data["observation_space"][":serialized:"] = poison

    with_data(path, poisoned)
    with pytest.raises(UnsafeError, match=r"posix\.mkdir|os\.mkdir"):
        load_planner(str(path))
    assert not trap.exists()


def test_hostile_weights_are_refused(save: Path, tmp_path: Path) -> None:
    """Weights that are more than tensors run nothing."""
    trap = tmp_path / "trap"
    with_weights(save, lambda state: {**state, "x": Hostile(trap)})
    with pytest.raises(UnsafeError, match="more than plain tensors"):
        load_planner(str(save))
    assert not trap.exists()


def normalised(folder: Path) -> Path:
    """Write VecNormalize statistics."""
    wrapper = VecNormalize(DummyVecEnv([lambda: Env(VECTOR, CHOICE)]))
    wrapper.reset()
    path = folder / "vecnormalize.pkl"
    wrapper.save(str(path))
    return path


def test_hostile_statistics_are_refused(save: Path, tmp_path: Path) -> None:
    """A vecnormalize.pkl that names anything but statistics is refused by name."""
    trap = tmp_path / "trap"
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(UnsafeError, match=r"mkdir.*allow_pickle=True, --unpickle"):
        load_planner(str(save))
    assert not trap.exists()


def test_unpickling_has_to_be_allowed_by_name(tmp_path: Path) -> None:
    """Allowed, a file's code does run: that is what the flag says."""
    trap, path = tmp_path / "trap", tmp_path / "v.pkl"
    path.write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(UnsafeError):
        read_statistics(path)
    assert not trap.exists()
    with pytest.raises(LoadError, match="holds a NoneType"):
        read_statistics(path, allow_pickle=True)
    assert trap.exists()
    with pytest.raises(LoadError, match="could not be unpickled"):
        read_statistics(path, allow_pickle=True)  # the folder exists by now


def test_statistics_with_nan_are_refused(tmp_path: Path) -> None:
    """NaN in the statistics would be NaN in every observation."""
    wrapper = VecNormalize(DummyVecEnv([lambda: Env(VECTOR, CHOICE)]))
    rms: Any = wrapper.obs_rms
    rms.mean[1] = np.nan
    wrapper.save(str(tmp_path / "v.pkl"))
    with pytest.raises(NumbersError, match="NaN"):
        read_statistics(tmp_path / "v.pkl")


def test_another_pickle_is_not_statistics(tmp_path: Path) -> None:
    """A file of something else is named as what it is."""
    (tmp_path / "v.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(LoadError, match="holds a list, not VecNormalize"):
        read_statistics(tmp_path / "v.pkl")
    with pytest.raises(LoadError, match="cannot be read"):
        read_statistics(tmp_path / "none.pkl")


def test_statistics_of_another_environment(tmp_path: Path) -> None:
    """Statistics of three numbers do not fit four."""
    path = tmp_path / "planner.zip"
    four = spaces.Box(-1.0, 1.0, (4,), np.float32)
    A2C("MlpPolicy", Env(four, CHOICE)).save(path)
    normalised(tmp_path)
    with pytest.raises(SpecError, match=r"shape \(3,\).*\(4,\)"):
        load_planner(str(path))


# Damaged files


def test_a_missing_file(tmp_path: Path) -> None:
    """A path that leads nowhere is said with the path."""
    with pytest.raises(LoadError, match=r"No file .*none\.zip"):
        load_planner(str(tmp_path / "none.zip"))
    with pytest.raises(LoadError, match=r"No \.zip in"):
        load_planner(str(tmp_path))
    with pytest.raises(RefError, match="No planner 'whatever'"):
        load_planner("whatever")


def test_an_empty_file(tmp_path: Path) -> None:
    """An empty file is said to be empty."""
    (tmp_path / "p.zip").touch()
    with pytest.raises(LoadError, match="is empty"):
        load_planner(str(tmp_path / "p.zip"))


def test_no_zip(tmp_path: Path) -> None:
    """A file that is no zip says so, and what to do."""
    (tmp_path / "p.zip").write_bytes(b"hello" * 100)
    with pytest.raises(LoadError, match=r"neither a save.*which is a zip.*Copy"):
        load_planner(str(tmp_path / "p.zip"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short(share: float, save: Path) -> None:
    """A download that broke off is not half-read."""
    raw = save.read_bytes()
    save.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(LoadError, match="cut short"):
        load_planner(str(save))


def test_a_flipped_byte(save: Path) -> None:
    """A damaged entry is found by its checksum."""
    raw = bytearray(save.read_bytes())
    with zipfile.ZipFile(save) as file:
        start = file.getinfo("policy.pth").header_offset
    raw[start + 400] ^= 0xFF
    save.write_bytes(bytes(raw))
    with pytest.raises(LoadError, match=r"cut short|damaged"):
        load_planner(str(save))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["data", "parameters", "parameter_list"], "TensorFlow"),
        (["archive/data.pkl"], "a file of torch.save"),
        (["a.txt"], "a zip with 'a.txt' in it"),
        ([], "a zip with nothing in it"),
        (["data"], "a zip with 'data' in it"),
    ],
)
def test_other_zips(names: list[str], said: str, tmp_path: Path) -> None:
    """What the zip is instead of a save is said."""
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for name in names:
            file.writestr(name, "{}")
    with pytest.raises(LoadError, match=said):
        load_planner(str(tmp_path / "p.zip"))


@pytest.mark.parametrize(("content", "said"), [(b"{", "not JSON"), (b"[]", "not a JSON object")])
def test_damaged_json(content: bytes, said: str, save: Path) -> None:
    """JSON that is none is named."""
    rewrite(save, "data", lambda _: content)
    with pytest.raises(LoadError, match=said):
        load_planner(str(save))


def test_too_large(save: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that would fill the memory is not unpacked."""
    monkeypatch.setattr("agentkd.planners.sb3.file.LIMIT_WEIGHTS", 100)
    with pytest.raises(LoadError, match="at most 100 are read"):
        load_planner(str(save))


def test_damaged_weights(save: Path) -> None:
    """Weights that are none are named."""
    rewrite(save, "policy.pth", lambda _: b"\x80\x02garbage")
    with pytest.raises(LoadError, match=r"policy\.pth"):
        load_planner(str(save))
    with_weights_of = io.BytesIO()
    torch.save([1, 2], with_weights_of)
    rewrite(save, "policy.pth", lambda _: with_weights_of.getvalue())
    with pytest.raises(LoadError, match="holds a list"):
        load_planner(str(save))


def test_weights_with_nan(save: Path) -> None:
    """A diverged training is said to be one."""
    with_weights(save, lambda s: {**s, "action_net.bias": torch.full((3,), np.nan)})
    with pytest.raises(NumbersError, match=r"action_net\.bias.*NaN.*diverged"):
        load_planner(str(save))


@pytest.mark.parametrize("item", ["observation_space", "action_space"])
def test_spaces_that_are_missing_or_damaged(item: str, save: Path) -> None:
    """A save without a readable space says which."""
    with_data(save, lambda data: data[item].update({":type:": "x", ":serialized:": ""}))
    with pytest.raises(LoadError, match=item):
        load_planner(str(save))
    with_data(save, lambda data: data.pop(item))
    with pytest.raises(LoadError, match=item):
        load_planner(str(save))


def test_missing_and_foreign_weights(save: Path) -> None:
    """Weights are neither made up nor left out."""
    with_weights(save, lambda s: {**s, "attention.weight": torch.ones(2, 2)})
    with pytest.raises(LoadError, match=r"attention\.weight.*module:function"):
        load_planner(str(save))
    with_weights(save, lambda s: {k: v for k, v in s.items() if k[:3] not in ("act", "att")})
    with pytest.raises(LoadError, match=r"no weights 'action_net\.weight'"):
        load_planner(str(save))


# Other algorithms and environments


def test_the_algorithm_that_was_asked_for(save: Path) -> None:
    """A save of another algorithm says of which; a wrong name suggests the nearest."""
    with pytest.raises(LoadError, match="is a save of A2C, not of SAC"):
        load_planner(str(save), algorithm="SAC")
    with pytest.raises(ConfigError, match="Did you mean 'PPO'"):
        load_planner(str(save), algorithm="PPOO")
    assert load_planner(str(save), algorithm="a2c").name == "A2C"


def test_other_observations(save: Path) -> None:
    """Both shapes are said, and what to do; a stack of frames is suspected."""
    others = {n: spec_of(spaces.Box(-1.0, 1.0, (n,), np.float32), CHOICE) for n in (1, 2, 4)}
    with pytest.raises(SpecError, match=r"\(3,\).*\(4,\).*wrappers"):
        load_planner(str(save), others[4])
    with pytest.raises(SpecError, match="3 frames stacked"):
        load_planner(str(save), others[1])
    with pytest.raises(SpecError, match="have seen the time"):
        load_planner(str(save), others[2])
    with pytest.raises(SpecError, match="discrete"):
        load_planner(str(save), spec_of(spaces.Discrete(4), CHOICE))


@pytest.mark.parametrize("action", [BOX, spaces.Discrete(4), spaces.MultiBinary(3)])
def test_other_actions(action: Any, save: Path) -> None:
    """Actions of another kind or number are refused."""
    with pytest.raises(SpecError, match="trained in another environment"):
        load_planner(str(save), spec_of(VECTOR, action))


def test_other_bounds(tmp_path: Path) -> None:
    """A squashed planner in an environment with other bounds would act otherwise."""
    path = tmp_path / "p.zip"
    SAC("MlpPolicy", Env(VECTOR, BOX), policy_kwargs={"net_arch": [4]}).save(path)
    wide = spaces.Box(-2.0, 2.0, (2,), np.float32)
    with pytest.raises(SpecError, match="RescaleAction"):
        load_planner(str(path), spec_of(VECTOR, wide))
    three = spaces.Box(-2.0, 2.0, (3,), np.float32)
    with pytest.raises(SpecError, match="gives 2 numbers"):
        load_planner(str(path), spec_of(VECTOR, three))


def test_two_saves_in_a_folder(save: Path, tmp_path: Path) -> None:
    """planner.zip goes first; without it one of several has to be named."""
    save.rename(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(b"")  # cut short, perhaps
    with pytest.raises(LoadError, match=r"2 saves \(a\.zip, b\.zip\); name one"):
        load_planner(str(tmp_path))
    (tmp_path / "a.zip").rename(tmp_path / "planner.zip")
    assert load_planner(str(tmp_path)).name == "A2C"


# Old saves


def test_a_save_that_names_the_old_gym(save: Path) -> None:
    """Spaces of the package gym, with its older items, are understood."""

    def aged(data: dict[str, Any]) -> None:
        for key in ("observation_space", "action_space"):
            item = data[key]
            item[":type:"] = item[":type:"].replace("gymnasium", "gym")
            item["shape"] = item.pop("_shape")
            item[":serialized:"] = base64.b64encode(b"cgym.spaces\nX\n.").decode()
        data["action_space"].pop("start")

    with_data(save, aged)
    assert load_planner(str(save)).spec == spec_of(VECTOR, CHOICE)


def test_layers_shared_with_the_value(save: Path) -> None:
    """Saves from before SB3 1.8 may share layers; they come before the policy's."""
    before: Any = load_policy(str(save))

    def shared(state: dict[str, Any]) -> dict[str, Any]:
        named = ("mlp_extractor.policy_net.", "mlp_extractor.shared_net.")
        return {name.replace(*named): value for name, value in state.items()}

    obs = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    expected = dists.pack(before(obs))
    with_weights(save, shared)
    after: Any = load_policy(str(save))
    np.testing.assert_array_equal(dists.pack(after(obs)), expected)


def test_an_extractor_that_was_saved_once(tmp_path: Path) -> None:
    """Saves from before SB3 1.7 hold the policy's extractor under its old name only."""
    path, image = tmp_path / "p.zip", spaces.Box(0, 255, (36, 36, 1), np.uint8)
    small = {"features_extractor_kwargs": {"features_dim": 8}}
    A2C("CnnPolicy", Env(image, CHOICE), policy_kwargs=small).save(path)
    obs = np.random.default_rng(0).integers(0, 256, (3, 36 * 36)).astype(np.float32)
    before: Any = load_policy(str(path))
    expected = dists.pack(before(obs))
    late = ("pi_features_extractor.", "vf_features_extractor.")
    with_weights(path, lambda s: {k: v for k, v in s.items() if not k.startswith(late)})
    after: Any = load_policy(str(path))
    np.testing.assert_array_equal(dists.pack(after(obs)), expected)


def test_options_of_old_versions(tmp_path: Path) -> None:
    """net_arch as a list with a dictionary, and a device, as it was, do no harm."""
    path = tmp_path / "p.zip"
    arch = {"net_arch": {"pi": [4], "vf": [4]}}
    PPO("MlpPolicy", Env(VECTOR, BOX), policy_kwargs=arch, n_steps=8, batch_size=8).save(path)
    old = {"net_arch": [arch["net_arch"]], "device": "cpu"}
    with_data(path, lambda d: d.update(policy_kwargs=old))
    assert load_planner(str(path)).parameters == 3 * 4 + 4 + 4 * 2 + 2 + 2


# Classes of the user's own


def test_allowing_to_unpickle_changes_nothing_where_it_is_not_needed(
    save: Path, tmp_path: Path
) -> None:
    """Unpickling is a last resort: a save that can be read safely is."""
    trap = tmp_path / "trap"
    poison = base64.b64encode(pickle.dumps(Hostile(trap))).decode()
    with_data(save, lambda d: d.update(x={":type:": "", ":serialized:": poison}))
    load_planner(str(save), allow_pickle=True)
    assert not trap.exists()
