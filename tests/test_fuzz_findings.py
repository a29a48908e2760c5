"""What fuzzing found, each as a test; warnings are errors here."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from agentkd.deploy.bundle import from_bytes, to_bytes
from agentkd.deploy.container import unpack
from agentkd.distillation.dataset import About, read_dataset
from agentkd.distillation.recording import DatasetWriter
from agentkd.errors import BundleError, LoadError, SpecError, WireError
from agentkd.executors.architecture import initial
from agentkd.fields import parse_json
from agentkd.frames import Frame, answer_of
from agentkd.planners.sb3.network import Linear, Perceptron
from agentkd.report.comparison import saved
from agentkd.spec import DiscreteSpec, Spec
from agentkd.types import Categorical
from tests.deploy_executors import OBS
from tests.fuzz import mutate
from tests.fuzz.targets.bundle import sealed, sums

SPEC = Spec(OBS, DiscreteSpec(3))


def test_weights_that_overflow_are_refused_without_a_warning() -> None:
    """A bundle whose golden vectors become infinite here says that they differ."""
    entries, _ = unpack(to_bytes(initial("mlp:4", SPEC), {}))
    manifest = json.loads(entries.pop("manifest.json"))
    weights = load(entries["weights.safetensors"])
    for name, array in weights.items():
        if name.endswith("weight"):
            weights[name] = np.full_like(array, 3e38)
    entries["weights.safetensors"] = save(weights)
    text = mutate.written({**manifest, "entries": sums(entries)}, sort_keys=True, indent=1)
    with pytest.raises(BundleError, match="golden vectors"):
        from_bytes(sealed(text, entries))


def test_a_clip_beyond_float32_is_refused_without_a_warning() -> None:
    """It is compared in double precision."""
    with pytest.raises(SpecError, match="clip is 1e"):
        replace(initial("linear", SPEC), clip=1e300)


def test_a_report_of_a_negative_size_names_none(tmp_path: Path) -> None:
    """A policy has no fewer than no parameters."""
    path = tmp_path / "report.json"
    told = {"schema": 1, "argv": [], "versions": {}, "env": "X-v0"}
    told |= {"planner_parameters": -4000, "returns": {"planner": [1.0]}}
    path.write_text(json.dumps(told))
    (found,) = saved(path, "report.json", "X-v0")
    assert found.parameters == 0


def test_an_observation_that_overflows_is_clipped_without_a_warning() -> None:
    """A normaliser that overflows float32 gives the clip."""
    executor = initial("linear", SPEC)
    huge = replace(executor, scale=np.full_like(executor.scale, 3e38))
    most = huge.outputs(np.full((1, OBS.size), 3e38, np.float32))
    plain = replace(executor, scale=np.full_like(executor.scale, 1.0))
    clipped = plain.outputs(np.full((1, OBS.size), 1e6, np.float32))
    assert np.allclose(most, clipped)


def test_labels_of_another_kind_of_action_are_no_dataset(tmp_path: Path) -> None:
    """Yes/no answers do not belong to a choice, however many numbers they have."""
    with DatasetWriter(tmp_path, About("X-v0", SPEC)) as writer:
        obs, none = np.zeros((4, OBS.size), np.float32), np.zeros(4, np.uint8)
        dist = Categorical(np.zeros((4, 3), np.float32))
        writer.add(obs, dist, obs[:, 0], none.astype(bool), none)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"categorical"', '"bernoulli"'))
    with pytest.raises(LoadError, match="bernoulli"):
        read_dataset(tmp_path)


def test_the_structure_of_json_is_looked_at_without_a_copy() -> None:
    """Millions of texts inside each other are refused within the document's memory."""
    text = b'{"a":' * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(LoadError, match="in each other"):
            parse_json(text, "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_planner_that_overflows_answers_infinity_without_a_warning() -> None:
    """As in torch; what asks it refuses the answer."""
    big = torch.full((2, 2), 3e38)
    layer = Linear(big, big[0])
    answer = Perceptron((layer, layer), lambda x: x, ends=False)(big)
    assert not answer.isfinite().any()


def test_a_server_s_answer_of_another_kind_is_refused() -> None:
    """Rows of a fitting width are no choices if they say that they are an action."""
    spec = Spec(OBS, DiscreteSpec(4))
    rows = np.zeros((2, 4), np.float32)
    header = {"names": ["rows"], "kind": "categorical"}
    assert isinstance(answer_of(Frame(header, (rows,)), spec), Categorical)
    for kind in ("point", "bernoulli"):
        for taken in (rows, rows[:, :1]):
            with pytest.raises(WireError, match=f"a {kind} distribution"):
                answer_of(Frame(header | {"kind": kind}, (taken,)), spec)
