"""Forms of a decision that agentkd does not ship, beside those of `agentkd latency`.

`python -m benchmarks.forms FILE SECONDS ROUNDS` times ExecuTorch in a Python whose packages would
not fit in this one; `time_elsewhere` starts it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.executors.executor import Executor, distribution, one_action
from agentkd.measure.forms import onnx_session
from agentkd.measure.latency import Decide, Form, Latency, measure, observations
from agentkd.types import Floats

EXECUTORCH = "ExecuTorch"
_ROOT = Path(__file__).parents[1]
_TRAIN = 'pip install "agentkd[train]"'
_START = 300
"""Seconds for what another Python imports and lowers."""

_Made = tuple[Decide | None, str]
"""A form's `decide` and its note."""


def other_forms(executor: Executor) -> list[Form]:
    """ONNX Runtime with bound memory, torch and ExecuTorch, from the same weights."""
    return [_runtime_form(name, executor) for name in _RUNTIMES]


def _runtime_form(name: str, executor: Executor) -> Form:
    """Make the form of a runtime; it may be missing."""
    make, remedy = _RUNTIMES[name]
    if executor.memory:
        # Their inputs are bound to one tick: a memory would have to go round.
        return Form(name, None, "not timed for an executor with a memory")
    try:
        return Form(name, *make(executor))
    except ModuleNotFoundError as error:
        return Form(name, None, f"no package {error.name!r}: {remedy}")


def _onnx_bound(executor: Executor) -> _Made:
    """The same graph with its input and output bound to memory in advance."""
    session, name = onnx_session(executor)
    onnxruntime: Any = import_module("onnxruntime")
    # On a processor these values are the arrays' own memory, which has to stay.
    make = onnxruntime.OrtValue.ortvalue_from_numpy
    row = np.array(executor.mean[None], np.float32)
    actions = np.array(session.run(["action"], {"obs": row})[0])
    binding = session.io_binding()
    binding.bind_ortvalue_input("obs", make(row))
    binding.bind_ortvalue_output("action", make(actions))

    def decide(obs: Floats) -> Any:
        row[0] = obs
        session.run_with_iobinding(binding)
        return one_action(actions.copy(), executor.spec)

    return decide, f"{name}, io_binding"


def _torch_eager(executor: Executor) -> _Made:
    """The executor's trainable form in torch, from an array to an action."""
    import torch

    from agentkd.executors.network import Network

    network = Network(executor).eval()

    def decide(obs: Floats) -> Any:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(obs[None])).numpy()
        return _action(executor, outputs)

    return decide, torch.__version__


def _executorch(executor: Executor) -> _Made:
    """The executor lowered to XNNPACK, in ExecuTorch's runtime for Python."""
    import torch

    from agentkd.executors.network import Network

    exir: Any = import_module("executorch.exir")
    xnnpack: Any = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    runtime: Any = import_module("executorch.runtime")
    # It says on the way what does not concern who times it.
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = (torch.from_numpy(executor.mean[None].copy()),)
            lowered = exir.to_edge_transform_and_lower(
                torch.export.export(Network(executor).eval(), example),
                partitioner=[xnnpack.XnnpackPartitioner()],
            ).to_executorch()
            program = runtime.Runtime.get().load_program(bytes(lowered.buffer))
            method = program.load_method("forward")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return None, f"it does not lower: {reason[:200]}"
    finally:
        logging.getLogger().setLevel(level)

    # The program has to stay as long as its method.
    def decide(obs: Floats, _keep: Any = program) -> Any:
        (outputs,) = method.execute([torch.from_numpy(obs[None])])
        return _action(executor, outputs.numpy())

    return decide, f"{version('executorch')}, XNNPACK"


def _action(executor: Executor, outputs: Floats) -> Any:
    spec = executor.spec
    actions = dists.mode(distribution(executor.head, np.asarray(outputs), spec), spec.action)
    return one_action(actions, spec)


_RUNTIMES: dict[str, tuple[Callable[[Executor], _Made], str]] = {
    "ONNX, bound": (_onnx_bound, 'pip install "agentkd[export]"'),
    "torch eager": (_torch_eager, _TRAIN),
    EXECUTORCH: (
        _executorch,
        "build the Python that it needs: python -m benchmarks pythons executorch",
    ),
}
"""How each is made, and what to install where it cannot be."""


def missing(error: ModuleNotFoundError) -> str:
    """Say which package for training is missing, and what to install."""
    return f"no package {error.name!r}: {_TRAIN}"


def time_elsewhere(python: str, executor: Executor, *, seconds: float, rounds: int) -> Latency:
    """Time ExecuTorch by a Python that has it, one thread; where it fails, its note says why."""
    nothing = Latency(EXECUTORCH, math.nan, math.nan, math.nan, 0)
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        file = Path(folder) / "executor.akd"
        write_bundle(file, executor)
        # This library and these studies, and none of the packages that lie beside them.
        for name in ("agentkd", "benchmarks"):
            (Path(folder) / name).symlink_to(_ROOT / name, target_is_directory=True)
        try:
            done = subprocess.run(
                [python, "-m", __name__, str(file), str(seconds), str(rounds)],
                env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_START + 10 * seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return replace(nothing, note=f"{python}: {error}")
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        return Latency(**{**found, "note": f"{found['note']}; another Python"})
    except (IndexError, ValueError, TypeError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return replace(nothing, note=f"{python}: {last}")


def _main() -> None:
    """Time ExecuTorch for the file, seconds and rounds on the command line."""
    import torch

    torch.set_num_threads(1)
    file, seconds, rounds = sys.argv[1:]
    executor = read_bundle(file).executor
    obs = observations(executor.spec, executor.mean)
    forms = [_runtime_form(EXECUTORCH, executor)]
    (found,) = measure(forms, obs, seconds=float(seconds), rounds=int(rounds))
    sys.stdout.write("\n" + json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    _main()
