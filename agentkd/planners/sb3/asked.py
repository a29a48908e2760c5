"""A Stable-Baselines3 policy in memory that is asked through its own methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agentkd.planners.actions import from_actions
from agentkd.planners.sb3.tensors import distribution, tensors
from agentkd.planners.sb3.vecnormalize import Normaliser
from agentkd.spec import ObsSpec, Part, Spec, unflatten
from agentkd.types import ActionDist, Floats, QValues, SquashedGaussian, State


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """How flat observations of the environment become those that a policy takes.

    Attributes:
        given: The observation as the environment gives it.
        saved: The observation as the policy takes it.
        normaliser: What the flat observations go through first.
    """

    given: ObsSpec
    saved: ObsSpec
    normaliser: Normaliser | None

    def __call__(self, obs: Floats) -> Any:
        """Map flat observations (batch, size) to an array or a dictionary of arrays."""
        outer = self.given
        if self.normaliser is not None:
            obs = self.normaliser(obs)
            parts = (replace(part, dtype="float32") for part in outer.parts)
            outer = replace(outer, parts=tuple(parts))
        if self.flat:
            return obs.astype(self.saved.parts[0].dtype)
        own = unflatten(outer, obs)
        if isinstance(own, dict):
            return {part.name: _turned(own[part.name], part) for part in self.saved.parts}
        return _turned(own, self.saved.parts[0])

    @property
    def fits(self) -> bool:
        """Whether there are as many numbers, laid out alike."""
        alike = (self.given.size, self.given.layout)
        return self.flat or alike == (self.saved.size, self.saved.layout)

    @property
    def flat(self) -> bool:
        """Whether the policy takes the observations flat."""
        whole = self.saved.layout == "single" and not self.saved.parts[0].sizes
        return whole and self.saved.parts[0].shape == (self.given.size,)


def _turned(values: Any, part: Part) -> Any:
    """Put an image's channels first where the policy wants them so."""
    if part.kind == "box" and values.shape[1:] != part.shape and values.ndim == 4:
        return values.transpose(0, 3, 1, 2)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A policy of a class of its own. It is a `Policy`.

    Attributes:
        policy: A `BasePolicy`.
        spec: The environment.
        view: How the policy sees its observations.
        predict: The model's, which gives the actions that are right.
        by_predict: Whether only what `predict` chooses is known.
    """

    policy: Any
    spec: Spec
    view: View
    predict: Callable[..., Any]
    by_predict: bool = False

    def observed(self, obs: Floats) -> Any:
        """Bring flat observations to tensors as the policy takes them."""
        self.policy.set_training_mode(False)
        tensor, _ = self.policy.obs_to_tensor(self.view(obs))
        return tensor

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for raw flat observations (batch, size)."""
        import torch

        if self.by_predict:
            chosen, _ = self.predict(self.view(obs), deterministic=True)
            return from_actions(chosen, len(obs), self.spec.action)
        policy, action = self.policy, self.spec.action
        with torch.inference_mode():
            seen = self.observed(obs)
            if hasattr(policy, "get_distribution"):
                found = policy.get_distribution(seen)
                squashed = getattr(found, "bijector", None) is not None
                return distribution(found.distribution, action, squashed=squashed)
            if hasattr(getattr(policy, "actor", None), "get_action_dist_params"):
                mean, log_std, options = policy.actor.get_action_dist_params(seen)
                found = policy.actor.action_dist
                found = found.proba_distribution(mean, log_std, **options).distribution
                return SquashedGaussian(*tensors(found.mean, found.stddev.log()))
            if hasattr(policy, "quantile_net"):
                return QValues(*tensors(policy.quantile_net(seen).mean(dim=1)))
            if hasattr(policy, "q_net"):
                return QValues(*tensors(policy.q_net(seen)))
        return replace(self, by_predict=True)(obs)


@dataclass(frozen=True, slots=True, eq=False)
class AskedRecurrent:
    """A recurrent policy of a class of its own. It is a `RecurrentPolicy`."""

    asked: Asked

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with: zeros."""
        layers, _, width = self.asked.policy.lstm_hidden_state_shape
        shape = (batch, layers, width)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        import torch

        policy, action = self.asked.policy, self.asked.spec.action
        with torch.inference_mode():
            seen = self.asked.observed(obs)
            before = tuple(
                torch.from_numpy(np.ascontiguousarray(each.swapaxes(0, 1))).to(policy.device)
                for each in state
            )
            starts = torch.zeros(len(obs), device=policy.device)
            found, after = policy.get_distribution(seen, before, starts)
            squashed = getattr(found, "bijector", None) is not None
            dist = distribution(found.distribution, action, squashed=squashed)
            hidden, cell = tensors(*(each.transpose(0, 1) for each in after))
        return dist, (hidden, cell)
