"""Policies that see the world a little off, by chance or on purpose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

from agentkd.distillation.terms.robust import moved_by
from agentkd.distillation.terms.term import Ground
from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network
from agentkd.measure.perturb import Way, perturbed
from agentkd.spec import BoxSpec, ObsSpec
from agentkd.types import ActionDist, Floats, Kind, Policy, RecurrentPolicy


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done to observations.

    Attributes:
        by: "noise", Gaussian with a standard deviation of `eps`; or the worst within `eps` that one
            step, "fgsm", or several, "pgd", along the executor's own gradient find.
        eps: How far, in units of the observations' spread.
        steps: Of "pgd".
    """

    by: Way
    eps: float
    steps: int = 10

    def __post_init__(self) -> None:
        check_range("eps", self.eps, above=0, below=math.inf)
        check_range("steps", self.steps, least=1, whole=True)


def units(obs: Floats, spec: ObsSpec) -> Floats:
    """The spread of each number of observations (batch, size): (size,); 0 for choices."""
    spread: Floats = obs.std(axis=0, dtype=np.float64).astype(np.float32)
    at = 0
    for part in spec.parts:
        if part.sizes:
            spread[at : at + part.size] = 0.0
        at += part.size
    return spread


@final
class Attacked:
    """A policy that is shown observations after an attack. It is a `Policy`.

    An attack by gradients makes the executor's answer differ from its own for the true observation:
    the maximal action difference of Zhang et al. 2020, "Robust deep reinforcement learning against
    adversarial perturbations on state observations".

    Args:
        policy: What is attacked; an executor, unless it is by noise.
        attack: How.
        unit: What the attack's size counts in, (obs,); see `units`.
        seed: For draws.

    Raises:
        ConfigError: If the policy has a memory, or no gradients and would need them.
    """

    def __init__(
        self, policy: Policy | RecurrentPolicy, attack: Attack, unit: Floats, seed: int = 0
    ) -> None:
        remembers = isinstance(policy, Executor) and policy.memory > 0
        if remembers or hasattr(policy, "initial_state"):
            raise ConfigError("What has a memory is not attacked.")
        self._policy: Any = policy
        self._attack, self._unit = attack, torch.from_numpy(unit)
        self._random = torch.Generator().manual_seed(seed)
        self._network: Network | None = None
        if attack.by == "noise":
            return
        if not isinstance(policy, Executor):
            raise ConfigError(
                f"An attack by {attack.by} follows gradients, and only executors show "
                "theirs. Attack by noise."
            )
        self._network = Network(policy)
        kind = "point" if isinstance(policy.spec.action, BoxSpec) else policy.head
        self._apart = moved_by(Ground.of(policy, cast(Kind, kind), self._network))

    def shown(self, obs: Floats) -> Floats:
        """What the policy is shown instead of observations (batch, obs)."""
        true = torch.from_numpy(np.ascontiguousarray(obs, np.float32))
        own = None if self._network is None else self._network(true).detach()

        def apart(seen: Tensor) -> Tensor:
            assert self._network is not None
            assert own is not None
            return self._apart(own, self._network(seen))

        attack = self._attack
        near = perturbed(
            apart,
            true,
            self._unit,
            by=attack.by,
            eps=attack.eps,
            steps=attack.steps,
            generator=self._random,
        )
        return np.asarray(near.detach().numpy(), np.float32)

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the answer to what is shown, for observations (batch, obs)."""
        dist: ActionDist = self._policy(self.shown(obs))
        return dist
