"""Pickles that are read, and policies of one's own, which need unpickling."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from agentkd import dists
from agentkd.errors import LoadError, UnsafeError
from agentkd.planners import load_planner, load_policy
from agentkd.planners.sb3 import safe_pickle as inert
from tests.still import CHOICE, Env
from tests.test_planners_files import VECTOR, spec_of


class OwnPolicy(ActorCriticPolicy):
    """A class of the user's own that changes nothing."""


class OwnFeatures(FlattenExtractor):
    """A features extractor of the user's own."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = 2.0 * self.flatten(observations)
        return doubled


class OwnActivation(torch.nn.ReLU):
    """An activation of the user's own."""


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr"])
def test_a_pickle_naming_code_is_refused(name: str, protocol: int) -> None:
    """Each way in which a pickle can name a function is refused."""
    module, _, attribute = name.partition(".")

    class Named:
        def __reduce__(self) -> Any:
            return getattr(__import__(module), attribute), ("1",)

    with pytest.raises(UnsafeError, match=attribute):
        inert.read(pickle.dumps(Named(), protocol))


def test_records_do_not_reach_real_classes() -> None:
    """Even a class that may occur is a stand-in: its own code is not there."""
    record = inert.read(pickle.dumps(spaces.Discrete(3)))
    assert isinstance(record, inert.Record)
    assert type(record).__name__ == "Discrete"
    assert type(record).__module__ != "gymnasium.spaces.discrete"
    assert record.state["n"] == 3


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_rebuilt_from_their_bytes(dtype: str, order: Any, protocol: int) -> None:
    """Every plain dtype, layout and protocol gives the array back."""
    array = np.asarray(np.arange(6).reshape(2, 3) % 2, dtype, order)
    found = inert.read(pickle.dumps([array, array[0, 1]], protocol))
    np.testing.assert_array_equal(found[0], array)
    assert found[0].dtype == array.dtype
    assert found[1] == array[0, 1]


def test_names_of_older_numpy_are_understood() -> None:
    """numpy.core of before version 2 and numpy._core of after mean the same."""
    new = pickle.dumps(np.arange(3.0), 2)
    assert b"numpy._core.multiarray" in new
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(inert.read(old), [0.0, 1.0, 2.0])


def test_objects_in_arrays_are_refused() -> None:
    """An array of anything but numbers is not read."""
    with pytest.raises(LoadError, match="not plain numbers"):
        inert.read(pickle.dumps(np.array([{}, None], object)))


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_cut_pickles_say_so(cut: int) -> None:
    """A pickle cut short is damaged, not a crash."""
    raw = pickle.dumps(spaces.Box(-1.0, 1.0, (3,), np.float32))
    with pytest.raises(LoadError, match="The pickle is damaged"):
        inert.read(raw[:cut])


def test_few_bytes_do_not_take_much_memory() -> None:
    """An index of two thousand million costs nothing: the memo is a mapping."""
    raw = b"\x80\x02K\x01r\xff\xff\xff\x7f."
    assert [op.name for op, _, _ in pickletools.genops(raw)][2] == "LONG_BINPUT"
    assert inert.read(raw) == 1


def own(tmp_path: Path, **options: Any) -> tuple[Path, A2C]:
    """Save a model with something of the user's own in it."""
    policy = options.pop("policy", "MlpPolicy")
    model = A2C(policy, Env(VECTOR, CHOICE), policy_kwargs=options)
    model.save(tmp_path / "own.zip")
    return tmp_path / "own.zip", model


def agrees(path: Path, model: A2C, **options: Any) -> None:
    """Compare a loaded planner with the model."""
    policy: Any = load_policy(str(path), spec_of(VECTOR, CHOICE), **options)
    obs = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    found = dists.mode(policy(obs), spec_of(VECTOR, CHOICE).action)
    np.testing.assert_array_equal(found, expected)


def test_a_policy_of_ones_own_needs_unpickling(tmp_path: Path) -> None:
    """What its class makes of the weights is not in the file, whatever is named."""
    path, model = own(tmp_path, policy=OwnPolicy)
    for named in (None, "A2C"):
        with pytest.raises(UnsafeError, match=r"its own code.*--unpickle.*runs"):
            load_planner(str(path), algorithm=named)
    agrees(path, model, allow_pickle=True)


def test_an_extractor_of_ones_own_needs_unpickling(tmp_path: Path) -> None:
    """Its code is not in the readable part; allowed, it acts as in SB3."""
    path, model = own(tmp_path, features_extractor_class=OwnFeatures)
    with pytest.raises(UnsafeError, match=r"features extractor.*OwnFeatures"):
        load_planner(str(path))
    agrees(path, model, allow_pickle=True)


def test_an_activation_of_ones_own_needs_unpickling(tmp_path: Path) -> None:
    """An activation that torch does not know cannot be guessed."""
    path, model = own(tmp_path, activation_fn=OwnActivation)
    with pytest.raises(UnsafeError, match=r"OwnActivation.*not a class of torch\.nn"):
        load_planner(str(path))
    agrees(path, model, allow_pickle=True)
