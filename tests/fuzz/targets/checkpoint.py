"""A distiller's checkpoint: torch tensors and labels."""

from __future__ import annotations

import copy
import functools
import io
import math
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentkd.distillation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, Spec
from agentkd.types import Categorical
from tests.deploy_executors import OBS
from tests.fuzz import mutate
from tests.fuzz.archives import npy, pickled, repacked, zipped
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_STATE, _LABELS = "distiller.pt", "labels.npz"
_SPEC = Spec(OBS, DiscreteSpec(3))


def _distiller() -> Distiller:
    options = DistillerOptions(batch=8, least=8, capacity=64)
    return Distiller(initial("mlp:4", _SPEC), options)


@functools.cache
def seed() -> Mapping[str, bytes]:
    """A checkpoint after one step."""
    distiller = _distiller()
    random = np.random.default_rng(0)
    obs, logits = (random.standard_normal((16, n)).astype(np.float32) for n in (7, 3))
    distiller.add(obs, Categorical(logits))
    distiller.step()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        save_checkpoint(Path(name), distiller, Checkpoint("d1", 1.5))
        files = (each for each in Path(name).iterdir() if each.is_file())
        return {each.name: each.read_bytes() for each in files}


@functools.cache
def _unzipped(name: str) -> Mapping[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(seed()[name])) as file:
        return {each: file.read(each) for each in file.namelist()}


def build(draw: Draw) -> Files:
    """Change the state as a value, its pickle, or the labels."""
    files = dict(seed())
    match draw.below(4):
        case 0 | 1:
            files[_STATE] = _state(draw)
        case 2:
            entries = repacked(draw, _unzipped(_STATE), {".pkl": pickled})
            files[_STATE] = zipped(entries, draw)
        case _:
            entries = repacked(draw, _unzipped(_LABELS), {".npy": npy})
            files[_LABELS] = zipped(entries, draw)
    return files


def _state(draw: Draw) -> bytes:
    """Save a state that holds other values than a distiller's."""
    state = torch.load(io.BytesIO(seed()[_STATE]), weights_only=True)
    for _ in range(1 + draw.below(2)):
        held: Any = {"state": state}
        key: Any = "state"
        while isinstance(held[key], dict | list) and len(held[key]) and draw.below(5):
            held = held[key]
            key = draw.choice(list(held) if isinstance(held, dict) else range(len(held)))
        held[key] = _value(draw, held[key])
        if not isinstance(state, dict):
            break
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def _value(draw: Draw, value: Any) -> Any:
    """Another value in the place of one: a tensor of another shape, kind or number."""
    if not isinstance(value, torch.Tensor) or draw.chance(3):
        if draw.chance(6):
            return copy.deepcopy(value)
        odd = mutate.odd(draw)
        return draw.choice((odd, torch.zeros(3), {"a": odd}, [odd]))
    match draw.below(5):
        case 0:
            return value.to(draw.choice((torch.float64, torch.int64, torch.bool, torch.complex64)))
        case 1:
            return value.reshape(-1)
        case 2:
            return value.new_zeros(()).expand(draw.choice(((2, 3), (0,), (70000, 4))))
        case 3:
            return torch.full_like(value, max(-3e38, min(3e38, mutate.number(draw))))
        case _:
            return value[..., :1] if value.dim() else value[None]


def read(folder: Path) -> tuple[Distiller, Checkpoint]:
    """Bring a new distiller to where the file says."""
    distiller = _distiller()
    return distiller, load_checkpoint(folder, distiller, Checkpoint("d1"))


def work(found: tuple[Distiller, Checkpoint]) -> None:
    """Go on: a step, and an executor whose weights are numbers."""
    distiller, checkpoint = found
    assert math.isfinite(checkpoint.seconds)
    assert checkpoint.seconds >= 0
    if len(distiller.buffer):
        distiller.step()
    distiller.schedule(0.5)
    executor = distiller.freeze()
    assert np.isfinite(executor.vector()).all()
    executor.act(np.zeros(7, np.float32))


TARGET = Target("checkpoint", build, read, work)
