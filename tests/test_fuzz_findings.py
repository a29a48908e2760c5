"""What fuzzing found, each as a test; warnings are errors here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from agentkd.bench.comparison import saved
from agentkd.deploy.bundle import from_bytes, to_bytes
from agentkd.deploy.container import unpack
from agentkd.errors import BundleError, SpecError
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, Spec
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
    text = mutate.written(
        {**manifest, "entries": sums(entries)}, sort_keys=True, indent=1
    )
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
