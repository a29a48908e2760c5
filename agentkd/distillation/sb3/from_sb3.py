"""A Stable-Baselines3 policy as an executor, as it is: nothing is distilled.

What a multilayer perceptron of SB3 does when it acts deterministically is what an executor does, so
its numbers can be taken over and exported, packed and run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agentkd import dists
from agentkd.distillation.prune import Dense, assembled
from agentkd.errors import LoadError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation
from agentkd.planners import Planner, load_planner
from agentkd.planners.sb3 import build as sb3
from agentkd.planners.sb3.build import Sb3Policy
from agentkd.planners.sb3.live import describe_model
from agentkd.planners.sb3.network import Linear, Perceptron
from agentkd.planners.sb3.policy import ALGORITHMS, is_model
from agentkd.planners.sb3.vecnormalize import Normaliser, statistics_of
from agentkd.spec import Spec
from agentkd.types import Floats

_NAMES: dict[str, Activation] = {"ReLU": "relu", "Tanh": "tanh", "SiLU": "silu", "ELU": "elu"}
_UNCLIPPED = 1e6
"""Where SB3 does not clip what it observes: further away than anything is."""

_EXTRACTOR = "features_extractor."


def from_sb3(model: Any, spec: Spec | None = None) -> Executor:
    """Make an executor of an SB3 policy.

    Its answer is the policy's deterministic one. PPO's and A2C's logits stay logits; DQN's and
    QR-DQN's action values become them, so that the choice is the same, and the probabilities mean
    nothing.

    Args:
        model: A model in memory, also one of `to_sb3`; a `Planner` of `load_planner`; or a
            reference to a save.
        spec: The environment; left out, the spaces that the policy was trained with.

    Raises:
        LoadError: If it is not a multilayer perceptron of SB3's, or has an activation that
            executors lack.
        SpecError: If it is for another environment.
    """
    if is_model(model):
        return _of_model(model, spec)
    planner = model if isinstance(model, Planner) else load_planner(model, spec)
    if not isinstance(planner.policy, Sb3Policy):
        raise LoadError(
            f"{planner.name} is not a feed-forward policy of SB3's own classes. Distil it instead."
        )
    return _executor(planner.policy, spec or planner.spec, planner.name)


def _of_model(model: Any, spec: Spec | None) -> Executor:
    name = next((c.__name__ for c in type(model).__mro__ if c.__name__ in ALGORITHMS), "")
    where = f"The {type(model).__name__} model"
    if not name:
        raise LoadError(f"{where} is of no algorithm that is known.")
    wrapper = model.get_vec_normalize_env()
    statistics = None if wrapper is None else statistics_of(wrapper, where)
    description = describe_model(model, name)
    extractor = model.policy.features_extractor_class.__name__
    own = _own_normaliser(model.policy)
    if own is None and extractor != "FlattenExtractor":
        raise LoadError(f"{where} has a {extractor}; only flat observations are taken.")
    if own is not None and statistics is not None:
        raise LoadError(f"{where} is normalised twice; normalise only inside it.")
    # Copied: an executor does not change while the model learns on.
    weights = {
        name: np.array(weight)
        for name, weight in description.weights.items()
        if own is None or _EXTRACTOR not in name
    }
    description = replace(description, weights=weights)
    policy, found, _ = sb3.build(description, spec, statistics)
    if not isinstance(policy, Sb3Policy):
        raise LoadError(f"{where} has a memory; distil it instead.")
    executor = _executor(policy, found, where)
    if own is None:
        return executor
    if own.squashed:
        executor = replace(executor, head="squashed")
    mean, scale = (tensor.cpu().numpy().copy() for tensor in (own.mean, own.scale))
    return replace(executor, mean=mean, scale=scale, clip=own.clip)


def _own_normaliser(policy: Any) -> Any:
    """The extractor that `to_sb3` gave a policy, None for others."""
    from agentkd.distillation.sb3.to_sb3 import Normalised

    for holder in (policy, getattr(policy, "actor", None)):
        found = getattr(holder, "features_extractor", None)
        if isinstance(found, Normalised):
            return found
    return None


def _executor(policy: Sb3Policy, spec: Spec, where: str) -> Executor:
    """Make an executor of a rebuilt SB3 policy; messages say that it comes from `where`.

    Raises:
        LoadError: If executors cannot do the same.
    """
    if policy.inputs.features:
        raise LoadError(
            f"{where} does not take its observations as one flat vector in their order."
        )
    layers, squashed, between = _layers(policy, where)
    mean, scale, clip = _normaliser(policy.inputs.normaliser, spec, where)
    sketch = initial("linear", spec, squashed=squashed)
    sketch = replace(sketch, mean=mean, scale=scale, clip=clip)
    return assembled(sketch, _activation(between, where), layers)


def _layers(policy: Sb3Policy, where: str) -> tuple[list[Dense], bool, Any]:
    """All layers from the observation to the last numbers, and whether tanh follows."""
    trunk, head = policy.trunk, policy.head
    between = head.tower.between
    squashed = head.squash or head.kind == "squashed"
    if trunk.layers and not trunk.ends:
        raise LoadError(f"{where} normalises after its last activation. Distil it instead.")
    if np.isfinite(head.limit):
        layers = _clipped(trunk, head.tower.layers[-1], float(head.limit), where)
        return layers, squashed, between
    layers = [_dense(layer) for layer in (*trunk.layers, *head.tower.layers)]
    if head.kind == "qvalues":
        layers[-1] = _mean_of_quantiles(*layers[-1], dists.action_size(head.action))
    return layers, squashed, between


def _dense(layer: Linear) -> Dense:
    """The arrays of a layer; they share its memory."""
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return layer.weight.numpy(), bias.numpy()


def _mean_of_quantiles(weight: Floats, bias: Floats, choices: int) -> Dense:
    """The mean over quantiles of a linear layer is a linear layer."""
    if len(bias) == choices:
        return weight, bias
    inputs = weight.shape[1]
    weight = weight.reshape(-1, choices, inputs).mean(axis=0)
    return weight, bias.reshape(-1, choices).mean(axis=0)


def _clipped(trunk: Perceptron, layer: Linear, limit: float, where: str) -> list[Dense]:
    """The last layer of gSDE, whose mean is clipped, as two layers with a ReLU.

    clip(x, -c, c) = relu(x + c) - relu(x - c) - c.
    """
    if _activation(trunk.between, where) != "relu":
        raise LoadError(
            f"{where} clips its mean and has no ReLU, so that no executor does the "
            "same. Distil it instead."
        )
    weight, bias = _dense(layer)
    one = np.eye(len(bias), dtype=np.float32)
    doubled = (
        np.concatenate([weight, weight]),
        np.concatenate([bias + np.float32(limit), bias - np.float32(limit)]),
    )
    joined = np.concatenate([one, -one], axis=1), np.full(len(bias), -limit, np.float32)
    return [*(_dense(each) for each in trunk.layers), doubled, joined]


def _activation(between: Any, where: str) -> Activation:
    own = type(between).__name__
    name = next((each for each, function in sb3.IN_PLACE.items() if function is between), own)
    if name not in _NAMES:
        known = ", ".join(_NAMES)
        raise LoadError(
            f"{where} has an activation that executors lack; they have {known}. Distil it instead."
        )
    return _NAMES[name]


def _normaliser(known: Normaliser | None, spec: Spec, where: str) -> tuple[Floats, Floats, float]:
    size = spec.obs.size
    if known is None:
        return np.zeros(size, np.float32), np.ones(size, np.float32), _UNCLIPPED
    if isinstance(known.clip, np.ndarray):
        raise SpecError(f"{where} normalises only a part of its observations.")
    mean, scale = known.mean.astype(np.float32), (1.0 / known.deviation).astype(np.float32)
    return mean, scale, float(known.clip)


def difference(executor: Executor, planner: Planner, obs: Floats) -> float:
    """The largest distance between both actions for observations (batch, obs).

    In the units of the action; for choices, 1 where any differs.
    """
    action = planner.spec.action
    policy: Any = planner.policy
    theirs = dists.mode(policy(obs), action)
    mine = dists.mode(executor(obs), action)
    return float(np.max(np.abs(np.asarray(mine, float) - np.asarray(theirs, float))))
