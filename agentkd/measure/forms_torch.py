"""The forms of an executor that torch is needed for: eager and ExecuTorch."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.executors.executor import Executor, distribution, one_action
from agentkd.measure.latency import Form
from agentkd.types import Floats

EXECUTORCH = "ExecuTorch"
_TRAIN = 'pip install "agentkd[train]"'
_EXECUTORCH = "pip install executorch, or name a Python that has it: --other-python"


def torch_eager(executor: Executor) -> Form:
    """The executor's trainable form in torch, from an array to an action."""
    name = "torch eager"
    try:
        import torch

        from agentkd.executors.network import Network
    except ModuleNotFoundError as error:
        return Form(name, None, f"no package {error.name!r}: {_TRAIN}")
    network = Network(executor).eval()

    def decide(obs: Floats) -> Any:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(obs[None])).numpy()
        return _action(executor, outputs)

    return Form(name, decide, torch.__version__)


def executorch(executor: Executor) -> Form:
    """The executor lowered to XNNPACK, in ExecuTorch's runtime for Python."""
    try:
        import torch

        from agentkd.executors.network import Network

        exir: Any = import_module("executorch.exir")
        xnnpack: Any = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        runtime: Any = import_module("executorch.runtime")
    except ModuleNotFoundError as error:
        return Form(EXECUTORCH, None, f"no package {error.name!r}: {_EXECUTORCH}")
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
        return Form(EXECUTORCH, None, f"it does not lower: {reason[:200]}")
    finally:
        logging.getLogger().setLevel(level)

    # The program has to stay as long as its method.
    def decide(obs: Floats, _keep: Any = program) -> Any:
        (outputs,) = method.execute([torch.from_numpy(obs[None])])
        return _action(executor, outputs.numpy())

    return Form(EXECUTORCH, decide, f"{version('executorch')}, XNNPACK")


def _action(executor: Executor, outputs: Floats) -> Any:
    spec = executor.spec
    actions = dists.mode(distribution(executor.head, np.asarray(outputs), spec), spec.action)
    return one_action(actions, spec)
