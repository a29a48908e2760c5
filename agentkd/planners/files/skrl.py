"""Checkpoints of skrl, agent_N.pt and best_agent.pt, of versions 1 and 2.

The layout of the policy is that of `skrl/utils/model_instantiators/torch`: containers of linear
layers, the last of which may be an output layer of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentkd.errors import LoadError
from agentkd.planners.files.network import Answer, Network, Normaliser, fit, layers
from agentkd.planners.files.options import FLAG, Assumptions
from agentkd.planners.files.run_settings import Settings
from agentkd.planners.files.weights import REMEDY, Holder
from agentkd.planners.sb3.file import weights_of
from agentkd.spec import BoxSpec, Spec

_EPSILON, _CLIP = 1e-8, 5.0
"""Of `RunningStandardScaler`."""
_LOG_STD = (-20.0, 2.0)
_POLICIES = ("policy", "q_network")
_PREPROCESSORS = ("observation_preprocessor", "state_preprocessor")
_TAILS = ("policy_layer", "mean_layer", "output_layer", "net.output_layer")


def is_checkpoint(found: Any) -> bool:
    """Whether a file of torch.save is a checkpoint of skrl."""
    return isinstance(found, Mapping) and any(
        isinstance(found.get(name), Mapping) for name in _POLICIES
    )


def read(
    found: Mapping[str, Any], settings: Settings, spec: Spec | None, about: Assumptions
) -> tuple[Network, Spec]:
    """Rebuild the policy of a checkpoint, or its network of action values.

    Raises:
        ConfigError: If the file does not tell something, and the user did not either.
        LoadError: If the weights are not those of such a network.
        SpecError: If it is for another environment.
    """
    model = next(name for name in _POLICIES if isinstance(found.get(name), Mapping))
    weights = weights_of(found[model], about.where)
    holder = Holder(weights, about.where)
    names = (re.match(r"(\w+)\.\d+\.weight$", name) for name in weights)
    containers = list(dict.fromkeys(match[1] for match in names if match))
    if len(containers) != 1:
        raise LoadError(
            f"{about.where}: its {model} has the containers {containers}; one is read. {REMEDY}"
        )
    pairs = holder.chain(f"{containers[0]}.")
    tail = next((name for name in _TAILS if holder.has(f"{name}.weight")), None)
    if tail is not None:
        pairs.append(holder.linear(tail))
    known = settings.get(f"models.{model}.network.activations", "models.network.activations")
    activation = about.activation(known, settings.path)
    inputs, out = pairs[0][0].shape[1], len(pairs[-1][0])
    answer = Answer("categorical", out)
    log_std = holder.optional("log_std_parameter")
    if model == "q_network":
        answer = Answer("qvalues", out)
    elif log_std is not None:
        if log_std.shape != (out,):
            raise LoadError(f"{about.where}: {tuple(log_std.shape)} deviations for {out} actions.")
        answer = Answer("point", out, "fixed", log_std.clamp(*_deviations(settings)))
    elif spec is None or isinstance(spec.action, BoxSpec):
        answer = Answer("point", out)
    if answer.kind == "point":
        answer = replace(answer, squash=_tanh(settings, about))
    # A model that is shared with the value has its layers beside.
    holder.check_left(("value_layer.", "critic"))
    network = Network(
        inputs=inputs,
        normaliser=_normaliser(found, inputs, settings, about),
        last=layers(pairs, activation),
        answer=answer,
        name=f"skrl {model}",
        parameters=holder.parameters,
    )
    return fit(network, spec, about)


def _deviations(settings: Settings) -> tuple[float, float]:
    """Return within which bounds the policy keeps the logarithm of its deviation.

    Raises:
        LoadError: If the run's settings are not numbers, or are swapped.
    """
    least, most = _LOG_STD
    text, numbers = settings.get("models.policy.clip_log_std"), []
    if text is not None and text.lower() == "false":
        return -math.inf, math.inf
    for name, usual in (("min_log_std", least), ("max_log_std", most)):
        text = settings.get(f"models.policy.{name}")
        try:
            numbers.append(usual if text is None else float(text))
        except ValueError:
            numbers.append(math.nan)
    if not numbers[0] <= numbers[1]:
        raise LoadError(
            f"{settings.path}: min_log_std and max_log_std of the policy are {numbers[0]:g} and "
            f"{numbers[1]:g}; two numbers are needed, the smaller one first."
        )
    return numbers[0], numbers[1]


def _tanh(settings: Settings, about: Assumptions) -> bool:
    """Whether tanh follows the last layer."""
    told = about.given("output")
    if told is None and settings.path is not None:
        text = settings.get("models.policy.output", "models.output") or "ACTIONS"
        if text not in ("ACTIONS", "tanh(ACTIONS)"):
            raise LoadError(f"{settings.path}: the policy's output {text!r} is not known. {REMEDY}")
        return text != "ACTIONS"
    return bool(
        (told or about.assume("output", "none", "nothing follows the last layer")) == "tanh"
    )


def _normaliser(
    found: Mapping[str, Any], inputs: int, settings: Settings, about: Assumptions
) -> Normaliser | None:
    """Take the preprocessor of what the policy observes.

    2.x keeps one of observations and one of the simulator's states; 1.x only the latter, which it
    calls the policy's observations.
    """
    off = about.given("normaliser") == "off"
    name = next((each for each in _PREPROCESSORS if found.get(each)), None)
    if name is None and (promise := _promise(settings)) is not None:
        about.refuse_missing_normaliser(promise)
    if name is None or off:
        return None
    if not isinstance(found[name], Mapping):
        raise LoadError(f"{about.where}: its {name} is a {type(found[name]).__name__}.")
    holder = Holder(weights_of(found[name], about.where), about.where)
    mean, variance = (holder.take(f"running_{each}", (inputs,)) for each in ("mean", "variance"))
    if bool((variance < 0).any()):
        raise LoadError(f"{about.where}: its {name} has a variance below 0.")
    if name == _PREPROCESSORS[1]:
        about.note(
            f"its state_preprocessor normalises what the policy observes, as in skrl 1 "
            f"({FLAG} normaliser=off if it is one of skrl 2, of states)"
        )
    epsilon = about.given("epsilon") or _EPSILON
    deviation = variance.sqrt() + epsilon
    if not bool((deviation > 0).all()):
        raise LoadError(f"{about.where}: its {name} has a variance of 0.")
    return Normaliser(mean, deviation, _CLIP)


def _promise(settings: Settings) -> str | None:
    """Name the setting that gives the policy's observations a preprocessor, as in skrl 2 or 1."""
    names = [f"agent.{each}" for each in _PREPROCESSORS]
    return settings.promise(next((each for each in names if each in settings.values), names[0]))
