"""Compares a planner made of a Stable-Baselines3 policy with the policy's `predict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.planners.sb3.vecnormalize import Normaliser
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
from agentkd.types import ActionDist, Actions, Floats, Policy, RecurrentPolicy

_BATCH, _STEPS = 8, 3
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
    low, high = (np.broadcast_to(low.ravel(), part.size), np.broadcast_to(high.ravel(), part.size))
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


def observations(view: View, space: Any) -> Floats:
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
    chosen = wanted.reshape(len(wanted), -1)
    match action:
        case MultiBinarySpec():
            near = np.abs(scores) <= slack[:, None]
            return bool((near | (chosen == (scores > 0))).all())
        case MultiDiscreteSpec(sizes):
            blocks = np.split(scores, np.cumsum(sizes)[:-1], axis=1)
        case _:
            blocks = [scores]
    row = np.arange(len(scores))
    return all(
        bool((block[row, chosen[:, i]] >= block.max(axis=1) - slack).all())
        for i, block in enumerate(blocks)
    )


def agrees(
    policy: Policy | RecurrentPolicy,
    predict: Callable[..., Any],
    spec: Spec,
    view: View,
    space: Any,
) -> bool:
    """Whether a policy chooses what a model's `predict` chooses, deterministically."""
    flat = observations(view, space)
    own = view(flat)
    if not isinstance(policy, RecurrentPolicy):
        wanted, _ = predict(own, deterministic=True)
        return _same(policy(flat), wanted, spec.action)
    state, theirs = policy.initial_state(len(flat)), None
    for step in range(_STEPS):
        starts = np.full(len(flat), step == 0)
        dist, state = policy(flat, state)
        wanted, theirs = predict(own, theirs, starts, deterministic=True)
        if not _same(dist, wanted, spec.action):
            return False
    return True
