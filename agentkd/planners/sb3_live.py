"""A Stable-Baselines3 model in memory as a planner.

A policy of SB3's own classes is rebuilt like one from a file; on a CPU its weights
share the model's memory, so that what it learns is followed. A policy or a features
extractor of another class is asked through its own methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agentkd.errors import SpecError
from agentkd.planners import sb3
from agentkd.planners.blackbox import from_actions
from agentkd.planners.planner import Planner
from agentkd.planners.sb3_file import weights_of
from agentkd.planners.sb3_policy import (
    ALGORITHMS,
    EXTRACTORS,
    Description,
    algorithm_of_module,
    check_action,
)
from agentkd.planners.sb3_spaces import image_parts
from agentkd.planners.tensors import distribution, tensors
from agentkd.planners.vecnormalize import (
    Normaliser,
    Statistics,
    normaliser,
    statistics_of,
)
from agentkd.spec import ObsSpec, Spec, action_spec, obs_spec, unflatten
from agentkd.types import (
    ActionDist,
    Floats,
    Policy,
    QValues,
    RecurrentPolicy,
    SquashedGaussian,
    State,
)


def is_model(found: Any) -> bool:
    """Whether an object is an SB3 algorithm; SB3 is not imported for it."""
    return any(
        base.__module__ == "stable_baselines3.common.base_class"
        for base in type(found).__mro__
    )


def _own(policy: Any) -> bool:
    """Whether a policy, its extractor and its activation are SB3's and torch's own."""
    activation = getattr(policy, "activation_fn", None)
    if activation is not None and not activation.__module__.startswith("torch.nn."):
        return False
    extractor = getattr(policy, "features_extractor_class", None)
    own = algorithm_of_module(type(policy).__module__) is not None
    return own and (
        extractor is None
        or (
            extractor.__name__ in EXTRACTORS
            and extractor.__module__ == "stable_baselines3.common.torch_layers"
        )
    )


def describe_model(model: Any, name: str) -> Description:
    """Say what policy of SB3's own a model in memory has; `name` is its algorithm."""
    policy = model.policy
    actor = getattr(policy, "actor", policy)
    options = getattr(policy, "dist_kwargs", None) or {}
    squash = options.get("squash_output", getattr(policy, "squash_output", False))
    images = image_parts(model.observation_space)
    acting = getattr(policy, "activation_fn", None)
    return Description(
        algorithm=name,
        kind=ALGORITHMS[name],
        obs=obs_spec(model.observation_space),
        action=action_spec(model.action_space),
        images=images if getattr(policy, "normalize_images", True) else frozenset(),
        activation=acting.__name__ if acting is not None else "ReLU",
        use_expln=bool(options.get("use_expln", getattr(actor, "use_expln", False))),
        squash=bool(squash),
        clip_mean=float(getattr(actor, "clip_mean", 2.0)),
        weights=weights_of(policy.state_dict(), f"The {name} model"),
        where=f"The {name} model",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A policy of a class of its own, asked through its own methods."""

    policy: Any
    spec: Spec
    saved: ObsSpec
    normaliser: Normaliser | None

    def observed(self, obs: Floats) -> Any:
        """Bring flat observations to tensors as the policy takes them."""
        outer = self.spec.obs
        if self.normaliser is not None:
            obs = self.normaliser(obs)
            parts = (replace(p, dtype="float32") for p in outer.parts)
            outer = replace(outer, parts=tuple(parts))
        own = unflatten(outer, obs)
        if isinstance(own, dict):
            own = {part.name: _turn(own[part.name], part) for part in self.saved.parts}
        else:
            own = _turn(own, self.saved.parts[0])
        tensor, _ = self.policy.obs_to_tensor(own)
        return tensor

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for raw flat observations (batch, size)."""
        import torch

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
            actions = policy._predict(seen, deterministic=True)
            shape = getattr(policy.action_space, "shape", ())
            own = actions.cpu().numpy().reshape(-1, *shape)
            if policy.squash_output:
                own = policy.unscale_action(own)
            return from_actions(own, len(obs), action)


@dataclass(frozen=True, slots=True, eq=False)
class _AskedRecurrent:
    """A recurrent policy of a class of its own."""

    asked: _Asked

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with: zeros."""
        layers, _, width = self.asked.policy.lstm_hidden_state_shape
        shape = (batch, layers, width)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give the action distribution for (batch, size) and the next memory."""
        import torch

        with torch.inference_mode():
            before = tuple(
                torch.from_numpy(np.ascontiguousarray(each.swapaxes(0, 1)))
                for each in state
            )
            found, after = self.asked.policy.get_distribution(
                self.asked.observed(obs), before, torch.zeros(len(obs))
            )
            squashed = getattr(found, "bijector", None) is not None
            action = self.asked.spec.action
            dist = distribution(found.distribution, action, squashed=squashed)
            hidden, cell = tensors(*(each.transpose(0, 1) for each in after))
        return dist, (hidden, cell)


def _turn(values: Any, part: Any) -> Any:
    """Put an image's channels first where the policy wants them so."""
    if part.kind == "box" and values.shape[1:] != part.shape and values.ndim == 4:
        return values.transpose(0, 3, 1, 2)
    return values


def from_model(
    model: Any, spec: Spec | None = None, statistics: Statistics | None = None
) -> Planner:
    """Make a planner of an SB3 model in memory.

    Args:
        model: A `BaseAlgorithm`.
        spec: The environment; None for the spaces that the model was made with.
        statistics: VecNormalize statistics; None for those of the model's own
            environment, if it has such.

    Raises:
        SpecError: If it is for another environment.
        LoadError: If its weights cannot be understood.
    """
    name = type(model).__name__
    wrapper = model.get_vec_normalize_env()
    if statistics is None and wrapper is not None:
        statistics = statistics_of(wrapper, f"The {name} model's environment")
    policy = model.policy
    policy.set_training_mode(False)
    if name in ALGORITHMS and _own(policy):
        rebuilt, spec, size = sb3.build(describe_model(model, name), spec, statistics)
        return Planner(rebuilt, spec, name, size, "")
    where = f"The {name} model"
    saved = obs_spec(model.observation_space)
    spec = spec or Spec(saved, action_spec(model.action_space))
    check_action(action_spec(model.action_space), spec.action, where)
    if saved.size != spec.obs.size or saved.layout != spec.obs.layout:
        raise SpecError(
            f"{where} takes observations of {saved.size} numbers ({saved.layout}); the "
            f"environment gives {spec.obs.size} ({spec.obs.layout})."
        )
    normal = None if statistics is None else normaliser(statistics, spec.obs)
    asked = _Asked(policy, spec, saved, normal)
    recurrent = hasattr(policy, "lstm_hidden_state_shape")
    answer: Policy | RecurrentPolicy = _AskedRecurrent(asked) if recurrent else asked
    sb3.probe(answer, spec, where)
    size = sum(each.numel() for each in policy.parameters())
    return Planner(answer, spec, f"{name} ({type(policy).__name__})", size, "")
