"""A Stable-Baselines3 model or policy in memory as a planner.

A policy of SB3's own classes is rebuilt like one from a file; on a CPU its weights share the
model's memory, so that what it learns is followed. A policy, a features extractor or an activation
of another class is asked through its own methods. What does not choose the actions that the model's
`predict` chooses is not used: then `predict` itself answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentkd.errors import AgentkdError, LoadError, PlannerError, SpecError
from agentkd.files import reason
from agentkd.planners.actions import from_actions
from agentkd.planners.planner import Planner
from agentkd.planners.sb3 import build as sb3
from agentkd.planners.sb3.compare import View, agrees
from agentkd.planners.sb3.file import weights_of
from agentkd.planners.sb3.policy import (
    ALGORITHMS,
    EXTRACTORS,
    EXTRACTORS_MODULE,
    Description,
    algorithm_of_module,
    check_action,
    refuse_masks,
)
from agentkd.planners.sb3.spaces import image_parts, spaces_spec
from agentkd.planners.sb3.tensors import array, distribution
from agentkd.planners.sb3.vecnormalize import Statistics, normaliser, statistics_of
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Policy, QValues, RecurrentPolicy, State


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A policy of a class of its own, a `BasePolicy`. It is a `Policy`.

    The model's `predict` gives the actions that are right; with `by_predict`, only they are known.
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

    def read(self, found: Any) -> ActionDist:
        """Read a distribution of SB3's."""
        squashed = getattr(found, "bijector", None) is not None
        return distribution(found.distribution, self.spec.action, squashed=squashed)

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for raw flat observations (batch, size)."""
        if self.by_predict:
            chosen, _ = self.predict(self.view(obs), deterministic=True)
            return from_actions(chosen, len(obs), self.spec.action)
        policy = self.policy
        with torch.inference_mode():
            seen = self.observed(obs)
            if hasattr(policy, "get_distribution"):
                return self.read(policy.get_distribution(seen))
            if hasattr(getattr(policy, "actor", None), "get_action_dist_params"):
                mean, log_std, options = policy.actor.get_action_dist_params(seen)
                found = policy.actor.action_dist.proba_distribution(mean, log_std, **options)
                return distribution(found.distribution, self.spec.action, squashed=True)
            if hasattr(policy, "quantile_net"):
                return QValues(array(policy.quantile_net(seen).mean(dim=1)))
            if hasattr(policy, "q_net"):
                return QValues(array(policy.q_net(seen)))
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
        policy = self.asked.policy
        with torch.inference_mode():
            seen = self.asked.observed(obs)
            before = tuple(_turned(torch.from_numpy(each)).to(policy.device) for each in state)
            starts = torch.zeros(len(obs), device=policy.device)
            found, after = policy.get_distribution(seen, before, starts)
            dist = self.asked.read(found)
            hidden, cell = (array(_turned(each)) for each in after)
        return dist, (hidden, cell)


def _turned(state: Tensor) -> Tensor:
    """Bring (batch, layers, width) to (layers, batch, width), or back."""
    return state.transpose(0, 1).contiguous()


def _own(policy: Any) -> bool:
    """Whether a policy, its extractor and its activation are SB3's and torch's own."""
    activation = getattr(policy, "activation_fn", nn.ReLU)
    if getattr(nn, getattr(activation, "__name__", ""), None) is not activation:
        return False
    extractor = getattr(policy, "features_extractor_class", None)
    own = algorithm_of_module(type(policy).__module__) is not None
    return own and (
        extractor is None
        or (extractor.__name__ in EXTRACTORS and extractor.__module__ == EXTRACTORS_MODULE)
    )


def describe_model(model: Any, name: str) -> Description:
    """Say what policy of SB3's own a model in memory has; `name` is its algorithm."""
    policy = _policy(model)
    actor = getattr(policy, "actor", policy)
    options = getattr(policy, "dist_kwargs", None) or {}
    squash = options.get("squash_output", getattr(policy, "squash_output", False))
    spec = spaces_spec(policy.observation_space, policy.action_space)
    images = image_parts(policy.observation_space)
    acting = getattr(policy, "activation_fn", None)
    return Description(
        algorithm=name,
        kind=ALGORITHMS[name],
        obs=spec.obs,
        action=spec.action,
        images=images if getattr(policy, "normalize_images", True) else frozenset(),
        activation="ReLU" if acting is None else getattr(acting, "__name__", "?"),
        use_expln=bool(options.get("use_expln", getattr(actor, "use_expln", False))),
        squash=bool(squash),
        clip_mean=float(getattr(actor, "clip_mean", 2.0)),
        epsilon=float(getattr(policy, "batch_norm_eps", 1e-3)),
        weights=weights_of(policy.state_dict(), f"The {name} model"),
        where=f"The {name} model",
    )


def _policy(model: Any) -> Any:
    """Give a model's policy, or the policy itself, as it was before torch.compile."""
    policy = getattr(model, "policy", model)
    return getattr(policy, "_orig_mod", policy)


def from_model(
    model: Any, spec: Spec | None = None, statistics: Statistics | None = None
) -> Planner:
    """Make a planner of an SB3 model, or of its policy, in memory.

    Args:
        model: A `BaseAlgorithm` or a `BasePolicy`.
        spec: The environment; None for the spaces that the model was made with.
        statistics: VecNormalize statistics; None for those of the model's own environment, if it
            has such.

    Raises:
        SpecError: If it is for another environment, or needs action masks.
        PlannerError: If its `predict` fails, or nothing else chooses what it chooses.
    """
    policy = _policy(model)
    name = type(model).__name__
    if model is policy:
        name = algorithm_of_module(type(policy).__module__) or name
    where = f"The {name} model"
    for base in type(policy).__mro__:
        refuse_masks(base.__module__, where)
    if statistics is None and hasattr(model, "get_vec_normalize_env"):
        wrapper = model.get_vec_normalize_env()
        if wrapper is not None:
            statistics = statistics_of(wrapper, f"{where}'s environment")
    saved = spaces_spec(policy.observation_space, policy.action_space)
    given = spec or saved
    check_action(saved.action, given.action, where)
    normal = None if statistics is None else normaliser(statistics, given.obs)
    view = View(given.obs, saved.obs, normal)
    policy.set_training_mode(False)
    # Rebuilt, CrossQ would not be followed: its layers are computed from its weights.
    if name in ALGORITHMS and name != "CrossQ" and _own(policy):
        try:
            description = describe_model(model, name)
            rebuilt, _, size = sb3.build(description, given, statistics)
            if agrees(rebuilt, model.predict, given, view, policy.observation_space):
                return Planner(rebuilt, given, name, size, "")
        except LoadError:
            pass  # A network of its own, which is asked.
        except AgentkdError:
            raise
        except Exception as error:  # SB3 may fail in any way
            raise PlannerError(f"{where}'s predict fails: {reason(error)}.") from error
    if not view.fits:
        raise SpecError(
            f"{where} takes observations of {saved.obs.size} numbers "
            f"({saved.obs.layout}); the environment gives {given.obs.size} "
            f"({given.obs.layout})."
        )
    answer = _asked(Asked(policy, given, view, model.predict), where)
    size = sum(each.numel() for each in policy.parameters())
    return Planner(answer, given, f"{name} ({type(policy).__name__})", size, "")


def _asked(asked: Asked, where: str) -> Policy | RecurrentPolicy:
    """Give the policy that asks for distributions; for actions, if only they are right."""
    ways: tuple[Policy | RecurrentPolicy, ...] = (asked, replace(asked, by_predict=True))
    if hasattr(asked.policy, "lstm_hidden_state_shape"):
        ways = (AskedRecurrent(asked),)
    failed: Exception | None = None
    for way in ways:
        try:
            space = asked.policy.observation_space
            if agrees(way, asked.predict, asked.spec, asked.view, space):
                return way
        except Exception as error:  # a class of the user's own may raise anything
            failed = error
    why = "" if failed is None else f" ({failed!r})"
    raise PlannerError(
        f"{where}'s predict fails, or chooses other actions than its policy's own "
        f"methods tell{why}. Write a function planner(spec) that returns an object "
        "with predict(obs), or, for a memory, with initial_state(batch) and a call "
        "(obs, state); give module:planner."
    ) from failed
