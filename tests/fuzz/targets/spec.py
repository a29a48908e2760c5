"""Specs as JSON, and executors by one word."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.executors.architecture import initial, parse
from agentkd.fields import parse_json
from agentkd.spec import ObsSpec, Part, Spec, flatten, unflatten
from agentkd.spec_json import from_json, to_json
from tests.deploy_executors import CASES, FIRST, OBS
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_PARTS = (
    Part("a", "box", (2, 3), "float32"),
    Part("b", "discrete", (), "int64", (4,), 1),
    Part("c", "multidiscrete", (2,), "int64", (2, 3)),
    Part("d", "multibinary", (3,), "int8"),
)
_OBS = (OBS, FIRST, ObsSpec(_PARTS, "dict"), ObsSpec(_PARTS[:2], "tuple"))
_LARGEST, _WIDEST = 1 << 16, 256


def build_spec(draw: Draw) -> Files:
    """Make a spec of every kind of observation and action."""
    spec = Spec(draw.choice(_OBS), draw.choice(CASES)[1])
    return {"spec.json": mutate.document(draw, to_json(spec))}


def read_spec(folder: Path) -> Spec:
    """Read it within the limits of all JSON."""
    return from_json(parse_json((folder / "spec.json").read_bytes(), "spec.json"))


def work_spec(spec: Spec) -> None:
    """Use it: sizes, a flat observation and its own form, an action, JSON."""
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
    assert spec.obs.size > 0
    assert dists.action_size(spec.action) > 0
    if spec.obs.size + dists.action_size(spec.action) > _LARGEST:
        return
    flat = np.zeros((2, spec.obs.size), np.float32)
    own = unflatten(spec.obs, flat)
    assert flatten(spec.obs, own).shape == flat.shape
    executor = initial("linear", spec)
    dists.mode(executor(flat), spec.action)


def build_architecture(draw: Draw) -> Files:
    """Make a word for an executor."""
    words = [name for name, _ in CASES] + ["cnn:16x8/4,32x4/2,128", "gru:64,32"]
    word = draw.choice(words)
    for _ in range(1 + draw.below(3)):
        word = mutate.text(draw, word)
    return {"word": word.encode("utf-8", "surrogatepass")}


def read_architecture(folder: Path) -> tuple[Any, Any]:
    """Parse it, and make a small executor of it."""
    text = (folder / "word").read_bytes().decode("utf-8", "surrogatepass")
    made_of = parse(text)
    if any(int(each) > _WIDEST for each in re.findall(r"[0-9]+", text)):
        return made_of, None  # right, and only takes long to make
    obs = FIRST if text.strip().lower().startswith("cnn") else OBS
    return made_of, initial(text, Spec(obs, CASES[0][1]))


def work_architecture(found: tuple[Any, Any]) -> None:
    """Write it as it is read, and act."""
    made_of, executor = found
    assert parse(str(made_of)) == made_of
    if executor is not None and not executor.memory:
        executor.act(np.zeros(executor.spec.obs.size, np.float32))


SPEC = Target("spec", build_spec, read_spec, work_spec)
ARCHITECTURE = Target("architecture", build_architecture, read_architecture, work_architecture)
