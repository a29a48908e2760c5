"""The forms in which one executor or planner decides, side by side."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.executors.executor import Executor, one_action
from agentkd.executors.native import compile_native
from agentkd.measure.latency import Form
from agentkd.runtime.agent import Agent
from agentkd.spec import Spec
from agentkd.types import Floats, Policy, RecurrentPolicy


def executor_forms(executor: Executor) -> list[Form]:
    """NumPy, native C, `Agent.act` and ONNX Runtime, from the same weights."""
    numpy = Form("NumPy", executor.act, "Executor.act")
    if executor.memory:
        numpy = policy_form("NumPy", executor.policy, executor.spec)
    return [numpy, _kernel(executor), _agent(executor), _onnx(executor)]


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


def _onnx(executor: Executor) -> Form:
    """The executor as an ONNX graph, normaliser and actions inside; it may be missing."""
    name = "ONNX Runtime"
    try:
        session, version = onnx_session(executor)
    except ModuleNotFoundError as error:
        return Form(name, None, f'no package {error.name!r}: pip install "agentkd[export]"')
    memory = np.zeros((1, executor.memory), np.float32)

    def decide(obs: Floats) -> Any:
        (actions,) = session.run(["action"], {"obs": obs[None]})
        return one_action(actions, executor.spec)

    taken = np.zeros(executor.spec.obs.taken, np.float32)

    def remembering(obs: Floats) -> Any:
        nonlocal memory
        row = np.concatenate([obs, taken]) if taken.size else obs
        given = {"obs": row[None], "memory": memory}
        actions, memory = session.run(["action", "memory_out"], given)
        return one_action(actions, executor.spec)

    return Form(name, remembering if executor.memory else decide, f"{version}, session.run")


def onnx_session(executor: Executor) -> tuple[Any, str]:
    """Make a session of ONNX Runtime on one thread; give it with the version.

    Raises:
        ModuleNotFoundError: If onnx or onnxruntime is not installed.
    """
    from agentkd.deploy.onnx import session, to_onnx

    return session(to_onnx(executor)), str(import_module("onnxruntime").__version__)


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
