"""Exported WebAssembly, run by Node through its own loader."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from agentkd.deploy.programs import Answer
from agentkd.deploy.wasm.emit import HERE, emit_wasm, loader_of, missing
from agentkd.dists import action_width
from agentkd.errors import LoadError
from agentkd.executors.executor import Executor
from agentkd.executors.plan import ctype
from agentkd.types import Floats

_SECONDS = 120


def no_wasm() -> str:
    """Say what this machine lacks to write WebAssembly and run it; "" if nothing."""
    return missing() or ("" if shutil.which("node") else "no node (Debian: apt install nodejs)")


def run_wasm(executor: Executor, obs: Floats) -> Answer:
    """Ask the WebAssembly of an executor about observations (batch, obs), in Node.

    With a memory they are a sequence that begins with none.

    Raises:
        ConfigError: If it cannot be compiled.
        LoadError: If Node is missing or fails, or the golden vectors differ there.
    """
    node = shutil.which("node")
    if node is None:
        raise LoadError(no_wasm())
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
        folder = Path(name)
        (folder / "executor.wasm").write_bytes(emit_wasm(executor))
        (folder / "executor.mjs").write_text(loader_of("executor.wasm", "executor.mjs"))
        try:
            done = subprocess.run(
                [node, str(HERE / "ask.mjs"), str(folder / "executor.mjs")],
                input=np.ascontiguousarray(obs, np.float32).tobytes(),
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LoadError(f"node did not run it: {error}") from error
    said = done.stderr.decode(errors="replace").strip()
    out, count = executor.out, action_width(executor.spec.action)
    if done.returncode or len(done.stdout) != 4 * len(obs) * (out + count):
        raise LoadError(f"node ended with status {done.returncode}. {said[:2000]}")
    rows = np.frombuffer(done.stdout, "<u4").reshape(len(obs), out + count)
    kind = np.float32 if ctype(executor.spec) == "float" else np.int32
    return Answer(rows[:, :out].copy().view(np.float32), rows[:, out:].copy().view(kind))
