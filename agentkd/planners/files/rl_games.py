"""Checkpoints of rl_games, *.pth: the actor of `A2CBuilder` (algos_torch/network_builder.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from agentkd import dists
from agentkd.errors import LoadError
from agentkd.planners.files.network import Answer, Layers, Network, Normaliser, fit, layers
from agentkd.planners.files.options import Assumptions
from agentkd.planners.files.run_settings import Settings
from agentkd.planners.files.weights import REMEDY, Holder, Pair
from agentkd.planners.sb3.file import weights_of
from agentkd.spec import BoxSpec, Spec

_EPSILON, _CLIP = 1e-5, 5.0
"""Of `RunningMeanStd`."""
_NET = "a2c_network."
_CRITICS = ("value_mean_std.", *(f"{_NET}{each}" for each in ("value.", "critic_mlp.", "c_rnn.")))
_NETWORK = "params.network"


def is_checkpoint(found: Any) -> bool:
    """Whether a file of torch.save is a checkpoint of rl_games."""
    return (
        isinstance(found, Mapping) and "epoch" in found and ("model" in found or "actor" in found)
    )


def read(
    found: Mapping[str, Any], settings: Settings, spec: Spec | None, about: Assumptions
) -> tuple[Network, Spec]:
    """Rebuild the actor of a checkpoint.

    Raises:
        ConfigError: If the file does not tell something, and the user did not either.
        LoadError: If the weights are not those of such a network.
        SpecError: If it is for another environment.
    """
    model = found.get("model")
    if not isinstance(model, Mapping):
        raise LoadError(f"{about.where} is of rl_games' SAC, which is not read. {REMEDY}")
    holder = Holder(weights_of(model, about.where), about.where)
    activation = _activation(settings, about)
    pairs = holder.chain(f"{_NET}actor_mlp.")
    place = next((p for p in (f"{_NET}rnn.", f"{_NET}a_rnn.") if holder.has(p)), None)
    memory = None if place is None else holder.memory(f"{place}rnn.")
    tail, answer = _head(holder, about)
    inputs = pairs[0][0].shape[1] if pairs else tail[0].shape[1]
    first, last = Layers(), layers((*pairs, tail), activation)
    if memory is not None and not _before(memory, pairs, settings, about):
        first, last = layers(pairs, activation, ends=True), layers((tail,), activation)
    elif memory is not None:
        inputs = memory.input_size
    normaliser = _normaliser(holder, found, inputs, settings, about)
    holder.check_left(_CRITICS)
    answer = _rescaled(answer, settings, spec, about)
    network = Network(
        inputs=inputs,
        normaliser=normaliser,
        first=first,
        memory=memory,
        last=last,
        answer=answer,
        name="rl_games actor",
        parameters=holder.parameters,
    )
    return fit(network, spec, about)


def _before(memory: Any, pairs: list[Pair], settings: Settings, about: Assumptions) -> bool:
    """Whether the memory comes before the other layers."""
    if not pairs:
        return True
    after = len(pairs[-1][0]) == memory.input_size
    before = memory.hidden_size == pairs[0][0].shape[1]
    told = settings.get(f"{_NETWORK}.rnn.before_mlp")
    if before and after and told is None:
        about.note("the memory comes after the other layers, as in rl_games by default")
    return told.lower() == "true" if told is not None else before and not after


def _activation(settings: Settings, about: Assumptions) -> str:
    known = about.activation(settings.get(f"{_NETWORK}.mlp.activation"), settings.path)
    for name in ("mu_activation", "sigma_activation"):
        found = settings.get(f"{_NETWORK}.space.continuous.{name}")
        if found is not None:
            raise LoadError(f"{settings.path}: {name} is {found}; none is read. {REMEDY}")
    return known


def _head(holder: Holder, about: Assumptions) -> tuple[Pair, Answer]:
    """Take the last layer, and say what its numbers are."""
    if holder.has(f"{_NET}logits.weight"):
        pair = holder.linear(f"{_NET}logits")
        return pair, Answer("categorical", len(pair[0]))
    if holder.has(f"{_NET}logits."):
        pairs: list[Pair] = []
        while holder.has(f"{_NET}logits.{len(pairs)}."):
            pairs.append(holder.linear(f"{_NET}logits.{len(pairs)}"))
        pair = joined(pairs)
        return pair, Answer("categorical", len(pair[0]))
    mean = holder.linear(f"{_NET}mu")
    size = len(mean[0])
    log_std = holder.optional(f"{_NET}sigma")
    if log_std is not None:
        if log_std.shape != (size,):
            raise LoadError(f"{about.where}: {tuple(log_std.shape)} deviations for {size} actions.")
        return mean, Answer("point", size, "fixed", log_std)
    return joined([mean, holder.linear(f"{_NET}sigma")]), Answer("point", size, "log")


def joined(pairs: list[Pair]) -> Pair:
    """Lay layers of the same inputs side by side."""
    biases = [torch.zeros(len(weight)) if bias is None else bias for weight, bias in pairs]
    widths = {weight.shape[1] for weight, _ in pairs}
    if len(widths) != 1:
        raise LoadError(f"Layers side by side take {sorted(widths)} numbers.")
    return torch.cat([weight for weight, _ in pairs]), torch.cat(biases)


def _normaliser(
    holder: Holder, found: Mapping[str, Any], inputs: int, settings: Settings, about: Assumptions
) -> Normaliser | None:
    prefix = "running_mean_std."
    if holder.has(prefix) and found.get("running_mean_std"):
        raise LoadError(f"{about.where} holds two normalisers of observations. {REMEDY}")
    if not holder.has(prefix):
        if not isinstance(found.get("running_mean_std"), Mapping):
            promise = settings.promise("params.config.normalize_input")
            if promise is not None:
                about.refuse_missing_normaliser(promise)
            return None
        prefix = ""
        holder = Holder(weights_of(found["running_mean_std"], about.where), about.where)
    mean, variance = (holder.take(f"{prefix}running_{each}", (inputs,)) for each in ("mean", "var"))
    holder.optional(f"{prefix}count")
    if bool((variance < 0).any()):
        raise LoadError(f"{about.where}: its normaliser has a variance below 0.")
    epsilon = about.given("epsilon") or _EPSILON
    if about.given("normaliser") == "off":
        return None
    return Normaliser(mean, (variance + epsilon).sqrt(), _CLIP)


def _rescaled(answer: Answer, settings: Settings, spec: Spec | None, about: Assumptions) -> Answer:
    """Scale actions from -1 to 1 to the box, as the player does if it clips them."""
    action = None if spec is None else spec.action
    if answer.kind != "point" or not isinstance(action, BoxSpec) or not action.bounded:
        return answer
    low, high = (torch.from_numpy(each.copy()) for each in dists.bounds(action))
    if len(low) != answer.size or bool(((low == -1) & (high == 1)).all()):
        return answer
    clips = settings.get("params.config.clip_actions")
    if clips is None:
        about.note("actions from -1 to 1 are scaled to the box, as rl_games does by default")
    if (clips or "true").lower() != "true":
        return answer
    return replace(answer, scale=0.5 * (high - low), offset=0.5 * (high + low))
