"""The forms in which one executor or planner decides, side by side.

`python -m agentkd.measure.forms FILE SECONDS ROUNDS` times ExecuTorch in a Python whose packages
would not fit in this one; `time_elsewhere` starts it.
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
from agentkd.executors.native import compile_native
from agentkd.measure.latency import Decide, Form, Latency, measure, observations
from agentkd.runtime.agent import Agent
from agentkd.spec import Spec
from agentkd.types import Floats, Policy, RecurrentPolicy

EXECUTORCH = "ExecuTorch"
_TRAIN = 'pip install "agentkd[train]"'
_START = 300
"""Seconds for what another Python imports and lowers."""

_Made = tuple[Decide | None, str]
"""A form's `decide` and its note."""


def executor_forms(executor: Executor) -> list[Form]:
    """NumPy, native C, `Agent.act` and other runtimes, from the same weights."""
    numpy = Form("NumPy", executor.act, "Executor.act")
    if executor.memory:
        numpy = policy_form("NumPy", executor.policy, executor.spec)
    others = [_runtime_form(name, executor) for name in _RUNTIMES]
    return [numpy, _kernel(executor), _agent(executor), *others]


def _runtime_form(name: str, executor: Executor) -> Form:
    """Make the form of another runtime; it may be missing."""
    make, remedy = _RUNTIMES[name]
    if executor.memory and make is not _onnx_runtime:
        # Their inputs are bound to one tick: a memory would have to go round.
        return Form(name, None, "not timed for an executor with a memory")
    try:
        return Form(name, *make(executor))
    except ModuleNotFoundError as error:
        return Form(name, None, f"no package {error.name!r}: {remedy}")


def _kernel(executor: Executor) -> Form:
    name = "native kernel"
    native = compile_native(executor)
    if native is None:
        return Form(name, None, "no C compiler (cc, gcc, clang)")
    native.obs[:] = executor.mean

    # `run` points into the memory of `native`, which has to stay.
    def decide(_: Floats, run: Any = native.run, _keep: Any = native) -> Any:
        return run()

    return Form(name, decide, "Native.run alone")


def _agent(executor: Executor) -> Form:
    native = compile_native(executor) is not None
    note = "native, as in a loop" if native else "in NumPy: no C compiler"
    return Form("Agent.act", Agent(executor).act, note)


def _onnx_runtime(executor: Executor) -> _Made:
    """The executor as an ONNX graph, normaliser and actions inside, on one thread."""
    session, name = _session(executor)
    memory = np.zeros((1, executor.memory), np.float32)

    def decide(obs: Floats) -> Any:
        (actions,) = session.run(["action"], {"obs": obs[None]})
        return one_action(actions, executor.spec)

    def remembering(obs: Floats) -> Any:
        nonlocal memory
        given = {"obs": obs[None], "memory": memory}
        actions, memory = session.run(["action", "memory_out"], given)
        return one_action(actions, executor.spec)

    return remembering if executor.memory else decide, f"{name}, session.run"


def _onnx_bound(executor: Executor) -> _Made:
    """The same graph with its input and output bound to memory in advance."""
    session, name = _session(executor)
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


def _session(executor: Executor) -> tuple[Any, str]:
    """Make a session on one thread; gives it with ONNX Runtime's version."""
    onnxruntime: Any = import_module("onnxruntime")
    from agentkd.deploy.onnx import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(to_onnx(executor), options, providers=providers)
    return session, str(onnxruntime.__version__)


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


_EXPORT = 'pip install "agentkd[export]"'
_RUNTIMES: dict[str, tuple[Callable[[Executor], _Made], str]] = {
    "ONNX Runtime": (_onnx_runtime, _EXPORT),
    "ONNX, bound": (_onnx_bound, _EXPORT),
    "torch eager": (_torch_eager, _TRAIN),
    EXECUTORCH: (
        _executorch,
        "pip install executorch, or name a Python that has it: --other-python",
    ),
}
"""How each is made, and what to install where it cannot be."""


def policy_form(name: str, policy: Policy | RecurrentPolicy, spec: Spec) -> Form:
    """Any policy of ours, asked about one observation, up to its action."""
    if not isinstance(policy, RecurrentPolicy):
        feedforward: Any = policy

        def decide(obs: Floats) -> Any:
            return one_action(dists.mode(feedforward(obs[None]), spec.action), spec)

        return Form(name, decide, "agentkd's adapter")
    state = policy.initial_state(1)

    def remembering(obs: Floats) -> Any:
        nonlocal state
        dist, state = policy(obs[None], state)
        return one_action(dists.mode(dist, spec.action), spec)

    return Form(name, remembering, "agentkd's adapter, with memory")


def acting_form(executor: Executor) -> Form:
    """An executor as it acts in a loop: native where there is a compiler, else NumPy."""
    native = compile_native(executor)
    if native is None:
        return replace(policy_form("NumPy", executor.policy, executor.spec), note="")
    return Form("native", native.act)


def missing(error: ModuleNotFoundError) -> str:
    """Say which package for training is missing, and what to install."""
    return f"no package {error.name!r}: {_TRAIN}"


def time_elsewhere(python: str, executor: Executor, *, seconds: float, rounds: int) -> Latency:
    """Time ExecuTorch by a Python that has it, one thread; where it fails, its note says why."""
    nothing = Latency(EXECUTORCH, math.nan, math.nan, math.nan, 0)
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        file = Path(folder) / "executor.akd"
        write_bundle(file, executor)
        # This library and none of the packages that lie beside it.
        home = Path(__file__).parents[1]
        (Path(folder) / "agentkd").symlink_to(home, target_is_directory=True)
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
