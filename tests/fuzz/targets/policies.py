"""Policy files of other libraries: checkpoints, TorchScript, ONNX and HDF5."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.errors import NumbersError, PlannerError
from agentkd.planners import Planner, load_planner
from agentkd.types import RecurrentPolicy
from tests.fuzz import mutate
from tests.fuzz.archives import numbers, pickled, repacked, zipped
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

DATA = Path(__file__).parents[2] / "data" / "policies"
_ARGS = {"activation": "elu"}
_SETTINGS = b"""seed: 1
actor:
  class_name: MLPModel
  activation: elu
  distribution_cfg:
    class_name: BetaDistribution
    action_range:
    - -2.0
    - 1.0
params:
  network:
    mlp:
      activation: elu
models:
  policy:
    network:
    - name: net
      activations: elu
"""


@functools.cache
def originals(*patterns: str) -> tuple[bytes, ...]:
    """The files of these names, in order."""
    return tuple(path.read_bytes() for pattern in patterns for path in sorted(DATA.glob(pattern)))


def _archive(draw: Draw, data: bytes) -> bytes:
    """Change a ZIP of torch's: its pickles, its code, its numbers, or its directory."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    changes = {".pkl": pickled, ".py": _code, "version": mutate.octets, "": numbers}
    held = repacked(draw, entries, changes)
    if draw.chance(6):  # torch finds an entry whatever its case is
        ends = draw.choice(((".py",), (".pkl",), (".py", ".pkl"), ("",)))
        held = [(_upper(name) if name.endswith(ends) else name, each) for name, each in held]
    return zipped(held, draw if draw.chance(4) else None)


def _upper(name: str) -> str:
    """Write what follows the last dot in capitals."""
    before, dot, end = name.rpartition(".")
    return before + dot + end.upper()


_WORDS = (b"self", b"x", b"torch", b"Tensor", b"return", b"1", b"0", b"(", b")", b"-1", b"forward")


def _code(draw: Draw, data: bytes) -> bytes:
    """Change the code of a TorchScript file: a word becomes another."""
    for _ in range(1 + draw.below(2)):
        word = draw.choice(_WORDS)
        data = data.replace(word, draw.choice(_WORDS), 1 + draw.below(3))
    return data


def build_checkpoint(draw: Draw) -> Files:
    """Make a checkpoint, and now and then the settings of its run."""
    data = draw.choice(originals("rsl*_mlp.pt", "rsl*_lstm.pt", "skrl*.pt", "rlgames*.pth"))
    files = {"model_1.pt": _archive(draw, data)}
    if draw.chance(3):
        change = mutate.octets(draw, _SETTINGS) if draw.below(4) else _SETTINGS
        files["params/agent.yaml"] = change
    return files


def build_script(draw: Draw) -> Files:
    """Make a TorchScript file."""
    return {"model_1.pt": _archive(draw, draw.choice(originals("*_jit.pt")))}


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of a protobuf: key, wire type and bytes."""
    from agentkd.protobuf import fields

    for number, wire, inner in fields(memoryview(data)):
        yield number, wire, bytes(inner)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes((value & 127 | 128,)), value >> 7
    return out + bytes((value,))


def protobuf(draw: Draw, data: bytes, depth: int = 0) -> bytes:
    """Change one field of a protobuf, maybe one inside, with the lengths around it right."""
    held = list(_fields(data))
    if not held:
        return mutate.octets(draw, data)
    at = draw.below(len(held))
    number, wire, inner = held[at]
    if wire == 2 and depth < 5 and draw.below(4):
        with suppress(Exception):
            inner = protobuf(draw, inner, depth + 1)
    elif wire == 2:
        inner = draw.choice((mutate.octets, numbers))(draw, inner)
    elif wire == 0:
        inner = _varint(draw.choice((0, 1, 2, 7, 255, 1 << 20, (1 << 63) - 1)))
    held[at] = number, wire, inner
    match draw.below(12):
        case 0:
            del held[at]
        case 1:
            held.append(held[draw.below(len(held))])
    pieces = []
    for each, kind, body in held:
        size = _varint(len(body)) if kind == 2 else b""
        pieces.append(_varint(each << 3 | kind) + size + body)
    return b"".join(pieces)


def build_graph(draw: Draw) -> Files:
    """Make an ONNX file."""
    names = ("rsl5_mlp_export.onnx", "godot*.onnx")
    change = mutate.octets if draw.chance(8) else protobuf
    return {"model_1.pt": change(draw, draw.choice(originals(*names)))}


def build_hdf5(draw: Draw) -> Files:
    """Make an HDF5 file: some of its bytes, or its numbers, are others."""
    (data,) = originals("raptor.h5")
    for _ in range(1 + draw.below(3)):
        # What describes the arrays lies between them.
        at = draw.below(len(data) // 8) * 8
        word = struct.pack("<Q", mutate.integer(draw) % (1 << 64))
        data = data[:at] + word[: 1 << draw.below(4)] + data[at + (1 << draw.below(4)) :]
    return {"model_1.pt": data}


def read_policy(folder: Path) -> Planner:
    """Load it as a planner."""
    return load_planner(str(folder / "model_1.pt"), args=_ARGS)


def read_graph(folder: Path) -> Planner:
    """Load a graph as a planner."""
    return load_planner(str(folder / "model_1.pt"))


def work(planner: Planner) -> None:
    """Ask it: the answer fits its spaces, and is made of numbers."""
    if planner.spec.obs.size > 1 << 20:
        return
    # Large weights are numbers, and what comes of them need not be: that is said.
    with np.errstate(over="ignore", invalid="ignore"), suppress(NumbersError, PlannerError):
        obs = np.ones((2, planner.spec.obs.size), np.float32)
        policy: Any = planner.policy
        if isinstance(policy, RecurrentPolicy):
            answer, _ = policy(obs, policy.initial_state(2))
        else:
            answer = policy(obs)
        dists.check(answer, planner.spec.action, 2)


CHECKPOINT = Target("policy-checkpoint", build_checkpoint, read_policy, work)
SCRIPT = Target("policy-script", build_script, read_graph, work)
GRAPH = Target("policy-onnx", build_graph, read_graph, work)
HDF5 = Target("policy-hdf5", build_hdf5, read_graph, work)
