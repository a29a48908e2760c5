"""Executor files: every entry changed, every checksum recomputed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from agentkd.deploy.akx import to_akx
from agentkd.deploy.bundle import Bundle, from_bytes, read_bundle, to_bytes, with_footprint
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.container import pack, unpack
from agentkd.deploy.contract import Contract
from agentkd.deploy.vectors import answers, probes
from agentkd.errors import SpecError
from agentkd.executors.difference import actions_of
from agentkd.executors.executor import Executor
from agentkd.executors.layers import rebuild
from agentkd.executors.native import compile_native
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.spec_json import from_json
from tests.deploy_executors import CASES, lively
from tests.fuzz import mutate
from tests.fuzz.archives import tensors
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

SMALL = {
    "mlp:64,64": "mlp:4",
    "mlp:64,64,tanh": "mlp:6,tanh",
    "mlp:100,silu": "mlp:5,silu",
    "attention:8/2/2": "attention:4/2/1",
}


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """A small executor file of each kind of layer and action."""
    made = [lively(SMALL.get(name, name), action) for name, action in CASES]
    words = Contract(obs_names=tuple("abcdefg"), obs_units=("m",) * 7, period=0.02)
    told = {"env": "X-v0", "planner": "PPO", "returns": [1.0, 2.5], "steps": 10}
    files = []
    for each in made:
        contract = words if len(each.mean) == 7 else None
        entries, _ = unpack(to_bytes(each, told, contract=contract))
        manifest = json.loads(entries.pop("manifest.json"))
        entries["golden.safetensors"] = few(load(entries["golden.safetensors"]))
        manifest["entries"] = sums(entries)
        files.append(sealed(mutate.written(manifest, sort_keys=True, indent=1), entries))
        from_bytes(files[-1])
    return tuple(files)


def sums(entries: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each entry."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in entries.items()}


def sealed(manifest: bytes, entries: dict[str, bytes]) -> bytes:
    """Write a bundle around a manifest, whatever it says."""
    return pack({"manifest.json": manifest, **entries}, hashlib.sha256(manifest).hexdigest())


def hostile(draw: Draw) -> bytes:
    """Make the bytes of a changed executor file, with right sums."""
    entries, _ = unpack(draw.choice(seeds()))
    manifest: Any = json.loads(entries.pop("manifest.json"))
    if not draw.chance(3):
        # The contract repeats what the rest says: left out, the rest is reached.
        manifest.pop("contract")
    what = draw.below(8)
    if what < 5:
        key = draw.choice(list(manifest)) if draw.chance(2) else "spec"
        manifest = (
            {**manifest, key: mutate.tree(draw, manifest[key])}
            if draw.chance(2)
            else mutate.tree(draw, manifest)
        )
    if what > 3:
        name = draw.choice(sorted(entries))
        entries[name] = tensors(draw, entries[name])
    if draw.below(4) and isinstance(manifest, dict):
        _prove_again(manifest, entries)
    if isinstance(manifest, dict) and draw.below(16):
        manifest["entries"] = sums(entries)
    text = mutate.written(manifest, sort_keys=not draw.chance(64), indent=1)
    if draw.chance(24):
        text = mutate.octets(draw, text)
    data = sealed(text, entries)
    return mutate.octets(draw, data) if draw.chance(32) else data


def few(golden: Mapping[str, NDArray[Any]]) -> bytes:
    """Write the first golden vectors: a memory has a thousand, which take long."""
    return save({name: np.ascontiguousarray(rows[:8]) for name, rows in golden.items()})


def _prove_again(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
    """Give the golden vectors that the changed executor would give, if it would."""
    try:
        with np.errstate(all="ignore"):
            weights = load(entries["weights.safetensors"])
            told = enumerate(manifest["layers"])
            executor = Executor(
                architecture=str(manifest["architecture"]),
                spec=from_json(manifest["spec"]),
                mean=weights["mean"],
                scale=weights["scale"],
                clip=float(manifest["clip"]),
                layers=tuple(rebuild(each, f"layer.{i}.", weights) for i, each in told),
                head=manifest["head"],
            )
            if executor.spec.obs.size < 10_000:
                obs = probes(executor, 8)
                outputs = answers(executor, obs)
                taken = actions_of(executor, outputs)
                entries["golden.safetensors"] = few(
                    {"obs": obs, "outputs": outputs, "actions": taken}
                )
    except Exception:  # what cannot be built is left as it is, to be refused
        return


def build(draw: Draw) -> Files:
    """Make a file."""
    return {"x.akd": hostile(draw)}


def read(folder: Path) -> Bundle:
    """Read it."""
    return read_bundle(folder / "x.akd")


def work(bundle: Bundle) -> None:
    """Run every form of what was accepted; they agree, and write it again."""
    # Large weights are numbers, and may overflow: then the action is at its bound.
    with np.errstate(over="ignore", invalid="ignore"):
        _use(bundle)


def _use(bundle: Bundle) -> None:
    executor = bundle.executor
    again = with_footprint(bundle, {})
    assert np.array_equal(from_bytes(again).executor.vector(), executor.vector())
    for obs in (*probes(executor, 3), np.zeros(executor.spec.obs.size, np.float32)):
        if not executor.memory:
            fits(executor.act(obs), executor)
    native = compile_native(executor)
    if native is not None:
        for obs in probes(executor, 3):
            fits(native.act(obs), executor)
    emit_c(executor).encode("ascii")
    try:
        to_akx(executor)
    except SpecError:
        assert executor.parameters > 1 << 16 or len(executor.layers) > 64


def fits(action: Any, executor: Executor) -> None:
    """Make sure that an action is one of the environment's."""
    match executor.spec.action:
        case DiscreteSpec(n, start):
            assert start <= action < start + n
        case MultiDiscreteSpec(sizes):
            assert (action >= 0).all()
            assert (action < np.asarray(sizes)).all()
        case MultiBinarySpec(n):
            assert len(action) == n
            assert set(action.tolist()) <= {0, 1}
        case BoxSpec(low, high, shape):
            assert action.shape == shape
            assert np.isfinite(action).all()
            below, above = (np.reshape(each, shape) for each in (low, high))
            room = 1e-6 * (1 + np.abs(action))
            assert (action >= below - room).all()
            assert (action <= above + room).all()


TARGET = Target("bundle", build, read, work)
