"""Saves of Stable-Baselines3, and VecNormalize's statistics."""

from __future__ import annotations

import base64
import functools
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agentkd import dists
from agentkd.errors import NumbersError
from agentkd.planners import Planner, load_planner
from agentkd.planners.sb3.vecnormalize import Statistics, normaliser, read_statistics
from agentkd.spec import ObsSpec, Part
from agentkd.types import RecurrentPolicy
from tests import still
from tests.fuzz import mutate
from tests.fuzz.archives import numbers, pickled, repacked, zipped
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_VECTOR = spaces.Box(-2.0, 2.0, (3,), np.float32)
_DICT = spaces.Dict({"a": _VECTOR, "b": spaces.Discrete(2)})
_BOX = spaces.Box(np.array([-1, -3], np.float32), np.array([1, 2], np.float32))
_PICKLED = ":serialized:"


@functools.cache
def saves() -> tuple[Mapping[str, bytes], ...]:
    """The entries of small saves of several algorithms and spaces."""
    made: list[tuple[type[Any], Any, Any, dict[str, Any]]] = [
        (PPO, _VECTOR, spaces.Discrete(3), {"n_steps": 8, "batch_size": 8}),
        (PPO, _DICT, _BOX, {"n_steps": 8, "batch_size": 8}),
        (RecurrentPPO, _VECTOR, spaces.MultiBinary(2), {"n_steps": 8, "batch_size": 8}),
        (SAC, _VECTOR, _BOX, {"buffer_size": 8}),
        (DQN, _VECTOR, spaces.Discrete(3), {"buffer_size": 8}),
    ]
    found = []
    for algorithm, observation, action, options in made:
        policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
        policy = "MultiInputPolicy" if observation is _DICT else policy
        small: dict[str, Any] = {"net_arch": [4]}
        if algorithm is RecurrentPPO:
            small["lstm_hidden_size"] = 4
        env = still.Env(observation, action)
        model = algorithm(policy, env, policy_kwargs=small, seed=0, device="cpu", **options)
        out = io.BytesIO()
        model.save(out)
        with zipfile.ZipFile(out) as file:
            found.append({name: file.read(name) for name in ("data", "policy.pth")})
    return tuple(found)


def _data(draw: Draw, raw: bytes) -> bytes:
    """Change the JSON of a save, or a pickle in it."""
    data = json.loads(raw)
    if draw.chance(3):
        key = draw.choice(("observation_space", "action_space", "policy_class"))
        held = dict(data[key])
        held[_PICKLED] = base64.b64encode(pickled(draw, base64.b64decode(held[_PICKLED]))).decode()
        if draw.chance(2):
            # Without its readable items a space is read from its pickle.
            held = {_PICKLED: held[_PICKLED], ":type:": held[":type:"]}
        return mutate.written({**data, key: held})
    keys = ("observation_space", "action_space", "policy_class", "policy_kwargs")
    key = draw.choice((*keys, draw.choice(list(data))))
    if draw.chance(2) and key in data:
        return mutate.written({**data, key: mutate.tree(draw, data[key])})
    return mutate.document(draw, data)


def _weights(draw: Draw, raw: bytes) -> bytes:
    """Change torch's file: its pickle or its numbers."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    changes = {".pkl": pickled, "version": mutate.octets, "": numbers}
    return zipped(repacked(draw, entries, changes), draw if draw.chance(3) else None)


def build_save(draw: Draw) -> Files:
    """Make a save, and now and then statistics beside it."""
    entries = repacked(draw, draw.choice(saves()), {"data": _data, ".pth": _weights})
    files = {"x.zip": zipped(entries, draw)}
    if draw.chance(8):
        files["vecnormalize.pkl"] = pickled(draw, draw.choice(statistics()))
    return files


def read_save(folder: Path) -> Planner:
    """Load it as a planner."""
    return load_planner(str(folder / "x.zip"))


def work_planner(planner: Planner) -> None:
    """Ask it: the answer fits its spaces, and is made of numbers."""
    size = planner.spec.obs.size
    if size > 1 << 20:
        return
    # Large weights are numbers, and what comes of them need not be: that is said.
    with np.errstate(over="ignore", invalid="ignore"), suppress(NumbersError):
        _ask(planner)


def _ask(planner: Planner) -> None:
    size, policy = planner.spec.obs.size, planner.policy
    for obs in (np.zeros((2, size), np.float32), np.ones((1, size), np.float32)):
        if isinstance(policy, RecurrentPolicy):
            answer, _ = policy(obs, policy.initial_state(len(obs)))
        else:
            answer = policy(obs)
        dists.check(answer, planner.spec.action, len(obs))


@functools.cache
def statistics() -> tuple[bytes, ...]:
    """What VecNormalize saves for a vector, and for a dictionary."""
    found = []
    for space in (_VECTOR, spaces.Dict({"a": _VECTOR})):
        env = VecNormalize(DummyVecEnv([partial(still.Env, space, _BOX)]))
        env.seed(0)
        env.reset()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            path = Path(name) / "v.pkl"
            env.save(str(path))
            found.append(path.read_bytes())
        # Old saves are of older protocols, where arrays are written otherwise.
        found += [pickle.dumps(env, protocol) for protocol in (0, 2)]
    return tuple(found)


def build_statistics(draw: Draw) -> Files:
    """Make statistics."""
    data = draw.choice(statistics())
    change = mutate.octets if draw.chance(5) else pickled
    return {"v.pkl": change(draw, data)}


def read_statistics_of(folder: Path) -> tuple[Statistics | None, Any]:
    """Read them, and lay them out for an observation that they may be of."""
    found = read_statistics(folder / "v.pkl")
    if found is None:
        return None, None
    names = sorted(found.parts)
    layout: Any = "dict" if names != [""] else "single"
    parts = tuple(Part(name, "box", (3,), "float32") for name in names)
    return found, normaliser(found, ObsSpec(parts, layout))


def work_statistics(found: tuple[Statistics | None, Any]) -> None:
    """Normalise: numbers go in and numbers come out, within the clip."""
    statistics_, function = found
    if statistics_ is not None:
        obs = np.array([[0, 1, -1] * len(statistics_.parts)], np.float32)
        assert np.isfinite(function(obs)).all()


SAVE = Target("sb3", build_save, read_save, work_planner)
STATISTICS = Target("statistics", build_statistics, read_statistics_of, work_statistics)
