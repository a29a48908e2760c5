"""Stable-Baselines3 policies that give their action distribution, batched.

Only what acts is kept: no critic, no target network, no value function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from agentkd import dists
from agentkd.errors import LoadError, SpecError
from agentkd.planners.sb3 import heads
from agentkd.planners.sb3.inputs import Inputs, read_inputs
from agentkd.planners.sb3.network import REMEDY, Linear, Lstm, Perceptron, activation
from agentkd.planners.sb3.policy import Description, check_action
from agentkd.planners.sb3.vecnormalize import Statistics, normaliser
from agentkd.planners.sb3.weights import Taker
from agentkd.spec import BoxSpec, DiscreteSpec, Spec
from agentkd.types import ActionDist, Floats, Policy, RecurrentPolicy, State

_EXTRACTORS = {
    "actor-critic": ("pi_features_extractor.", "features_extractor."),
    "recurrent": ("pi_features_extractor.", "features_extractor."),
    "squashed": ("actor.features_extractor.",),
    "deterministic": ("actor.features_extractor.",),
    "values": ("q_net.features_extractor.",),
    "quantiles": ("quantile_net.features_extractor.",),
    "linear": ("features_extractor.",),
}
_CRITICS = (
    "vf_features_extractor.",
    "mlp_extractor.value_net.",
    "value_net.",
    "lstm_critic.",
    "critic.",
    "critic_target.",
    "actor_target.",
    "q_net_target.",
    "quantile_net_target.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Sb3Policy:
    """A feed-forward policy of SB3, rebuilt. It is a `Policy`."""

    inputs: Inputs
    trunk: Perceptron
    head: heads.Head

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for raw flat observations (batch, size)."""
        return self.head(self.trunk(self.inputs(obs)))


@dataclass(frozen=True, slots=True, eq=False)
class Sb3RecurrentPolicy:
    """A policy of RecurrentPPO, rebuilt. It is a `RecurrentPolicy`.

    Its memory is the LSTM's outputs and cells, each (batch, layers, width).
    """

    inputs: Inputs
    lstm: Lstm
    trunk: Perceptron
    head: heads.Head

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with: zeros."""
        shape = (batch, len(self.lstm.cells), self.lstm.width)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        out, hidden, cell = self.lstm(self.inputs(obs), *state)
        return self.head(self.trunk(out)), (hidden, cell)


@dataclass(frozen=True, slots=True, eq=False)
class _Builder:
    """Builds a policy from a description, layer by layer."""

    description: Description
    taker: Taker
    between: Callable[[Floats], Floats]
    spec: Spec

    def layers(self, prefix: str, width: int, *, ends: bool = False) -> Perceptron:
        return Perceptron(self.taker.sequence(prefix, width), self.between, ends)

    def on_policy(self, width: int) -> tuple[Perceptron, heads.Head]:
        shared = self.taker.sequence("mlp_extractor.shared_net.", width)
        width = _width(shared, width)
        own = self.taker.sequence("mlp_extractor.policy_net.", width)
        width = _width(own, width)
        layer = self.taker.linear("action_net", width)
        self.fits(len(layer.weight))
        trunk = Perceptron((*shared, *own), self.between, ends=True)
        log_std = self.taker.optional("log_std")
        if log_std is None:
            return trunk, heads.Choices(layer, self.spec.action)
        if log_std.ndim == 1:
            return trunk, heads.Diagonal(layer, log_std)
        about = self.description
        return trunk, heads.StateDependent(layer, log_std, about.use_expln, about.squash, inf)

    def squashed(self, width: int) -> tuple[Perceptron, heads.Head]:
        prefix, about = "actor.latent_pi.", self.description
        if about.algorithm == "CrossQ":
            layers, last = self.taker.renormed(prefix, width, about.epsilon)
            trunk = Perceptron(layers, self.between, ends=True)
            if last is not None:
                trunk = Perceptron((*layers, last), self.between, ends=False)
        else:
            trunk = self.layers(prefix, width, ends=True)
        width = _width(trunk.layers, width)
        clipped = bool(self.taker.names("actor.mu.0."))
        layer = self.taker.linear("actor.mu.0" if clipped else "actor.mu", width)
        self.fits(len(layer.weight))
        log_std = self.taker.optional("actor.log_std")
        if log_std is None:
            deviation = self.taker.linear("actor.log_std", width)
            return trunk, heads.Squashed(layer, deviation)
        limit = about.clip_mean if clipped else inf
        return trunk, heads.StateDependent(layer, log_std, about.use_expln, True, limit)

    def direct(self, width: int) -> heads.Head:
        """Build the policies whose layers lead from the features to the answer."""
        match self.description.kind:
            case "deterministic":
                layers = self.layers("actor.mu.", width)
            case "values":
                layers = self.layers("q_net.q_net.", width)
            case "quantiles":
                layers = self.layers("quantile_net.quantile_net.", width)
            case _:
                layers = self.layers("action_net.", width)
                if self.taker.has("action_net.weight"):  # sb3-contrib before 1.7
                    only = self.taker.linear("action_net", width)
                    layers = Perceptron((only,), self.between, ends=False)
        if not layers.layers:
            raise LoadError(f"{self.description.where} holds no layers that act. {REMEDY}")
        out = _width(layers.layers, width)
        action = self.spec.action
        if self.description.kind in ("values", "quantiles"):
            if not isinstance(action, DiscreteSpec) or out % action.n:
                self.fits(out)
            return heads.Values(layers, dists.action_size(action))
        self.fits(out)
        if isinstance(action, BoxSpec):
            squash = self.description.kind == "deterministic" or self.description.squash
            return heads.Deterministic(layers, action, squash)
        return heads.Choices(layers, action)

    def fits(self, out: int) -> None:
        """Make sure that the last layer has as many numbers as the actions need."""
        if out != dists.action_size(self.spec.action):
            raise LoadError(
                f"{self.description.where}: the last layer gives {out} numbers; "
                f"{self.spec.action} needs {dists.action_size(self.spec.action)}."
            )


def _width(layers: tuple[Linear, ...], otherwise: int) -> int:
    return len(layers[-1].weight) if layers else otherwise


def build(
    description: Description, given: Spec | None, statistics: Statistics | None
) -> tuple[Policy | RecurrentPolicy, Spec, int]:
    """Rebuild what acts.

    Args:
        description: What the policy is.
        given: The environment; None for the spaces that the policy was trained with.
        statistics: What VecNormalize knew.

    Returns:
        The policy, its environment, and how many trained numbers act.

    Raises:
        LoadError: If the weights are not those of such a policy.
        SpecError: If it is for another environment.
    """
    where = description.where
    spec = given or Spec(description.obs, description.action)
    check_action(description.action, spec.action, where)
    taker = Taker(description.weights)
    known = _EXTRACTORS[description.kind]
    prefix = next((name for name in known if taker.names(name)), known[0])
    normal = None if statistics is None else normaliser(statistics, spec.obs)
    inputs = read_inputs(
        description.obs, spec.obs, description.images, normal, taker, prefix, where
    )
    between = activation(description.activation)
    builder = _Builder(description, taker, between, spec)
    policy: Policy | RecurrentPolicy
    if description.kind == "recurrent":
        lstm = taker.lstm("lstm_actor.", inputs.size)
        policy = Sb3RecurrentPolicy(inputs, lstm, *builder.on_policy(lstm.width))
    elif description.kind == "actor-critic":
        policy = Sb3Policy(inputs, *builder.on_policy(inputs.size))
    elif description.kind == "squashed":
        policy = Sb3Policy(inputs, *builder.squashed(inputs.size))
    else:
        nothing = Perceptron((), between, ends=False)
        policy = Sb3Policy(inputs, nothing, builder.direct(inputs.size))
    ignored = tuple(name for name in known if name != prefix)
    if left := taker.left(_CRITICS + ignored):
        raise LoadError(
            f"{where}: {description.algorithm}'s policy has no weights "
            f"{', '.join(left[:4])}: it is another network. {REMEDY}"
        )
    probe(policy, spec, where)
    return policy, spec, taker.parameters


def probe(policy: Policy | RecurrentPolicy, spec: Spec, where: str) -> None:
    """Ask once, with zeros, so that what does not fit is said now.

    Raises:
        SpecError: If the answer does not fit the actions.
    """
    obs = np.zeros((2, spec.obs.size), np.float32)
    if isinstance(policy, RecurrentPolicy):
        answer, _ = policy(obs, policy.initial_state(2))
    else:
        answer = policy(obs)
    try:
        dists.check(answer, spec.action, 2)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
