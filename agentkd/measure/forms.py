"""The forms in which one executor or planner decides, side by side."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.executors.executor import Executor, one_action
from agentkd.executors.native import compile_native
from agentkd.measure.forms_torch import executorch, torch_eager
from agentkd.measure.latency import Form
from agentkd.runtime.agent import Agent
from agentkd.spec import Spec
from agentkd.types import Floats, Policy, RecurrentPolicy


def executor_forms(executor: Executor) -> list[Form]:
    """NumPy, native C, `Agent.act` and other runtimes, from the same weights."""
    if executor.memory:
        # Their inputs are bound to one tick: a memory would have to go round.
        without = "not timed for an executor with a memory"
        names = ("ONNX, bound", "torch eager", "ExecuTorch")
        return [
            policy_form("NumPy", executor.policy, executor.spec),
            _kernel(executor),
            _agent(executor),
            onnx_runtime(executor),
            *(Form(name, None, without) for name in names),
        ]
    return [
        Form("NumPy", executor.act, "Executor.act"),
        _kernel(executor),
        _agent(executor),
        onnx_runtime(executor),
        onnx_bound(executor),
        torch_eager(executor),
        executorch(executor),
    ]


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


def onnx_runtime(executor: Executor) -> Form:
    """The executor as an ONNX graph, normaliser and actions inside, on one thread."""
    name = "ONNX Runtime"
    try:
        session = _session(executor)
    except ModuleNotFoundError as error:
        return Form(name, None, missing(error, "export"))

    def decide(obs: Floats) -> Any:
        (actions,) = session.run(["action"], {"obs": obs[None]})
        return one_action(actions, executor.spec)

    memory = np.zeros((1, executor.memory), np.float32)

    def remembering(obs: Floats) -> Any:
        nonlocal memory
        given = {"obs": obs[None], "memory": memory}
        actions, memory = session.run(["action", "memory_out"], given)
        return one_action(actions, executor.spec)

    chosen = remembering if executor.memory else decide
    return Form(name, chosen, f"{_onnx_version()}, session.run")


def onnx_bound(executor: Executor) -> Form:
    """The same graph with its input and output bound to memory in advance."""
    name = "ONNX, bound"
    try:
        session = _session(executor)
        onnxruntime: Any = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        return Form(name, None, missing(error, "export"))
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

    return Form(name, decide, f"{_onnx_version()}, io_binding")


def _session(executor: Executor) -> Any:
    onnxruntime: Any = import_module("onnxruntime")
    from agentkd.deploy.onnx import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        to_onnx(executor), options, providers=["CPUExecutionProvider"]
    )


def _onnx_version() -> str:
    return str(import_module("onnxruntime").__version__)


def policy_form(name: str, policy: Policy | RecurrentPolicy, spec: Spec) -> Form:
    """Any policy of ours, asked about one observation, up to its action."""
    if isinstance(policy, RecurrentPolicy):
        return _recurrent_form(name, policy, spec)
    feedforward: Any = policy

    def decide(obs: Floats) -> Any:
        return one_action(dists.mode(feedforward(obs[None]), spec.action), spec)

    return Form(name, decide, "agentkd's adapter")


def _recurrent_form(name: str, policy: RecurrentPolicy, spec: Spec) -> Form:
    state = policy.initial_state(1)

    def decide(obs: Floats) -> Any:
        nonlocal state
        dist, state = policy(obs[None], state)
        return one_action(dists.mode(dist, spec.action), spec)

    return Form(name, decide, "agentkd's adapter, with memory")


def acting_form(executor: Executor) -> Form:
    """An executor as it acts in a loop: native where that is to be had, else NumPy."""
    native = compile_native(executor)
    if native is None:
        return replace(policy_form("NumPy", executor.policy, executor.spec), note="")
    return Form("native", native.act)


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """Say which package is missing, and what to install."""
    return f'no package {error.name!r}: pip install "agentkd[{extra}]"'


def alike(form: Form, reference: Form, obs: Floats, spec: Spec) -> float:
    """How far two forms agree on observations (n, size), 0 to 1."""
    assert form.decide is not None
    assert reference.decide is not None
    mine = np.stack([np.asarray(form.decide(each)) for each in obs])
    theirs = np.stack([np.asarray(reference.decide(each)) for each in obs])
    return float(dists.agreement(mine, theirs, spec.action).mean())
