"""Every algorithm, space and option of Stable-Baselines3 against its own `predict`."""

from __future__ import annotations

import base64
import functools
import io
import json
import pickle
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from agentkd import dists
from agentkd.errors import LoadError, SpecError
from agentkd.planners import Planner, load_planner
from agentkd.planners.sb3.live import from_model
from agentkd.spec import ObsSpec, Spec, env_spec, flatten
from agentkd.types import RecurrentPolicy
from tests.sb3_algorithms import ALGORITHMS
from tests.still import Env

f32, inf = np.float32, np.inf
OBS: dict[str, Any] = {
    "vector": spaces.Box(-2.0, 2.0, (5,), f32),
    "matrix": spaces.Box(-2.0, 2.0, (2, 3), f32),
    "cube": spaces.Box(-2.0, 2.0, (2, 3, 4), f32),
    "double": spaces.Box(-2.0, 2.0, (3,), np.float64),
    "half": spaces.Box(-2.0, 2.0, (3,), np.float16),
    "infinite": spaces.Box(-inf, inf, (3,), f32),
    "one-sided": spaces.Box(np.array([0, -inf], f32), np.array([inf, 3], f32)),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "int8": spaces.Box(-100, 100, (4,), np.int8),
    "int64": spaces.Box(-1000, 1000, (2, 2), np.int64),
    "long": spaces.Box(-2.0, 2.0, (1200,), f32),
    "fractions": spaces.Box(np.array([1e-9, -1e9], f32), np.array([1.0, 1e9], f32)),
    "discrete": spaces.Discrete(6),
    "discrete-start": spaces.Discrete(6, start=2),
    "discrete-negative": spaces.Discrete(6, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 4, 3]),
    "multibinary": spaces.MultiBinary(4),
    "multibinary-2d": spaces.MultiBinary([2, 3]),
    "image-last": spaces.Box(0, 255, (6, 5, 3), np.uint8),
    "picture": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "image-first": spaces.Box(0, 255, (3, 6, 5), np.uint8),
    "image-odd": spaces.Box(0, 254, (4, 5, 3), np.uint8),
    "image-square": spaces.Box(0, 255, (8, 8, 8), np.uint8),
    "image-float": spaces.Box(0.0, 1.0, (3, 4, 5), f32),
    "dict": spaces.Dict(
        {
            "zone": spaces.Discrete(3),
            "arm": spaces.Box(-1.0, 1.0, (2, 2), f32),
            "lamps": spaces.MultiBinary([2, 2]),
            "gears": spaces.MultiDiscrete([2, 3]),
            "eye": spaces.Box(0, 255, (36, 36, 1), np.uint8),
            "dial": spaces.Box(0, 9, (3,), np.int64),
        }
    ),
    "dict-start": spaces.Dict(
        {"b": spaces.Discrete(5, start=1), "a": spaces.Box(-1.0, 1.0, (2,), f32)}
    ),
}
ACT: dict[str, Any] = {
    "box": spaces.Box(np.array([-1, -3], f32), np.array([1, 2], f32)),
    "box-matrix": spaces.Box(-0.7, 0.2, (2, 2), f32),
    "box-double": spaces.Box(-0.1, 0.3, (2,), np.float64),
    "box-odd": spaces.Box(np.array([-1e-5, 7], f32), np.array([123.25, 1e4], f32)),
    "box-whole": spaces.Box(-5, 5, (2,), np.int32),
    "discrete": spaces.Discrete(4),
    "discrete-start": spaces.Discrete(4, start=2),
    "multidiscrete": spaces.MultiDiscrete([2, 4, 3]),
    "multidiscrete-start": spaces.MultiDiscrete([4, 4], start=[1, 2]),
    "multibinary": spaces.MultiBinary(4),
}
CHOOSING = ("DQN", "QRDQN")
MOVING = ("SAC", "TQC", "TD3", "DDPG", "CrossQ")
TWINS = ("PPO", "TRPO", "TQC", "DDPG")
"""Their actors are those of A2C, SAC and TD3."""
SOME = ("vector", "double", "discrete-start", "image-last", "dict")
UNFIT = ("Threshold", "GLU", "MultiheadAttention", "Softmax2d")
"""Activations with which SB3 itself fails."""


class Case(NamedTuple):
    """One model: an algorithm, spaces and options."""

    algorithm: str
    obs: str
    action: str
    kwargs: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    policy: str = ""


class Swish(nn.Module):
    """An activation of one's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.5 * x)


class Halving(FlattenExtractor):
    """A features extractor of one's own."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        halved: torch.Tensor = 0.5 * self.flatten(observations)
        return halved


def _action(algorithm: str) -> str:
    return "discrete" if algorithm in CHOOSING else "box"


def _made_by_sb3(case: Case) -> bool:
    """Whether SB3 has such models at all."""
    name, obs, action = case.algorithm, case.obs, case.action
    if name in ("ARS", "CrossQ") and obs.startswith("dict"):
        return False
    if name == "RecurrentPPO" and obs in ("dict", "multidiscrete"):
        return False  # its LSTM wants an int, and gets one of NumPy's
    if name in CHOOSING or (name == "ARS" and action.startswith("multi")):
        return action.startswith("discrete")
    return name not in MOVING or action.startswith("box")


def _spaces() -> list[Case]:
    cases = [
        Case(name, obs, _action(name))
        for name in ALGORITHMS
        for obs in (SOME if name in TWINS else OBS)
    ]
    cases += [Case(name, "vector", action) for name in ALGORITHMS for action in ACT]
    return [case for case in dict.fromkeys(cases) if _made_by_sb3(case)]


def _options() -> list[Case]:  # noqa: C901 a list, in sections
    names = (n for n in nn.modules.activation.__all__ if n not in UNFIT)
    kinds = [getattr(nn, name) for name in names] + [nn.Dropout, nn.Identity]
    kinds += [functools.partial(nn.LeakyReLU, 0.3), Swish]
    cases = [
        Case(name, "vector", "box", (("activation_fn", kind), ("net_arch", [6, 4])))
        for name in ("A2C", "TD3")
        for kind in kinds
    ]
    arches: Any = ([], [7, 5], {"pi": [5], "vf": []}, {"pi": [], "vf": [3]})
    for name in ("PPO", "RecurrentPPO", "SAC", "TD3", "CrossQ", "DQN", "QRDQN", "ARS"):
        for each in arches:
            arch = each
            if isinstance(arch, dict) and name in ("SAC", "TD3", "CrossQ"):
                arch = {"pi": arch["pi"], "qf": [3]}
            if not (isinstance(arch, dict) and name in (*CHOOSING, "ARS")):
                cases.append(Case(name, "vector", _action(name), (("net_arch", arch),)))
    sde: Any = (("use_sde", True),)
    for name in ("A2C", "PPO", "RecurrentPPO", "SAC", "TQC", "CrossQ"):
        for each in ({}, {"use_expln": True}, {"full_std": False}, {"clip_mean": 0.2}):
            extra: Any = each
            if "clip_mean" in extra and name not in MOVING:
                extra = {"squash_output": True}
            if not ("full_std" in extra and name in MOVING):
                cases.append(Case(name, "vector", "box", tuple(extra.items()), sde))
    for name in ("A2C", "DQN", "SAC"):
        action = _action(name)
        for obs in ("picture", "image-last"):
            raw = (("normalize_images", False),)
            cases.append(Case(name, obs, action, raw))
        small: Any = (("features_extractor_kwargs", {"features_dim": 5}),)
        apart = (*small, ("share_features_extractor", False))
        cases.append(Case(name, "picture", action, small, policy="CnnPolicy"))
        if name != "DQN":
            cases.append(Case(name, "picture", action, apart, policy="CnnPolicy"))
    lstms = ({"shared_lstm": True, "enable_critic_lstm": False}, {"n_lstm_layers": 2})
    cases += [Case("RecurrentPPO", "vector", "box", tuple(extra.items())) for extra in lstms]
    for extra in ({"squash_output": False}, {"with_bias": False}):
        cases.append(Case("ARS", "vector", "box", tuple(extra.items())))
        cases.append(Case("ARS", "vector", "box", tuple(extra.items()), policy="LinearPolicy"))
    cases.append(Case("CrossQ", "vector", "box", (("batch_norm", False),)))
    cases.append(Case("CrossQ", "vector", "box", (("batch_norm_eps", 0.5),)))
    own: Any = (("features_extractor_class", Halving),)
    cases += [Case(name, "vector", _action(name), own) for name in ALGORITHMS if name != "ARS"]
    return cases


def _name(case: Case) -> str:
    kwargs = [f"{key}={getattr(each, '__name__', each)}" for key, each in case.kwargs]
    extra = [f"{key}={each}" for key, each in case.options]
    return "-".join([case.algorithm, case.obs, case.action, case.policy, *kwargs, *extra])


REFUSED_SPACES = ("box-whole", "multidiscrete-start", "discrete-start")
"""Actions that no planner has, or that SB3 counts from 0 whatever they start at."""
NOT_IN_FILES = ("PReLU", "partial", "Swish", "Halving")
"""What only the code of a class tells, or has weights of its own."""


def model_of(case: Case) -> Any:
    """Make the model, with random numbers wherever one acts."""
    kind, options = ALGORITHMS[case.algorithm]
    recurrent = "Lstm" if case.algorithm == "RecurrentPPO" else ""
    start = "MultiInput" if case.obs.startswith("dict") else "Mlp"
    kwargs: dict[str, Any] = {"net_arch": [6]}
    if case.policy == "LinearPolicy":
        kwargs = {}
    if recurrent:
        kwargs["lstm_hidden_size"] = 5
    model = kind(
        case.policy or f"{start}{recurrent}Policy",
        Env(OBS[case.obs], ACT[case.action]),
        policy_kwargs=kwargs | dict(case.kwargs),
        seed=0,
        device="cpu",
        **(options | dict(case.options)),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.policy.state_dict().values():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.add_(0.3 * noise if value.ndim else 0.3 * noise.abs())
        for name, value in model.policy.state_dict().items():
            if name.endswith("ra_var"):
                value.abs_().add_(0.1)
    return model


def drawn(space: Any, batch: int = 6) -> Any:
    """Draw observations; of choices none that SB3 could not take."""
    random = np.random.default_rng(5)
    if isinstance(space, spaces.Dict):
        return {key: drawn(each, batch) for key, each in space.items()}
    if isinstance(space, spaces.Discrete):
        low, high = max(int(space.start), 0), int(min(space.n, space.start + space.n))
        return random.integers(low, high, batch)
    space.seed(5)
    return np.stack([np.asarray(space.sample()) for _ in range(batch)])


def agrees(model: Any, planner: Planner, spec: Spec, space: Any) -> str:
    """Compare with predict, once or over steps; give the difference, "" for none."""
    own = drawn(space)
    flat = flatten(spec.obs, _as_given(own, spec.obs))
    policy = planner.policy
    if isinstance(policy, RecurrentPolicy):
        state, theirs = policy.initial_state(len(flat)), None
        for step in range(3):
            dist, state = policy(flat, state)
            starts = np.full(len(flat), step == 0)
            wanted, theirs = model.predict(own, theirs, starts, deterministic=True)
    else:
        dist = policy(flat)
        wanted, _ = model.predict(own, deterministic=True)
    found = dists.mode(dist, spec.action)
    if found.shape != wanted.shape:
        return f"shape {found.shape} instead of {wanted.shape}"
    unit = 1.0
    if isinstance(model.action_space, spaces.Box):
        unit = np.maximum(model.action_space.high - model.action_space.low, 1.0)
    off = float((np.abs(found - wanted) / unit).max())
    return f"off by {off}" if off > 1e-4 else ""


def _as_given(own: Any, obs: ObsSpec) -> Any:
    """Put images' channels first where a spec of the policy's own has them so."""
    if isinstance(own, dict):
        parts = {part.name: ObsSpec((part,)) for part in obs.parts}
        return {key: _as_given(each, parts[key]) for key, each in own.items()}
    shape = obs.parts[0].shape
    if own.ndim == 4 and own.shape[1:] != shape:
        return own.transpose(0, 3, 1, 2)
    return own


def aged(path: Path) -> None:
    """Rewrite a save as SB3 1.0 wrote it: spaces of gym, an old torch, fewer names."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    data = json.loads(entries["data"])
    for key in ("observation_space", "action_space"):
        space = pickle.loads(base64.b64decode(data[key][":serialized:"]))
        with mock.patch.dict(sys.modules):
            data[key] = _old_item(space)
    data.pop("_last_episode_starts", None)
    data["_last_dones"] = None
    state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
    once = ("pi_features_extractor.", "vf_features_extractor.")
    if any(name.startswith("features_extractor.") for name in state):
        state = {k: v for k, v in state.items() if not k.startswith(once)}
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps(data))
        file.writestr("policy.pth", stream.getvalue())


def _old_item(space: Any) -> dict[str, Any]:
    old = _old(space)
    fields = {k: v if isinstance(v, int | str) else str(v) for k, v in vars(old).items()}
    raw = base64.b64encode(pickle.dumps(old)).decode()
    kind = f"<class '{type(old).__module__}.{type(old).__name__}'>"
    return {":type:": kind, ":serialized:": raw, **fields}


def _old(space: Any) -> Any:
    """Give an object of a class of the old gym with the attributes it had."""
    name = type(space).__name__
    known: Any = {"shape": space.shape, "dtype": space.dtype, "np_random": None}
    match name:
        case "Box":
            known |= {"low": space.low, "high": space.high}
            known |= {f"bounded_{each}": np.isfinite(known[end]) for each, end in _ENDS}
        case "Discrete":
            known |= {"n": int(space.n), "shape": (), "dtype": np.int64}
            if space.start:
                known["start"] = int(space.start)
        case "MultiDiscrete":
            known |= {"nvec": space.nvec}
        case "MultiBinary":
            known |= {"n": space.n}
        case "Dict":
            known |= {"spaces": {key: _old(each) for key, each in space.items()}}
            known |= {"shape": None, "dtype": None}
    module = f"gym.spaces.{name.lower()}"
    for each in ("gym", "gym.spaces", module):
        found = sys.modules.setdefault(each, types.ModuleType(each))
    kind = found.__dict__.setdefault(name, type(name, (), {"__module__": module}))
    old = kind()
    vars(old).update(known)
    return old


_ENDS = (("below", "low"), ("above", "high"))


def _check(case: Case, folder: Path) -> None:
    space, action = OBS[case.obs], ACT[case.action]
    path = folder / "planner.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SB3, about spaces that it would not choose
        model = model_of(case)
        model.save(path)
        ways: dict[str, Any] = {
            "live": lambda: from_model(model, env_spec(Env(space, action))),
            "policy": lambda: from_model(model.policy, env_spec(Env(space, action))),
            "file": lambda: load_planner(str(path), env_spec(Env(space, action))),
            "alone": lambda: load_planner(str(path)),
        }
        found = {}
        for way, load in ways.items():
            found[way] = _outcome(model, load, space)
        aged(path)
        found["old"] = _outcome(model, ways["file"], space)
    refused = case.action in REFUSED_SPACES
    hidden = any(name in str(value) for name in NOT_IN_FILES for _, value in case.kwargs)
    for way, outcome in found.items():
        in_file = way in ("file", "alone", "old")
        expected = "refused" if refused or (hidden and in_file) else ""
        assert outcome == expected, f"{way}: {outcome or 'accepted'}"


def _outcome(model: Any, load: Any, space: Any) -> str:
    try:
        planner = load()
    except (LoadError, SpecError):
        return "refused"
    return agrees(model, planner, planner.spec, space)


@pytest.mark.parametrize("case", _spaces(), ids=_name)
def test_every_algorithm_and_space(case: Case, tmp_path: Path) -> None:
    """In memory, from a file and from an old file a planner chooses as `predict`."""
    _check(case, tmp_path)


@pytest.mark.parametrize("case", _options(), ids=_name)
def test_every_option(case: Case, tmp_path: Path) -> None:
    """Options of the network change a planner as they change `predict`."""
    _check(case, tmp_path)
