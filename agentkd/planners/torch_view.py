"""Planners whose inner working is at hand: numbers in torch, with gradients.

An executor file, a feed-forward policy of Stable-Baselines3 and a torch module are opened by
`opened`. A policy of one's own is, if it has a method `opened` that gives an `Opened`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, distributions, nn

from agentkd import dists
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network, Trace
from agentkd.planners.adapt import ModulePolicy
from agentkd.planners.sb3 import heads
from agentkd.planners.sb3 import network as numpy_network
from agentkd.planners.sb3.build import Sb3Policy
from agentkd.planners.sb3.network import Linear, Perceptron
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import Kind

Forward = Callable[[Tensor, Trace | None], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """What a planner computes, in torch.

    Attributes:
        kind: Of its answers.
        answer: Gives for observations in the environment's units, (batch, obs), what
            `agentkd.dists.pack` makes of the planner's answer, (batch, width), with a gradient; a
            `Trace` takes what is computed on the way.
    """

    kind: Kind
    answer: Forward

    def trace(self, obs: Tensor) -> Trace:
        """Give what is computed on the way for observations (batch, obs)."""
        trace = Trace()
        self.answer(obs, trace)
        return trace


@runtime_checkable
class OpenPolicy(Protocol):
    """A policy that tells what it computes."""

    def opened(self) -> Opened:
        """Give what it computes."""
        ...


def opened(policy: Any, user: str) -> Opened:
    """Open a planner's policy.

    Args:
        policy: What answers.
        user: Who wants to look into it, for messages.

    Raises:
        ConfigError: If it cannot be opened.
    """
    if isinstance(policy, OpenPolicy):
        return policy.opened()
    if isinstance(policy, Executor) and not policy.memory:
        return _executor(policy)
    if isinstance(policy, Sb3Policy):
        return _sb3(policy, user)
    if isinstance(policy, ModulePolicy):
        return _module(policy, user)
    what = (
        "no planner is at hand where it learns, as from a dataset or in a live run"
        if policy is None
        else f"a {type(policy).__name__} shows only its answers"
    )
    raise ConfigError(
        f"{user} looks into the planner, but {what}. Distil with `agentkd distill "
        "--planner` from a single executor file (.akd), feed-forward SB3 save or torch "
        "module, or leave the term out."
    )


def _executor(executor: Executor) -> Opened:
    network = Network(executor).requires_grad_(requires_grad=False)
    spec = executor.spec
    kind: Kind = "point"
    if executor.head in ("categorical", "multicategorical", "bernoulli"):
        kind = executor.head

    def answer(obs: Tensor, trace: Trace | None) -> Tensor:
        outputs = network.from_normalised(network.normalise(obs), trace)
        if executor.head == "squashed":
            return _unsquashed(torch.tanh(outputs), spec.action)
        return outputs

    return Opened(kind, answer)


def _unsquashed(squashed: Tensor, action: ActionSpec) -> Tensor:
    low, high = map(torch.tensor, dists.bounds(action))
    return low + 0.5 * (squashed + 1.0) * (high - low)


_BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": torch.relu,
    "Tanh": torch.tanh,
    "ELU": nn.functional.elu,
    "LeakyReLU": nn.functional.leaky_relu,
    "Sigmoid": torch.sigmoid,
    "SiLU": nn.functional.silu,
    "Identity": lambda x: x,
}


def _chain(perceptron: Perceptron, user: str) -> Callable[[Tensor, Trace | None], Tensor]:
    known = (
        made
        for name, made in _BETWEEN.items()
        if numpy_network.activation(name) is perceptron.between
    )
    between = next(known, None)
    if between is None:
        raise ConfigError(
            f"{user} looks into the planner, and its activation is none of "
            f"{', '.join(_BETWEEN)}. Leave the term out."
        )
    layers = [_linear(each) for each in perceptron.layers]
    last = len(layers) - (0 if perceptron.ends else 1)

    def run(x: Tensor, trace: Trace | None) -> Tensor:
        for index, (weight, bias) in enumerate(layers):
            x = nn.functional.linear(x, weight, bias)
            if index < last:
                x = between(x)
            if trace is not None:
                trace.layers.append(x)
        return x

    return run


def _linear(layer: Linear) -> tuple[Tensor, Tensor | None]:
    bias = None if layer.bias is None else torch.tensor(layer.bias)
    return torch.tensor(layer.weight), bias


def _sb3(policy: Sb3Policy, user: str) -> Opened:
    inputs = policy.inputs
    if len(inputs.features) != 1 or not inputs.features[0].plain:
        raise ConfigError(
            f"{user} looks into the planner, which takes its observations in parts or "
            "as images; only flat ones are followed. Leave the term out."
        )
    trunk = _chain(policy.trunk, user)
    kind, head = _head(policy.head, policy.trunk, user)
    known = inputs.normaliser
    if known is not None:
        mean, deviation = (
            torch.tensor(each, dtype=torch.float32) for each in (known.mean, known.deviation)
        )
        clip = torch.tensor(np.asarray(known.clip), dtype=torch.float32)

    def answer(obs: Tensor, trace: Trace | None) -> Tensor:
        if known is not None:
            obs = torch.clamp((obs - mean) / deviation, -clip, clip)
        return head(trunk(obs, trace), trace)

    return Opened(kind, answer)


def _alone(layer: Linear | Perceptron, trunk: Perceptron, user: str) -> Forward:
    if isinstance(layer, Linear):
        layer = Perceptron((layer,), trunk.between, ends=False)
    return _chain(layer, user)


def _head(head: heads.Head, trunk: Perceptron, user: str) -> tuple[Kind, Forward]:
    match head:
        case heads.Choices(layer, action):
            return _choices(action), _alone(layer, trunk, user)
        case heads.Values(layers, choices):
            return "qvalues", _values(_alone(layers, trunk, user), choices)
        case heads.Diagonal(layer, log_std):
            return "gaussian", _wide(_alone(layer, trunk, user), torch.tensor(log_std))
        case heads.Squashed(layer, deviation):
            mean, spread = (_alone(each, trunk, user) for each in (layer, deviation))
            return "squashed", _spreading(mean, spread)
        case heads.StateDependent():
            kind: Kind = "squashed" if head.squash else "gaussian"
            return kind, _depending(head, _alone(head.layer, trunk, user))
        case heads.Deterministic():
            return "point", _point(head, _alone(head.layers, trunk, user))
    raise ConfigError(
        f"{user} looks into the planner, which ends in a {type(head).__name__}. Leave the term out."
    )


def _values(run: Forward, choices: int) -> Forward:
    def answer(x: Tensor, trace: Trace | None) -> Tensor:
        out = run(x, trace)
        return out.reshape(len(out), -1, choices).mean(1)

    return answer


def _spreading(mean: Forward, spread: Forward) -> Forward:
    def answer(x: Tensor, trace: Trace | None) -> Tensor:
        return torch.cat([mean(x, trace), spread(x, None).clamp(-20.0, 2.0)], 1)

    return answer


def _depending(head: heads.StateDependent, run: Forward) -> Forward:
    squared = torch.tensor(head.deviation()).square()
    limit = head.limit

    def answer(x: Tensor, trace: Trace | None) -> Tensor:
        mean = run(x, trace).clamp(-limit, limit)
        log_std = 0.5 * (x.square() @ squared + 1e-6).log()
        return torch.cat([mean, log_std.expand_as(mean)], 1)

    return answer


def _point(head: heads.Deterministic, run: Forward) -> Forward:
    box = head.action
    low, high = torch.tensor(box.low), torch.tensor(box.high)

    def answer(x: Tensor, trace: Trace | None) -> Tensor:
        out = run(x, trace)
        if head.squash:
            return _unsquashed(torch.tanh(out), box)
        return torch.clamp(out, low, high)

    return answer


def _choices(action: ActionSpec) -> Kind:
    match action:
        case DiscreteSpec():
            return "categorical"
        case MultiDiscreteSpec():
            return "multicategorical"
    return "bernoulli"


def _wide(run: Forward, log_std: Tensor) -> Forward:
    def answer(x: Tensor, trace: Trace | None) -> Tensor:
        mean = run(x, trace)
        return torch.cat([mean, log_std.expand_as(mean)], 1)

    return answer


def _module(policy: ModulePolicy, user: str) -> Opened:
    own, spec = policy.module, policy.spec
    if callable(getattr(own, "opened", None)):
        found: Opened = own.opened()
        return found
    if spec.obs.layout != "single" or spec.obs.parts[0].sizes:
        raise ConfigError(
            f"{user} looks into the planner, which takes its observations in parts; "
            "only a single box of numbers is followed. Leave the term out."
        )
    shape = spec.obs.parts[0].shape

    def answer(obs: Tensor, trace: Trace | None) -> Tensor:
        del trace  # Of a stranger's layers nothing is known.
        return _packed(own(obs.reshape(len(obs), *shape)), spec.action, user)

    kind = dists.kind_of(policy(np.zeros((1, spec.obs.size), np.float32)))
    return Opened(kind, answer)


def _packed(found: Any, action: ActionSpec, user: str) -> Tensor:
    """A module's answer as `agentkd.dists.pack` lays it out."""
    if isinstance(found, distributions.Independent):
        return _packed(found.base_dist, action, user)
    if isinstance(found, distributions.Categorical | distributions.Bernoulli):
        logits: Tensor = found.logits
        return logits
    if isinstance(found, distributions.Normal):
        return torch.cat([found.mean, found.stddev.log()], 1)
    if isinstance(found, Tensor):
        return found.reshape(len(found), -1)
    pair = isinstance(found, tuple | list) and len(found) == 2
    if pair and isinstance(action, BoxSpec):
        mean, log_std = found
        return torch.cat([mean, log_std.expand_as(mean)], 1)
    raise ConfigError(
        f"{user} looks into the planner, a module that answers with a "
        f"{type(found).__name__}. Let it return a tensor, a single torch distribution "
        "or, for boxes, a pair (mean, log_std)."
    )
