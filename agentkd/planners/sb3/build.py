"""Stable-Baselines3 policies that give their action distribution, batched.

Only what acts is kept: no critic, no target network, no value function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isinf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentkd import dists
from agentkd.errors import LoadError
from agentkd.executors.network import Trace
from agentkd.planners.planner import probe
from agentkd.planners.sb3.inputs import Inputs, read_inputs
from agentkd.planners.sb3.network import Linear, Perceptron, Taker, activation
from agentkd.planners.sb3.policy import REMEDY, Description, check_action
from agentkd.planners.sb3.tensors import array, plain_kind
from agentkd.planners.sb3.vecnormalize import Statistics, normaliser
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, Spec
from agentkd.types import ActionDist, Floats, Kind, Policy, RecurrentPolicy, State

_EXTRACTORS = {
    "actor-critic": ("pi_features_extractor.", "features_extractor."),
    "recurrent": ("pi_features_extractor.", "features_extractor."),
    "squashed": ("actor.features_extractor.",),
    "deterministic": ("actor.features_extractor.",),
    "values": ("q_net.features_extractor.",),
    "quantiles": ("quantile_net.features_extractor.",),
    "linear": ("features_extractor.",),
}
_TOWERS = {
    "deterministic": "actor.mu.",
    "values": "q_net.q_net.",
    "quantiles": "quantile_net.quantile_net.",
    "linear": "action_net.",
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
IN_PLACE: Mapping[str, Callable[[Tensor], Tensor]] = {"ReLU": torch.relu_, "Tanh": torch.tanh_}
"""What layers give is theirs to overwrite, and a module's call takes as long as a small layer."""
_CPU = torch.device("cpu")
_EPSILON = 1e-6
_LOG_STD = (-20.0, 2.0)


def unsquash(squashed: Tensor, action: ActionSpec) -> Tensor:
    """Scale numbers in [-1, 1] to the bounds of the box, both (batch, d)."""
    low, high = (torch.tensor(each, device=squashed.device) for each in dists.bounds(action))
    return low + 0.5 * (squashed + 1.0) * (high - low)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """From a policy's last hidden numbers to its packed answer, as SB3 does it.

    Attributes:
        kind: Of the answer.
        tower: Gives logits, values, actions or means.
        action: The environment's actions.
        squash: Whether tanh follows, of a "point"; else it is clipped to the box.
        deviation: Gives the logarithm of a Gaussian's deviation; None where `log_std` tells.
        log_std: Of a Gaussian, (d,) if it is the same for every observation; (width, d), or
            (width, 1), with generalised state-dependent exploration (gSDE, arXiv:2005.05719,
            equation 9): the variance is latent² @ std² + 1e-6.
        use_expln: Whether gSDE's deviation grows like a logarithm above one.
        limit: A Gaussian's mean stays within [-limit, limit].
    """

    kind: Kind
    tower: Perceptron
    action: ActionSpec
    squash: bool = False
    deviation: Perceptron | None = None
    log_std: Tensor | None = None
    use_expln: bool = False
    limit: float = inf

    def __call__(self, latent: Tensor, trace: Trace | None = None) -> Tensor:
        """Give what `agentkd.dists.pack` makes of the answer for (batch, width)."""
        out = self.tower(latent, trace)
        if self.kind == "qvalues":  # of quantiles, their mean
            return out.reshape(len(out), -1, dists.action_size(self.action)).mean(1)
        if self.kind == "point" and isinstance(self.action, BoxSpec):
            if self.squash:
                return unsquash(torch.tanh(out), self.action)
            low, high = self.action.low, self.action.high
            where = out.device
            return out.clamp(torch.tensor(low, device=where), torch.tensor(high, device=where))
        if self.kind in ("gaussian", "squashed"):
            mean = out if isinf(self.limit) else out.clamp(-self.limit, self.limit)
            return torch.cat([mean, self._log_deviation(latent).expand_as(mean)], 1)
        return out

    def _log_deviation(self, latent: Tensor) -> Tensor:
        if self.deviation is not None:
            return self.deviation(latent).clamp(*_LOG_STD)
        assert self.log_std is not None
        if self.log_std.ndim == 1:
            return self.log_std
        deviation = self.log_std.exp()
        if self.use_expln:
            above = torch.log1p(self.log_std.clamp(min=0.0) + _EPSILON) + 1.0
            deviation = torch.where(self.log_std > 0, above, deviation)
        return 0.5 * (latent.square() @ deviation.square() + _EPSILON).log()


def _tensor(values: Floats) -> Tensor:
    values = np.ascontiguousarray(values, np.float32)
    # A tensor of what cannot be written to would warn.
    return torch.from_numpy(values if values.flags.writeable else values.copy())


@dataclass(frozen=True, slots=True, eq=False)
class Sb3Policy:
    """A feed-forward policy of SB3, rebuilt. It is a `Policy`; its layers are on `device`."""

    inputs: Inputs
    trunk: Perceptron
    head: Head
    device: torch.device = _CPU

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for raw flat observations (batch, size)."""
        with torch.inference_mode():
            rows = self.head(self.trunk(_tensor(self.inputs(obs)).to(self.device)))
        return dists.unpack(self.head.kind, rows.cpu().numpy(), self.head.action)


@dataclass(frozen=True, slots=True, eq=False)
class Sb3RecurrentPolicy:
    """A policy of RecurrentPPO, rebuilt. It is a `RecurrentPolicy`.

    Its memory is the LSTM's outputs and cells, each (batch, layers, width).
    """

    inputs: Inputs
    lstm: nn.LSTM
    trunk: Perceptron
    head: Head

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with: zeros."""
        shape = (batch, self.lstm.num_layers, self.lstm.hidden_size)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        with torch.inference_mode():
            hidden, cell = (_tensor(each.swapaxes(0, 1)) for each in state)
            out, after = self.lstm(_tensor(self.inputs(obs))[:, None], (hidden, cell))
            rows = self.head(self.trunk(out[:, 0]))
            hidden, cell = (each.transpose(0, 1) for each in after)
        answer = dists.unpack(self.head.kind, rows.numpy(), self.head.action)
        return answer, (array(hidden), array(cell))


@dataclass(frozen=True, slots=True, eq=False)
class _Builder:
    """Builds a policy from a description, layer by layer."""

    about: Description
    taker: Taker
    between: Callable[[Tensor], Tensor]
    action: ActionSpec

    def on_policy(self, width: int) -> tuple[Perceptron, Head]:
        """Build PPO's actor and the like."""
        shared = self.taker.sequence("mlp_extractor.shared_net.", width)
        width = Perceptron(shared, self.between).width(width)
        own = self.taker.sequence("mlp_extractor.policy_net.", width)
        trunk = Perceptron((*shared, *own), self.between, ends=True)
        tower = self.last("action_net", trunk.width(width))
        if not isinstance(self.action, BoxSpec):
            return trunk, self.head(plain_kind(self.action), tower)
        log_std = self.taker.take("log_std")
        kind: Kind = "squashed" if self.about.squash and log_std.ndim > 1 else "gaussian"
        return trunk, self.head(kind, tower, log_std=log_std, use_expln=self.about.use_expln)

    def squashed(self, width: int) -> tuple[Perceptron, Head]:
        """Build SAC's actor and the like."""
        prefix, about = "actor.latent_pi.", self.about
        norm: Linear | None = None
        if about.algorithm == "CrossQ":
            layers, norm = self.taker.renormed(prefix, width, about.epsilon)
        else:
            layers = self.taker.sequence(prefix, width)
        trunk = Perceptron(layers, self.between, ends=True)
        width = trunk.width(width)
        clipped = bool(self.taker.names("actor.mu.0."))
        mean = "actor.mu.0" if clipped else "actor.mu"
        log_std = self.taker.optional("actor.log_std")
        if log_std is None:
            tower, deviation = (self.last(each, width, norm) for each in (mean, "actor.log_std"))
            return trunk, self.head("squashed", tower, deviation=deviation)
        if log_std.ndim != 2:
            raise LoadError(f"{about.where}: 'actor.log_std' is of shape {tuple(log_std.shape)}.")
        if norm is not None:  # which gSDE's deviation depends on, too
            trunk = Perceptron((*layers, norm), self.between)
        limit = about.clip_mean if clipped else inf
        return trunk, self.head(
            "squashed",
            self.last(mean, width),
            log_std=log_std,
            use_expln=about.use_expln,
            limit=limit,
        )

    def direct(self, width: int) -> tuple[Perceptron, Head]:
        """Build the policies whose layers lead from the features to the answer."""
        kind, prefix = self.about.kind, _TOWERS[self.about.kind]
        layers = self.taker.sequence(prefix, width)
        if kind == "linear" and self.taker.names("action_net.weight"):  # sb3-contrib before 1.7
            layers = (self.taker.linear("action_net", width),)
        if not layers:
            raise LoadError(f"{self.about.where} holds no layers that act. {REMEDY}")
        nothing, tower = Perceptron((), self.between), Perceptron(layers, self.between)
        if kind in ("values", "quantiles"):
            quantiles = isinstance(self.action, DiscreteSpec)
            if not quantiles or tower.width(width) % dists.action_size(self.action):
                self.check_size(tower)
            return nothing, Head("qvalues", tower, self.action)
        squash = kind == "deterministic" or self.about.squash
        return nothing, self.head(plain_kind(self.action), tower, squash=squash)

    def last(self, name: str, width: int, norm: Linear | None = None) -> Perceptron:
        layer = self.taker.linear(name, width)
        return Perceptron((layer if norm is None else layer.after(norm),), self.between)

    def head(self, kind: Kind, tower: Perceptron, **more: Any) -> Head:
        self.check_size(tower)
        return Head(kind, tower, self.action, **more)

    def check_size(self, tower: Perceptron) -> None:
        """Make sure that the last layer has as many numbers as the actions need."""
        out, size = tower.width(0), dists.action_size(self.action)
        if out != size:
            raise LoadError(
                f"{self.about.where}: the last layer gives {out} numbers; "
                f"{self.action} needs {size}."
            )


def build(
    description: Description, given: Spec | None, statistics: Statistics | None
) -> tuple[Policy | RecurrentPolicy, Spec, int]:
    """Rebuild what acts, for the environment, or for the spaces that the policy was trained with.

    Returns:
        The policy, its environment, and how many trained numbers act.

    Raises:
        LoadError: If the weights are not those of such a policy.
        SpecError: If it is for another environment.
    """
    where, kind = description.where, description.kind
    spec = given or Spec(description.obs, description.action)
    check_action(description.action, spec.action, where)
    taker = Taker(description.weights)
    known = _EXTRACTORS[kind]
    prefix = next((name for name in known if taker.names(name)), known[0])
    normal = None if statistics is None else normaliser(statistics, spec.obs)
    inputs = read_inputs(description, spec.obs, normal, taker, prefix)
    between = IN_PLACE.get(description.activation) or activation(description.activation)
    builder = _Builder(description, taker, between, spec.action)
    policy: Policy | RecurrentPolicy
    if kind == "recurrent":
        lstm = taker.lstm("lstm_actor.", inputs.size)
        policy = Sb3RecurrentPolicy(inputs, lstm, *builder.on_policy(lstm.hidden_size))
    elif kind == "actor-critic":
        policy = Sb3Policy(inputs, *builder.on_policy(inputs.size))
    elif kind == "squashed":
        policy = Sb3Policy(inputs, *builder.squashed(inputs.size))
    else:
        policy = Sb3Policy(inputs, *builder.direct(inputs.size))
    ignored = tuple(name for name in known if name != prefix)
    if left := taker.left(_CRITICS + ignored):
        raise LoadError(
            f"{where}: {description.algorithm}'s policy has no weights "
            f"{', '.join(left[:4])}: it is another network. {REMEDY}"
        )
    probe(policy, spec, np.zeros((2, spec.obs.size), np.float32), where)
    return policy, spec, taker.parameters
