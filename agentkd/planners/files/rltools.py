"""Checkpoints of RLtools in HDF5, such as RAPTOR's (`foundation_policy/__init__.py`).

A sequence of dense layers, at most one of them a GRU, whose gates lie as torch's do: r, z, n.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentkd.errors import AgentkdError, LoadError
from agentkd.extras import needing
from agentkd.files import loading
from agentkd.hdf5 import attribute, prove
from agentkd.planners.files.network import Answer, Layers, Network, Step, fit
from agentkd.planners.files.options import Assumptions
from agentkd.planners.files.weights import REMEDY
from agentkd.spec import Spec

_MOST_LAYERS = 64
_MOST_NUMBERS = 1 << 26


class FastTanh(nn.Module):
    """x (27 + x²) / (27 + 9 x²) within [-3, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to each number."""
        x = x.clamp(-3.0, 3.0)
        return x * (27.0 + x * x) / (27.0 + 9.0 * x * x)


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "IDENTITY": nn.Identity,
    "RELU": nn.ReLU,
    "SIGMOID": nn.Sigmoid,
    "TANH": nn.Tanh,
    "FAST_TANH": FastTanh,
}


def read(path: Path, spec: Spec | None, about: Assumptions) -> tuple[Network, Spec]:
    """Rebuild the actor of a checkpoint.

    Raises:
        ConfigError: If h5py is missing.
        LoadError: If it holds no such actor.
        SpecError: If it is for another environment.
    """
    with needing(f"The planner {about.where}"):
        h5py = import_module("h5py")
    prove(path, _MOST_NUMBERS)
    with loading(about.where, keep=(AgentkdError,)), h5py.File(path, "r") as file:
        return fit(_network(_flat(_inside(file, "actor"))), spec, about)


def _inside(group: Any, name: str) -> Any:
    """What lies in a group, in this file and not in another."""
    h5py = import_module("h5py")
    if not isinstance(group, h5py.Group) or not isinstance(
        group.get(name, getlink=True), h5py.HardLink
    ):
        raise LoadError(f"it holds no {name!r} where RLtools has one. {REMEDY}")
    return group[name]


def _array(group: Any, name: str) -> Tensor:
    """Read the numbers of a parameter after comparing their size with what is stored."""
    h5py = import_module("h5py")
    found = _inside(_inside(group, name), "parameters")
    array = isinstance(found, h5py.Dataset) and found.shape is not None
    plain = array and found.dtype == np.float32 and found.chunks is None
    if not plain or found.external or found.is_virtual:
        raise LoadError(f"{name!r} is no plain array of float32")
    if found.size > _MOST_NUMBERS or found.id.get_storage_size() != 4 * found.size:
        raise LoadError(f"{name!r} does not have the {found.size:,} numbers that it says")
    values = np.array(found[()], np.float32)
    if not np.isfinite(values).all():
        raise LoadError(f"{name!r} holds NaN or infinity. Use an earlier checkpoint.")
    return torch.from_numpy(values)


def _kind(group: Any) -> str:
    return str(attribute(group, "type", ""))[:40]


def _flat(group: Any) -> list[Any]:
    """The layers of an actor in their order, out of sequences and multilayer perceptrons."""
    found, waiting, looked = list[Any](), [group], 0
    while waiting:
        each, looked = waiting.pop(0), looked + 1
        kind = _kind(each)
        if kind == "sequential":
            inner = _inside(each, "layers")
            names = [str(index) for index in range(min(len(inner), _MOST_LAYERS + 1))]
        elif kind == "mlp":
            inner = each
            between = int(attribute(each, "num_layers", 2)) - 2
            if between != sum(name.startswith("hidden_layer_") for name in inner):
                raise LoadError(f"a perceptron says that it has {between + 2} layers")
            hidden = [f"hidden_layer_{index}" for index in range(min(between, _MOST_LAYERS))]
            names = ["input_layer", *hidden, "output_layer"]
        else:
            found.append(each)
            continue
        # A group may lie in itself.
        if max(looked, len(found) + len(waiting) + len(names)) > _MOST_LAYERS:
            raise LoadError(f"it has more than {_MOST_LAYERS} layers")
        waiting[:0] = [_inside(inner, name) for name in names]
    return found


def _network(groups: list[Any]) -> Network:
    """Build the layers before and after the memory."""
    before, after = list[Step](), list[Step]()
    memory: nn.GRU | None = None
    begin: Tensor | None = None
    squash, count = False, 0
    for group in groups:
        kind = _kind(group)
        if kind == "gru" and memory is None:
            memory, begin = _gru(group)
            count += sum(each.numel() for each in memory.parameters()) + begin.numel()
        elif kind == "sample_and_squash" and group is groups[-1]:
            squash = True
        elif "activation_function" in group.attrs:
            step = _dense(group)
            count += step[0].numel() + len(step[0])
            (before if memory is None else after).append(step)
        else:
            raise LoadError(f"a layer of kind {kind!r} is not known. {REMEDY}")
    first, last = (before, after) if memory is not None else ([], before)
    if not last:
        raise LoadError(f"it has no dense layer at its end. {REMEDY}")
    weight, bias, activation = last[-1]
    if squash:
        # Of mean and deviation, as SAC has them, the mean acts.
        half = len(weight) // 2
        last[-1] = weight[:half], None if bias is None else bias[:half], activation
    inputs = first[0][0].shape[1] if first else memory.input_size if memory else last[0][0].shape[1]
    return Network(
        inputs=inputs,
        first=Layers(tuple(first)),
        memory=memory,
        last=Layers(tuple(last)),
        answer=Answer("point", len(last[-1][0]), squash=squash),
        name="RLtools actor",
        parameters=count,
        begin=begin,
    )


def _dense(group: Any) -> Step:
    """Read a dense layer with its activation."""
    weight, bias = _array(group, "weights"), _array(group, "biases").reshape(-1)
    if weight.ndim != 2 or len(bias) != len(weight):
        raise LoadError(f"a dense layer of weights {tuple(weight.shape)}, biases {len(bias)}")
    name = str(attribute(group, "activation_function", ""))[:40]
    if name not in _ACTIVATIONS:
        raise LoadError(f"the activation {name!r} is not known. {REMEDY}")
    return weight, bias, _ACTIVATIONS[name]()


def _gru(group: Any) -> tuple[nn.GRU, Tensor]:
    """Read a GRU, and its outputs where an episode begins, (1, width)."""
    own = {
        name: _array(group, other)
        for name, other in (
            ("weight_ih_l0", "weights_input"),
            ("weight_hh_l0", "weights_hidden"),
            ("bias_ih_l0", "biases_input"),
            ("bias_hh_l0", "biases_hidden"),
        )
    }
    inward, around = own["weight_ih_l0"], own["weight_hh_l0"]
    if inward.ndim != 2 or around.ndim != 2:
        raise LoadError("a GRU whose weights are no matrices")
    # On no device: the weights keep their own memory.
    made = nn.GRU(inward.shape[1], around.shape[1], batch_first=True, device="meta")
    made.load_state_dict(own, assign=True)
    begin = _array(group, "initial_hidden_state").reshape(1, -1)
    if begin.shape[1] != made.hidden_size:
        raise LoadError(f"a GRU of {made.hidden_size} numbers begins with {begin.shape[1]}")
    return made.requires_grad_(requires_grad=False).eval(), begin
