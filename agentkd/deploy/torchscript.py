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
from agentkd.executors.frozen import Frozen
from agentkd.spec import DiscreteSpec, MultiDiscreteSpec
from agentkd.types import Floats


def to_torchscript(frozen: Frozen) -> bytes:
    """Write an executor as a TorchScript module.

    Its `forward` takes float32 (batch, obs) and gives the action in the environment's
    units and the last layer's numbers, as the plain ONNX graph does.

    Raises:
        NumbersError: If a weight is NaN or infinite.
    """
    torch: Any = import_module("torch")
    if not np.isfinite(frozen.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights is not written.")
    module = _module(frozen)
    example = torch.from_numpy(np.stack([frozen.mean, frozen.mean + 1]))
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # torch calls TorchScript deprecated; whoever asks for it has their reasons.
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, (example,), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), out)
    return out.getvalue()


def run_torchscript(frozen: Frozen, obs: Floats) -> Answer:
    """Ask the TorchScript module about observations (batch, obs)."""
    torch: Any = import_module("torch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(io.BytesIO(to_torchscript(frozen)))
        actions, outputs = module(torch.from_numpy(np.ascontiguousarray(obs)))
    return Answer(outputs.numpy(), actions.numpy().reshape(len(obs), -1))


def _module(frozen: Frozen) -> Any:
    import torch
    from torch import nn

    class Executor(nn.Module):
        """The whole executor, from an observation to an action."""

        def __init__(self) -> None:
            super().__init__()
            for name, values in _buffers(frozen).items():
                self.register_buffer(name, torch.from_numpy(values.copy()))

        def forward(self, obs: Any) -> Any:
            held = dict(self.named_buffers())
            x = (obs - held["mean"]) * held["scale"]
            x = torch.clamp(x, -frozen.clip, frozen.clip)
            for index, layer in enumerate(frozen.layers):
                x = nn.functional.linear(
                    x, held[f"weight{index}"], held[f"bias{index}"]
                )
                if layer.activation != "none":
                    x = _ACTIVATIONS[layer.activation](x)
            return _act(frozen, held, x), x

    return Executor().eval()


def _relu(x: Any) -> Any:
    return x.clamp(min=0)


def _elu(x: Any) -> Any:
    import torch

    return torch.nn.functional.elu(x)


def _silu(x: Any) -> Any:
    return x * x.sigmoid()


def _tanh(x: Any) -> Any:
    return x.tanh()


_ACTIVATIONS = {"relu": _relu, "tanh": _tanh, "silu": _silu, "elu": _elu}


def _buffers(frozen: Frozen) -> dict[str, Floats]:
    action: Any = frozen.spec.action
    held = {"mean": frozen.mean, "scale": frozen.scale}
    if frozen.head in ("squashed", "clipped"):
        held["low"], held["high"] = bounds(action)
    for index, layer in enumerate(frozen.layers):
        held[f"weight{index}"], held[f"bias{index}"] = layer.weight, layer.bias
    return held


def _act(frozen: Frozen, held: Any, x: Any) -> Any:
    import torch

    action = frozen.spec.action
    match frozen.head:
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
            if frozen.head == "squashed":
                x = low + 0.5 * (torch.tanh(x) + 1) * (high - low)
            box: Any = action
            return torch.minimum(torch.maximum(x, low), high).reshape(-1, *box.shape)
