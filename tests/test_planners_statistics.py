"""Where VecNormalize statistics lie, and whether they belong to a save."""

from __future__ import annotations

import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agentkd import dists
from agentkd.cli.main import main
from agentkd.errors import ConfigError, LoadError, SpecError, StatisticsError
from agentkd.planners import load_planner
from agentkd.planners.sb3.file import read_save
from agentkd.planners.sb3.locate import find_save, find_statistics, kind_of, saw_normalised
from agentkd.planners.sb3.vecnormalize import Statistics, normaliser, read_statistics
from agentkd.spec import obs_spec
from agentkd.types import Floats
from tests.sb3_algorithms import ALGORITHMS


class Far(gym.Env[Any, Any]):
    """Observations far from zero, so that a normaliser matters."""

    def __init__(self, action: Any, *, named: bool = False) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.named = named
        self.observation_space: Any = spaces.Dict({"a": box}) if named else box
        self.action_space = action
        self.ticks = 0

    def _seen(self) -> Any:
        drawn = self.np_random.normal(size=3) * [3, 0.1, 20] + [50, 7, -300]
        seen = drawn.astype(np.float32)
        return {"a": seen} if self.named else seen

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.ticks = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.ticks += 1
        return self._seen(), 0.0, False, self.ticks >= 5, {}


def trained(
    name: str, *, wrapped: bool = True, named: bool = False, **options: Any
) -> tuple[Any, VecNormalize]:
    """A model that learnt for some ticks, behind VecNormalize if it is `wrapped`."""
    kind, more = ALGORITHMS[name]
    choosing = name in ("DQN", "QRDQN")
    action: Any = spaces.Discrete(3) if choosing else spaces.Box(-1.0, 1.0, (2,))
    plain = DummyVecEnv([lambda: Far(action, named=named)])
    plain.seed(0)
    venv = VecNormalize(plain, **options)
    policy = "MultiInput" if named else "Mlp"
    policy += "LstmPolicy" if name == "RecurrentPPO" else "Policy"
    env = venv if wrapped else plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arch: Any = {} if name == "RecurrentPPO" else {"net_arch": [4]}
        model = kind(policy, env, policy_kwargs=arch, seed=0, device="cpu", **more)
        model.learn(16)
    return model, venv


@pytest.fixture(scope="module")
def sac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sac.zip, its statistics as stats.pkl, and what is right."""
    folder = tmp_path_factory.mktemp("sac")
    model, venv = trained("SAC")
    model.save(folder / "sac.zip")
    venv.save(str(folder / "stats.pkl"))
    wanted, _ = model.predict(venv.normalize_obs(RAW), deterministic=True)
    np.save(folder / "wanted.npy", wanted)
    return folder


RAW = np.random.default_rng(1).normal(size=(9, 3)) * [3, 0.1, 20] + [50, 7, -300]
RAW = RAW.astype(np.float32)


def actions(ref: str | Path, **options: Any) -> Floats:
    """What a planner does for raw observations."""
    planner: Any = load_planner(str(ref), **options)
    return dists.mode(planner.policy(RAW), planner.spec.action)


PLACES = [
    ("planner.zip", "vecnormalize.pkl", "."),
    ("sac-Env-v0.zip", "vec_normalize.pkl", "."),
    ("sac-Env-v0.zip", "vec_normalize.pkl", "sac-Env-v0.zip"),
    ("agent_v1.0", "vecnormalize.pkl", "agent_v1.0"),
    ("agent_v1.0", "agent_v1.0_vecnormalize.pkl", "agent_v1.0"),
    ("agent.pkl", "vec_normalize.pkl", "agent.pkl"),
    ("Env-v0.zip", "Env-v0/vecnormalize.pkl", "."),
    ("Env-v0.zip", "Env-v0/vecnormalize.pkl", "Env-v0"),
    ("Env-v0.zip", "Env-v0/vec_normalize.pkl", "Env-v0.zip"),
    ("best_model.zip", "best_model_vecnormalize.pkl", "."),
    ("rl_model_900_steps.zip", "rl_model_vecnormalize_900_steps.pkl", "."),
    ("rl_model_900_steps.zip", "vecnormalize_900_steps.pkl", "rl_model_900_steps"),
    ("final_model.zip", "vec_normalize_final.pkl", "final_model"),
    ("model.zip", "VecNormalize.pkl", "model.zip"),
    ("model.zip", "vec-normalize.pickle", "model.zip"),
    ("model.zip", "vecnormalize", "model.zip"),
    ("model.zip", "stats.pkl", "model.zip"),
    ("model.zip", "vec_env.pkl", "model.zip"),
    ("model.zip", "model.pkl", "model.zip"),
]


@pytest.mark.parametrize(("save", "statistics", "ref"), PLACES)
def test_statistics_are_found(
    save: str, statistics: str, ref: str, sac: Path, tmp_path: Path
) -> None:
    """Beside each kind of save the names that people use are found."""
    shutil.copy(sac / "sac.zip", tmp_path / save)
    (tmp_path / statistics).parent.mkdir(exist_ok=True)
    shutil.copy(sac / "stats.pkl", tmp_path / statistics)
    np.testing.assert_allclose(actions(tmp_path / ref), np.load(sac / "wanted.npy"), atol=1e-5)


@pytest.mark.parametrize("made_by", ["Env-v0.zip", "Env-v0/config.yml"])
def test_the_zoos_best_model_has_the_environments_statistics(
    made_by: str, sac: Path, tmp_path: Path
) -> None:
    """best_model.zip is beside ENV/vecnormalize.pkl, before and after the training."""
    (tmp_path / "Env-v0").mkdir()
    shutil.copy(sac / "stats.pkl", tmp_path / "Env-v0" / "vecnormalize.pkl")
    shutil.copy(sac / "sac.zip", tmp_path / "best_model.zip")
    shutil.copy(sac / "sac.zip", tmp_path / made_by)
    wanted = np.load(sac / "wanted.npy")
    np.testing.assert_allclose(actions(tmp_path), wanted, atol=1e-5)


def test_a_checkpoint_prefers_its_own(sac: Path, tmp_path: Path) -> None:
    """Its own step's statistics go first; those of another step are not taken."""
    save = tmp_path / "rl_model_900_steps.zip"
    shutil.copy(sac / "sac.zip", save)
    for name in ("rl_model_vecnormalize_90_steps.pkl", "vecnormalize.pkl"):
        (tmp_path / name).write_bytes(b"stable_baselines3 vec_normalize, another")
    own = tmp_path / "rl_model_vecnormalize_900_steps.pkl"
    shutil.copy(sac / "stats.pkl", own)
    assert find_statistics(save).own == own
    own.unlink()
    assert find_statistics(save).late
    shutil.copy(sac / "stats.pkl", tmp_path / "vecnormalize.pkl")
    with pytest.warns(UserWarning, match="no VecNormalize statistics of its own step"):
        actions(save)
    (tmp_path / "vecnormalize.pkl").unlink()
    assert find_statistics(save).own is None
    with pytest.warns(UserWarning, match="rl_model_vecnormalize_90_steps"):
        actions(save)


def test_statistics_of_another_save_are_not_taken(sac: Path, tmp_path: Path) -> None:
    """a_vecnormalize.pkl belongs to a.zip, not to a_big.zip beside it."""
    for name in ("a.zip", "a_big.zip"):
        shutil.copy(sac / "sac.zip", tmp_path / name)
    shutil.copy(sac / "stats.pkl", tmp_path / "a_vecnormalize.pkl")
    actions(tmp_path / "a.zip")
    with pytest.warns(UserWarning, match="a_vecnormalize"):
        actions(tmp_path / "a_big.zip")


def test_statistics_that_differ_are_not_chosen_from(sac: Path, tmp_path: Path) -> None:
    """Two files that belong to a save alike are refused, unless they are the same."""
    shutil.copy(sac / "sac.zip", tmp_path / "model.zip")
    for name in ("vecnormalize.pkl", "vec_normalize.pkl"):
        shutil.copy(sac / "stats.pkl", tmp_path / name)
    actions(tmp_path)
    (tmp_path / "vec_normalize.pkl").write_bytes(b"others")
    with pytest.raises(LoadError, match=r"Several statistics.*--vecnormalize"):
        actions(tmp_path)
    named = actions(tmp_path, vecnormalize=str(tmp_path / "vecnormalize.pkl"))
    np.testing.assert_allclose(named, np.load(sac / "wanted.npy"), atol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_tells_that_statistics_are_missing(name: str, tmp_path: Path) -> None:
    """What a save keeps of its last observations tells whether they were normalised."""
    model, _ = trained(name)
    path = tmp_path / "model.zip"
    model.save(path)
    assert saw_normalised(read_save(path).data) in ("yes", "probably")
    with pytest.warns(UserWarning, match=r"VecNormalize.*--vecnormalize.*'off'"):
        load_planner(str(path))
    load_planner(str(path), vecnormalize="off")
    raw, _ = trained(name, wrapped=False)
    raw.save(path)
    assert saw_normalised(read_save(path).data) in ("no", "unknown")
    load_planner(str(path))


def test_a_dictionary_tells_too(tmp_path: Path) -> None:
    """Of observations in parts the save keeps every part."""
    model, _ = trained("SAC", named=True)
    model.save(tmp_path / "model.zip")
    assert saw_normalised(read_save(tmp_path / "model.zip").data) == "probably"


def test_normalised_rewards_alone_are_no_fault(tmp_path: Path) -> None:
    """An off-policy save tells that only its rewards were normalised."""
    model, venv = trained("SAC", norm_obs=False)
    path = tmp_path / "model.zip"
    model.save(path)
    load_planner(str(path))
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    load_planner(str(path))


def test_statistics_that_cannot_be_its_own_are_refused(sac: Path, tmp_path: Path) -> None:
    """A planner that saw raw observations is not normalised by what lies there."""
    raw, _ = trained("SAC", wrapped=False)
    path = tmp_path / "model.zip"
    raw.save(path)
    beside = tmp_path / "vecnormalize.pkl"
    shutil.copy(sac / "stats.pkl", beside)
    with pytest.raises(ConfigError, match=r"as they are.*--vecnormalize off"):
        actions(path)
    wanted, _ = raw.predict(RAW, deterministic=True)
    np.testing.assert_allclose(actions(path, vecnormalize="off"), wanted, atol=1e-5)
    with pytest.warns(StatisticsError, match=r"used, as you said.*--vecnormalize\) out"):
        assert not np.allclose(actions(path, vecnormalize=str(beside)), wanted)


def test_an_ensemble_may_be_raw(tmp_path: Path) -> None:
    """The word "off" holds for each member; a file cannot."""
    for seed, name in enumerate(("a.zip", "b.zip")):
        trained("SAC", gamma=0.9 + seed / 100)[0].save(tmp_path / name)
    refs = [str(tmp_path / "a.zip"), str(tmp_path / "b.zip")]
    load_planner(refs, vecnormalize="off")
    with pytest.raises(ConfigError, match="a_vecnormalize"):
        load_planner(refs, vecnormalize="x.pkl")


def test_commands_refuse_a_save_without_its_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line it is an error, until an option says otherwise."""
    model, _ = trained("A2C")
    path = tmp_path / "model.zip"
    model.save(path)
    out = tmp_path / "executor.akd"
    assert main(["freeze", str(path), "--out", str(out)]) != 0
    assert "--vecnormalize" in capsys.readouterr().err
    assert not out.exists()
    assert main(["freeze", str(path), "--out", str(out), "--vecnormalize", "off"]) == 0
    assert out.is_file()


def test_other_zips_of_the_hub_are_no_saves(sac: Path, tmp_path: Path) -> None:
    """A zip of something else beside the save is passed over; a damaged one is not."""
    shutil.copy(sac / "sac.zip", tmp_path / "sac-Env-v0.zip")
    shutil.make_archive(str(tmp_path / "train_eval_metrics"), "zip", sac, "stats.pkl")
    assert find_save(tmp_path).name == "sac-Env-v0.zip"
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(LoadError, match="2 saves"):
        find_save(tmp_path)


def test_what_lies_beside_a_save_is_read_within_limits(sac: Path, tmp_path: Path) -> None:
    """A zip of a million entries is no save, and a sparse file is no statistics."""
    shutil.copy(sac / "sac.zip", tmp_path / "sac.zip")
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 1 << 28, 0, 0)
    with (tmp_path / "other").open("wb") as file:
        file.truncate(1 << 28)
        file.seek(1 << 28)
        file.write(end)
    assert kind_of(tmp_path / "other") is None
    with (tmp_path / "vecnormalize.pkl").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LoadError, match="at most"):
        load_planner(str(tmp_path / "sac.zip"))
    with pytest.raises(LoadError, match="too long"):
        load_planner("x" * 300)


@pytest.mark.parametrize("shape", [(4,), (1, 3), (3, 1)])
def test_statistics_of_another_shape_do_not_fit(shape: Any, sac: Path) -> None:
    """Other numbers, or as many in another shape, are of another environment."""
    known = read_statistics(sac / "stats.pkl")
    assert known is not None
    obs = obs_spec(spaces.Box(-1.0, 1.0, shape, np.float32))
    if obs.size == 3:
        normaliser(known, obs)  # flattened, as FlattenObservation does
    else:
        with pytest.raises(SpecError, match="another environment"):
            normaliser(known, obs)
    square = Statistics({"": (np.zeros((2, 3)), np.ones((2, 3)))}, 10.0, 1e-8)
    with pytest.raises(SpecError, match="another environment"):
        normaliser(square, obs_spec(spaces.Box(-1.0, 1.0, (3, 2), np.float32)))
