"""A Stable-Baselines3 model or policy in memory as a planner.

A policy of SB3's own classes is rebuilt like one from a file; on a CPU its weights share the
model's memory, so that what it learns is followed. A policy, a features extractor or an activation
of another class is asked through its own methods. What does not choose the actions that the model's
`predict` chooses is not used: then `predict` itself answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentkd import dists
from agentkd.errors import AgentkdError, LoadError, PlannerError, SpecError
from agentkd.files import reason
from agentkd.planners.actions import from_actions
from agentkd.planners.planner import Planner
from agentkd.planners.sb3 import build as sb3
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
from agentkd.planners.sb3.vecnormalize import Normaliser, Statistics, normaliser, statistics_of
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
    unflatten,
)
from agentkd.types import ActionDist, Actions, Floats, Policy, QValues, RecurrentPolicy, State

_BATCH, _STEPS = 8, 3
"""Observations, and steps of a memory, that a policy is compared on with `predict`."""
_TOLERANCE = 1e-4
_WIDE = 1000


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """How flat observations of the environment become those that a policy takes."""

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
            return {part.name: _channels_first(own[part.name], part) for part in self.saved.parts}
        return _channels_first(own, self.saved.parts[0])

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


def _channels_first(values: Any, part: Part) -> Any:
    """Put an image's channels first where the policy wants them so."""
    if part.kind == "box" and values.shape[1:] != part.shape and values.ndim == 4:
        return values.transpose(0, 3, 1, 2)
    return values


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
    asked = Asked(policy, given, View(given.obs, saved.obs, normal), model.predict)
    policy.set_training_mode(False)
    # Rebuilt, CrossQ would not be followed: its layers are computed from its weights.
    if name in ALGORITHMS and name != "CrossQ" and _own(policy):
        try:
            rebuilt, _, size = sb3.build(describe_model(model, name), given, statistics)
            if _agrees(rebuilt, asked):
                return Planner(rebuilt, given, name, size, "")
        except LoadError:
            pass  # A network of its own, which is asked.
        except AgentkdError:
            raise
        except Exception as error:  # SB3 may fail in any way
            raise PlannerError(f"{where}'s predict fails: {reason(error)}.") from error
    if not asked.view.fits:
        raise SpecError(
            f"{where} takes observations of {saved.obs.size} numbers "
            f"({saved.obs.layout}); the environment gives {given.obs.size} "
            f"({given.obs.layout})."
        )
    size = sum(each.numel() for each in policy.parameters())
    return Planner(_asked(asked, where), given, f"{name} ({type(policy).__name__})", size, "")


def _asked(asked: Asked, where: str) -> Policy | RecurrentPolicy:
    """Give the policy that asks for distributions; for actions, if only they are right."""
    ways: tuple[Policy | RecurrentPolicy, ...] = (asked, replace(asked, by_predict=True))
    if hasattr(asked.policy, "lstm_hidden_state_shape"):
        ways = (AskedRecurrent(asked),)
    failed: Exception | None = None
    for way in ways:
        try:
            if _agrees(way, asked):
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


def _drawn(part: Part, space: Any, random: np.random.Generator) -> Floats:
    """Draw flat observations of a part that the policy can take, (batch, size)."""
    if part.sizes:
        columns = []
        for n in part.sizes:
            raw = np.arange(n) + part.start
            can = np.flatnonzero((raw >= 0) & (raw < n))
            chosen = random.choice(can if can.size else np.arange(n), _BATCH)
            columns.append(np.eye(n, dtype=np.float32)[chosen])
        return np.concatenate(columns, axis=1)
    if part.kind == "multibinary":
        return random.integers(2, size=(_BATCH, part.size)).astype(np.float32)
    low, high = (np.asarray(each, np.float64) for each in (space.low, space.high))
    if low.size != part.size or low.shape != part.shape:
        low, high = np.asarray(low.max()), np.asarray(high.min())
    low, high = (np.broadcast_to(each.ravel(), part.size) for each in (low, high))
    if np.issubdtype(np.dtype(part.dtype), np.floating):
        bounded = np.isfinite(low) & np.isfinite(high) & (high - low < _WIDE)
        inside = random.uniform(
            np.where(bounded, low, 0.0), np.where(bounded, high, 1.0), (_BATCH, part.size)
        )
        free = random.standard_normal((_BATCH, part.size))
        return np.where(bounded, inside, free).astype(np.float32)
    low, high = np.maximum(low, -_WIDE), np.minimum(high, _WIDE)
    whole = random.integers(low.astype(int), high.astype(int) + 1, (_BATCH, part.size))
    return whole.astype(np.float32)


def _observations(view: View, space: Any) -> Floats:
    """Draw flat observations, (batch, size), that could occur in a policy's observation space."""
    random = np.random.default_rng(0)
    if view.flat:
        flat = _drawn(view.saved.parts[0], space, random)
    else:
        named = getattr(space, "spaces", None)
        spaces = named if isinstance(named, Mapping) else {"": space}
        parts = [_drawn(part, spaces[part.name], random) for part in view.given.parts]
        flat = np.concatenate(parts, axis=1)
    normaliser = view.normaliser
    if normaliser is not None:
        kinds = [np.dtype(p.dtype).kind == "f" for p in view.given.parts]
        sizes = [part.size for part in view.given.parts]
        usual = random.standard_normal(flat.shape) * normaliser.deviation
        usual = (usual + normaliser.mean).astype(np.float32)
        flat = np.where(np.repeat(kinds, sizes), usual, flat)
    return flat


def _same(dist: ActionDist, wanted: Actions, action: ActionSpec) -> bool:
    dists.check(dist, action, len(wanted))
    found = dists.mode(dist, action)
    if found.shape != wanted.shape:
        return False
    if isinstance(action, BoxSpec):
        span = np.subtract(action.high, action.low).reshape(action.shape)
        unit = np.where(np.isfinite(span), span, 1.0 + np.abs(wanted))
        return bool((np.abs(found - wanted) <= _TOLERANCE * unit).all())
    # Where two choices are as good as equal, rounding decides between them.
    scores = dists.pack(dist)
    slack = _TOLERANCE * (1.0 + np.abs(scores).max(axis=1))
    chosen = wanted.reshape(len(wanted), -1).astype(np.int64)
    blocks = [scores]
    if isinstance(action, MultiDiscreteSpec):
        blocks = np.split(scores, np.cumsum(action.sizes)[:-1], axis=1)
    elif isinstance(action, MultiBinarySpec):
        blocks = [np.stack([np.zeros_like(yes), yes], axis=1) for yes in scores.T]
    row = np.arange(len(scores))
    return all(
        bool((block[row, chosen[:, i]] >= block.max(axis=1) - slack).all())
        for i, block in enumerate(blocks)
    )


def _agrees(policy: Policy | RecurrentPolicy, asked: Asked) -> bool:
    """Whether a policy chooses what a model's `predict` chooses, deterministically."""
    flat = _observations(asked.view, asked.policy.observation_space)
    own, action = asked.view(flat), asked.spec.action
    if not isinstance(policy, RecurrentPolicy):
        wanted, _ = asked.predict(own, deterministic=True)
        return _same(policy(flat), wanted, action)
    state, theirs = policy.initial_state(len(flat)), None
    for step in range(_STEPS):
        starts = np.full(len(flat), step == 0)
        dist, state = policy(flat, state)
        wanted, theirs = asked.predict(own, theirs, starts, deterministic=True)
        if not _same(dist, wanted, action):
            return False
    return True
