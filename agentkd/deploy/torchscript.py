"""An executor as TorchScript, for programs that have LibTorch anyway."""

from __future__ import annotations

import io
import warnings
from importlib import import_module
from typing import Any

import numpy as np

from agentkd.deploy.programs import Answer
from agentkd.dists import bounds
from agentkd.errors import NumbersError
from agentkd.executors.executor import Executor
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import Floats


def to_torchscript(executor: Executor) -> bytes:
    """Write an executor as a TorchScript module.

    Its `forward` takes float32 (batch, obs) and gives the action in the environment's units and the
    last layer's numbers, as the plain ONNX graph does. With a memory it takes (batch, memory) as
    well, and gives the memory that follows at the end.

    Raises:
        NumbersError: If a weight is NaN or infinite.
    """
    torch: Any = import_module("torch")
    if not np.isfinite(executor.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights is not written.")
    module = _module(executor)
    example = [torch.from_numpy(np.stack([executor.mean, executor.mean + 1]))]
    if executor.memory:
        example.append(torch.zeros((2, executor.memory)))
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, tuple(example), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), out)
    return out.getvalue()


def run_torchscript(executor: Executor, obs: Floats) -> Answer:
    """Ask the TorchScript module about observations (batch, obs).

    With a memory they are a sequence that begins with none.
    """
    torch: Any = import_module("torch")
    rows = torch.from_numpy(np.ascontiguousarray(obs))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(io.BytesIO(to_torchscript(executor)))
        if executor.memory:
            memory = torch.zeros((1, executor.memory))
            pairs = []
            for row in rows:
                action, out, memory = module(row[None], memory)
                pairs.append((action, out))
            actions, outputs = (torch.cat(each) for each in zip(*pairs, strict=True))
        else:
            actions, outputs = module(rows)
    return Answer(outputs.numpy(), actions.numpy().reshape(len(obs), -1))


def _module(executor: Executor) -> Any:
    import torch
    from torch import nn

    from agentkd.executors.network import Network

    class Executor(nn.Module):
        """The whole executor, from an observation to an action."""

        def __init__(self) -> None:
            super().__init__()
            self.network = Network(executor)
            if isinstance(executor.spec.action, BoxSpec):
                for name, values in zip(("low", "high"), bounds(executor.spec.action), strict=True):
                    self.register_buffer(name, torch.from_numpy(values.copy()))

        def forward(self, obs: Any, memory: Any = None) -> Any:
            held = dict(self.named_buffers())
            if memory is None:
                x = self.network(obs)
                return _act(executor, held, x), x
            begins = obs.new_zeros((1, obs.shape[0]), dtype=torch.bool)
            ticks, after = self.network.follow(obs[None], begins, memory)
            return _act(executor, held, ticks[0]), ticks[0], after

    return Executor().eval()


def _act(executor: Executor, held: Any, x: Any) -> Any:
    import torch

    action = executor.spec.action
    match executor.head:
        case "categorical":
            assert isinstance(action, DiscreteSpec)
            return x.argmax(1) + action.start
        case "multicategorical":
            assert isinstance(action, MultiDiscreteSpec)
            pieces = x.split(action.sizes, dim=1)
            return torch.stack([each.argmax(1) for each in pieces], 1)
        case "bernoulli":
            return (x > 0).to(torch.int8)
        case "squashed" | "clipped":
            low, high = held["low"], held["high"]
            if executor.head == "squashed":
                x = low + 0.5 * (torch.tanh(x) + 1) * (high - low)
            box: Any = action
            return torch.minimum(torch.maximum(x, low), high).reshape(-1, *box.shape)
