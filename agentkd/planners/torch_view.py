"""Planners whose inner working is at hand: numbers in torch, with gradients.

An executor file, a feed-forward policy of Stable-Baselines3 and a torch module are opened by
`opened`. A policy of one's own is, if it has a method `opened` that gives an `Opened`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentkd import dists
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network, Trace
from agentkd.planners.adapt import ModulePolicy
from agentkd.planners.sb3.build import Sb3Policy, unsquash
from agentkd.planners.sb3.tensors import packed
from agentkd.planners.view import Looking, RecurrentLooking
from agentkd.types import Kind

Forward = Callable[[Tensor, Trace | None], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """What a planner computes, in torch.

    `answer` gives for observations in the environment's units, (batch, obs), what
    `agentkd.dists.pack` makes of an answer of this kind, (batch, width), with a gradient; a `Trace`
    takes what is computed on the way.
    """

    kind: Kind
    answer: Forward

    def trace(self, obs: Tensor) -> Trace:
        """Give what is computed on the way for observations (batch, obs)."""
        trace = Trace()
        self.answer(obs, trace)
        return trace


def opened(policy: Any, user: str) -> Opened:
    """Open a planner's policy for a `user`, who is named in messages.

    Raises:
        ConfigError: If it cannot be opened.
    """
    if callable(getattr(policy, "opened", None)):
        found: Opened = policy.opened()
        return found
    if isinstance(policy, Executor) and not policy.memory:
        return _executor(policy)
    if isinstance(policy, Sb3Policy):
        return _sb3(policy, user)
    if isinstance(policy, ModulePolicy):
        return _module(policy, user)
    if isinstance(policy, Looking | RecurrentLooking):
        raise ConfigError(
            f"{user} looks into the planner, which sees a part of the observation or what a "
            "function makes of it (planner_sees). Let it see everything, or leave the term out."
        )
    what = (
        "no planner is at hand where it learns, as from a dataset, in a live run or for an "
        "executor with a view"
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
            return unsquash(torch.tanh(outputs), spec.action)
        return outputs

    return Opened(kind, answer)


def _sb3(policy: Sb3Policy, user: str) -> Opened:
    inputs = policy.inputs
    if inputs.features:
        raise ConfigError(
            f"{user} looks into the planner, which takes its observations in parts or "
            "as images; only flat ones are followed. Leave the term out."
        )
    known = inputs.normaliser
    if known is not None:
        mean, deviation, clip = (
            torch.tensor(np.asarray(each, np.float32))
            for each in (known.mean, known.deviation, known.clip)
        )

    def answer(obs: Tensor, trace: Trace | None) -> Tensor:
        if known is not None:
            obs = torch.clamp((obs - mean) / deviation, -clip, clip)
        return policy.head(policy.trunk(obs, trace), trace)

    return Opened(policy.head.kind, answer)


def _module(policy: ModulePolicy, user: str) -> Opened:
    own, spec = policy.module, policy.spec
    if callable(getattr(own, "opened", None)):
        return opened(own, user)
    if spec.obs.layout != "single" or spec.obs.parts[0].sizes:
        raise ConfigError(
            f"{user} looks into the planner, which takes its observations in parts; "
            "only a single box of numbers is followed. Leave the term out."
        )
    shape = spec.obs.parts[0].shape

    def answer(obs: Tensor, trace: Trace | None) -> Tensor:
        del trace  # Of a stranger's layers nothing is known.
        try:
            return packed(own(obs.reshape(len(obs), *shape)), spec.action)[1]
        except SpecError as error:
            raise ConfigError(f"{user} looks into the planner, a module. {error}") from error

    kind = dists.kind_of(policy(np.zeros((1, spec.obs.size), np.float32)))
    return Opened(kind, answer)
