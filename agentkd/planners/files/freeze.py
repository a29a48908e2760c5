"""A checkpoint's network as an executor, as it is: nothing is distilled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from agentkd import dists
from agentkd.errors import LoadError
from agentkd.executors.architecture import Architecture, initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation, Dense, Gru, Layer, Lstm
from agentkd.planners.files.network import FilePolicy, Network, RecurrentFilePolicy, Step
from agentkd.planners.planner import Planner
from agentkd.spec import ActionSpec
from agentkd.types import Floats

_NAMES: dict[str, Activation] = {
    "ReLU": "relu",
    "Tanh": "tanh",
    "SiLU": "silu",
    "ELU": "elu",
    "Identity": "none",
}
_UNCLIPPED = 1e6
"""Where a network does not clip what it observes: further away than anything is."""
_REMEDY = "Distil it instead."


def is_checkpoint(planner: Planner) -> bool:
    """Whether a planner is a checkpoint's network, which `from_checkpoint` takes."""
    return isinstance(planner.policy, FilePolicy | RecurrentFilePolicy)


def from_checkpoint(planner: Planner) -> Executor:
    """Make an executor of a checkpoint's network; its answer is the most probable action.

    Linear layers with one activation, or these, a GRU or LSTM of one layer, and a linear layer.

    Raises:
        LoadError: If no executor does the same.
    """
    assert isinstance(planner.policy, FilePolicy | RecurrentFilePolicy)
    network, spec, name = planner.policy.network, planner.spec, planner.name
    if network.begin is not None and bool(network.begin.any()):
        raise LoadError(f"{name} begins with a memory that is not zero. {_REMEDY}")
    steps = list(network.last.steps)
    squashed = network.answer.squash or network.answer.kind == "squashed"
    steps[-1] = _last(steps[-1], network, spec.action, name)
    dense = [_dense(each, name) for each in (*network.first.steps, *steps)]
    widths = [len(each.bias) for each in dense[:-1]]
    between = {each.activation for each in dense[:-1]}
    layers: list[Layer] = [*dense]
    if len(between) > 1 or "none" in between:
        raise LoadError(f"{name} has layers with the activations {sorted(between)}. {_REMEDY}")
    kind: Any = "mlp"
    if network.memory is not None:
        kind = "gru" if isinstance(network.memory, nn.GRU) else "lstm"
        if network.memory.num_layers != 1 or len(steps) != 1 or not network.memory.bias:
            width = network.memory.hidden_size
            raise LoadError(
                f"{name} has layers after its memory, or several memories. Distil it instead: "
                f"agentkd distill ENV --planner FILE --executor {kind}:{width}."
            )
        widths.append(network.memory.hidden_size)
        layers.insert(-1, _memory(network.memory))
    architecture = Architecture(kind, tuple(widths), between.pop() if between else "relu")
    sketch = initial(str(architecture), spec, squashed=squashed)
    if squashed != (sketch.head == "squashed"):
        raise LoadError(f"{name} ends in tanh, and its actions have no bounds. {_REMEDY}")
    mean, scale, clip = _normaliser(network)
    return replace(sketch, mean=mean, scale=scale, clip=clip, layers=tuple(layers))


def _array(tensor: Tensor) -> Floats:
    return np.array(tensor.detach().numpy(), np.float32, order="C")


def _dense(step: Step, name: str) -> Dense:
    weight, bias, activation = step
    found = _NAMES.get(type(activation).__name__)
    if found is None:
        raise LoadError(
            f"{name} has the activation {type(activation).__name__}; executors have "
            f"{', '.join(_NAMES)}. {_REMEDY}"
        )
    zeros = np.zeros(len(weight), np.float32)
    return Dense(_array(weight), zeros if bias is None else _array(bias), found)


def _memory(memory: nn.GRU | nn.LSTM) -> Layer:
    own: dict[str, Any] = memory.state_dict()
    inputs, hidden = (
        Dense(_array(own[f"weight_{each}_l0"]), _array(own[f"bias_{each}_l0"]))
        for each in ("ih", "hh")
    )
    return Gru(inputs, hidden) if isinstance(memory, nn.GRU) else Lstm(inputs, hidden)


def _last(step: Step, network: Network, action: ActionSpec, name: str) -> Step:
    """The last layer without deviations, with the scale and offset of what it gives."""
    weight, bias, activation = step
    answer = network.answer
    if answer.spread == "beta" or not isinstance(activation, nn.Identity):
        raise LoadError(f"{name} does not end in a linear layer. {_REMEDY}")
    weight, bias = weight[: answer.size], None if bias is None else bias[: answer.size]
    if answer.squash and answer.kind != "squashed":
        low, high = dists.bounds(action)
        scale, offset = (
            default if each is None else each.numpy()
            for each, default in ((answer.scale, 1.0), (answer.offset, 0.0))
        )
        both = np.isfinite(high - low).all() and np.allclose(0.5 * (high - low), scale, rtol=1e-5)
        if not both or not np.allclose(0.5 * (high + low), offset, atol=1e-5):
            raise LoadError(f"{name} scales its actions to other bounds than the box's. {_REMEDY}")
        return weight, bias, activation
    if answer.scale is not None:
        weight = weight * answer.scale[:, None]
        bias = None if bias is None else bias * answer.scale
    if answer.offset is not None:
        bias = answer.offset if bias is None else bias + answer.offset
    return weight, bias, activation


def _normaliser(network: Network) -> tuple[Floats, Floats, float]:
    known, size = network.normaliser, network.inputs
    if known is None:
        return np.zeros(size, np.float32), np.ones(size, np.float32), _UNCLIPPED
    clip = known.clip if np.isfinite(known.clip) else _UNCLIPPED
    return _array(known.mean), 1.0 / _array(known.deviation), float(clip)


def difference(executor: Executor, planner: Planner, obs: Floats) -> float:
    """The largest distance between both actions for observations, (ticks, obs), of one episode.

    In the units of the action; for choices, 1 where any differs.
    """
    policy: Any = planner.policy
    mine: Any = executor.policy
    if not executor.memory:
        theirs, own = (dists.mode(each(obs), planner.spec.action) for each in (policy, mine))
        return float(np.abs(np.asarray(own, float) - np.asarray(theirs, float)).max())
    worst, state, held = 0.0, policy.initial_state(1), mine.initial_state(1)
    for row in obs:
        theirs, state = policy(row[None], state)
        own, held = mine(row[None], held)
        both = (np.asarray(dists.mode(each, planner.spec.action), float) for each in (own, theirs))
        worst = max(worst, float(np.abs(np.subtract(*both)).max()))
    return worst
