"""Exported ONNX in ONNX Runtime Web, under Node: the same numbers as NumPy's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.onnx import to_onnx
from agentkd.deploy.programs import Answer
from agentkd.deploy.vectors import probes
from agentkd.deploy.verify import compare, reference
from agentkd.spec import ActionSpec
from tests.deploy_executors import CASES, NAMES, lively

WEB = Path(__file__).with_name("web")
ROWS = 64


@pytest.mark.needs("node")
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_it_decides_in_onnx_runtime_web_as_numpy_does(
    architecture: str, action: ActionSpec, tmp_path: Path
) -> None:
    """Every kind of executor; those with a memory over a sequence."""
    if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        message = "needs onnxruntime-web: npm ci --prefix tests/web"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    executor = lively(architecture, action)
    obs = probes(executor, ROWS, seed=3)
    (tmp_path / "model.onnx").write_bytes(to_onnx(executor))
    done = subprocess.run(
        ["node", str(WEB / "ask_onnx.mjs"), str(WEB), str(tmp_path / "model.onnx")],
        input=json.dumps({"obs": obs.astype(float).tolist(), "memory": executor.memory}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    outputs = np.array([each[0] for each in told], np.float32)
    wanted = reference(executor, obs)
    taken = np.array([each[1] for each in told]).astype(wanted.actions.dtype)
    verdict = compare("web", executor, Answer(outputs, taken), wanted)
    assert verdict.status == "agrees", verdict.text
