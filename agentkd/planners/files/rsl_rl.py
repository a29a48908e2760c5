"""Checkpoints of rsl_rl, model_*.pt, of every version since 2.

5.x and 4.x keep a state_dict for the actor (`rsl_rl/models/mlp_model.py`, `rnn_model.py`); 3.x and
2.x one for actor and critic together (`rsl_rl/modules/actor_critic.py`). Neither the activation nor
the distribution is in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agentkd.dists import action_size
from agentkd.errors import ConfigError, LoadError
from agentkd.planners.files.network import Answer, Network, Normaliser, Spread, fit, layers
from agentkd.planners.files.options import FLAG, Assumptions
from agentkd.planners.files.run_settings import Settings
from agentkd.planners.files.weights import REMEDY, Holder
from agentkd.planners.sb3.file import Weights, weights_of
from agentkd.spec import Spec

_EPSILON = 1e-2
"""Added to the deviation by `EmpiricalNormalization`, which no run can change."""
_MARKS = ("actor_state_dict", "student_state_dict", "model_state_dict")


class _Names(NamedTuple):
    """What the parts of a model are called in its state_dict."""

    layers: str
    memory: str
    normaliser: str
    spread: str
    others: tuple[str, ...]


def is_checkpoint(found: Any) -> bool:
    """Whether a file of torch.save is a checkpoint of rsl_rl."""
    return isinstance(found, Mapping) and any(name in found for name in _MARKS)


def read(
    found: Mapping[str, Any], settings: Settings, spec: Spec | None, about: Assumptions
) -> tuple[Network, Spec]:
    """Rebuild the actor of a checkpoint, or a distillation's student or teacher.

    Raises:
        ConfigError: If the file does not tell something, and the user did not either.
        LoadError: If the weights are not those of such a network.
        SpecError: If it is for another environment.
    """
    model, weights, names = _model(found, about)
    holder = Holder(weights, about.where)
    memory = holder.memory(names.memory) if holder.has(names.memory) else None
    pairs = holder.chain(names.layers)
    if not pairs:
        raise LoadError(f"{about.where} holds no layers {names.layers}0, {names.layers}2, ….")
    known = settings.get(f"{model}.activation", "policy.activation")
    activation = about.activation(known, settings.path, "rsl_rl's default")
    inputs = memory.input_size if memory is not None else pairs[0][0].shape[1]
    normaliser = _normaliser(holder, names, model, inputs, settings, about)
    answer = _answer(holder, names, len(pairs[-1][0]), model, settings, spec, about)
    holder.check_left(names.others)
    network = Network(
        inputs=inputs,
        normaliser=normaliser,
        memory=memory,
        last=layers(pairs, activation),
        answer=answer,
        name=f"rsl_rl {model}",
        parameters=holder.parameters,
    )
    return fit(network, spec, about)


def _model(found: Mapping[str, Any], about: Assumptions) -> tuple[str, Weights, _Names]:
    """Choose the model that acts, its weights, and the names of its parts."""
    if "model_state_dict" not in found:
        models = [name for name in ("actor", "student", "teacher") if f"{name}_state_dict" in found]
        model = _choose(models, about)
        weights = weights_of(_mapping(found[f"{model}_state_dict"], about.where), about.where)
        # 4.x has the deviation beside the layers, 5.x in a module of its own.
        spread = "distribution." if any(n.startswith("distribution.") for n in weights) else ""
        return model, weights, _Names("mlp.", "rnn.rnn.", "obs_normalizer.", spread, ())
    held = dict(_mapping(found["model_state_dict"], about.where))
    models = [name for name in ("actor", "student", "teacher") if f"{name}.0.weight" in held]
    model = _choose(models, about)
    outside = "privileged_obs_norm_state_dict" if model == "teacher" else "obs_norm_state_dict"
    for name, each in _mapping(found.get(outside) or {}, about.where).items():
        if held.setdefault(f"{model}_obs_normalizer.{name}", each) is not each:
            raise LoadError(f"{about.where} holds two normalisers of observations. {REMEDY}")
    letter = model[0]
    # A distillation's deviation is the student's.
    noise = ("std", "log_std") if model == "teacher" else ()
    others = [each for each in ("actor", "student", "teacher", "critic") if each != model]
    memories = [f"memory_{each}." for each in "astc" if each != letter]
    names = _Names(
        f"{model}.",
        f"memory_{letter}.rnn.",
        f"{model}_obs_normalizer.",
        "",
        (*(f"{e}{end}" for e in others for end in (".", "_obs_normalizer.")), *memories, *noise),
    )
    return model, weights_of(held, about.where), names


def _mapping(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise LoadError(f"{where}: a state_dict in it is a {type(found).__name__}.")
    return found


def _choose(models: list[str], about: Assumptions) -> str:
    if not models:
        raise LoadError(f"{about.where} has the form of rsl_rl's, but no actor in it.")
    if models[0] == "actor":
        return "actor"
    held = " and a ".join(models)
    model: str = about.ask("model", models[-1], f"it is of a distillation and holds a {held}.")
    if model not in models:
        raise ConfigError(f"{about.where} holds a {held}, no {model}.")
    return model


def _normaliser(
    holder: Holder, names: _Names, model: str, inputs: int, settings: Settings, about: Assumptions
) -> Normaliser | None:
    prefix = names.normaliser
    if not holder.has(f"{prefix}_mean"):
        promise = settings.promise(
            f"{model}.obs_normalization",
            f"policy.{model}_obs_normalization",
            "empirical_normalization",
        )
        if promise is not None:
            about.refuse_missing_normaliser(promise)
        return None
    mean, deviation = (holder.take(f"{prefix}{name}").reshape(-1) for name in ("_mean", "_std"))
    for name in ("_var", "count"):
        holder.optional(f"{prefix}{name}")
    if mean.shape != (inputs,) or deviation.shape != (inputs,):
        raise LoadError(
            f"{about.where}: its normaliser has {len(mean)} means and {len(deviation)} deviations; "
            f"the network takes {inputs} numbers."
        )
    if bool((deviation < 0).any()):
        raise LoadError(f"{about.where}: its normaliser has a deviation below 0.")
    if about.given("normaliser") == "off":
        return None
    epsilon = about.given("epsilon") or _EPSILON
    if settings.path is None:
        epsilon = about.assume("epsilon", _EPSILON, "rsl_rl's, of the observation's normaliser")
    return Normaliser(mean, deviation + epsilon)


def _answer(
    holder: Holder,
    names: _Names,
    out: int,
    model: str,
    settings: Settings,
    spec: Spec | None,
    about: Assumptions,
) -> Answer:
    """Say what the last layer's numbers are: a mean, a mean and a deviation, or Beta's two."""
    form = about.given("distribution") or _distribution(model, settings)
    for name, logarithm in (("std", False), ("log_std", True)):
        full = f"{names.spread}{name}_param" if names.spread else name
        std = None if full in names.others else holder.optional(full)
        if std is not None:
            return Answer("point", out, "fixed", _log(std, out, full, about, logarithm=logarithm))
    if form is None and spec is not None and out != 2 * action_size(spec.action):
        form = "none"
    form = form or about.ask(
        "distribution",
        "heteroscedastic",
        f"its last layer gives {out} numbers, and the file does not tell whether half of them are "
        "deviations (heteroscedastic), parameters of a Beta (beta), or all of them the action "
        "(none).",
    )
    if form == "none":
        return Answer("point", out)
    if out % 2 or form == "gaussian":
        raise ConfigError(f"{about.where}: {out} numbers of its last layer are no {form} answer.")
    if form == "beta":
        low, high = _action_range(settings, model)
        scale, offset = (torch.full((out // 2,), each) for each in (high - low, low))
        return Answer("point", out // 2, "beta", scale=scale, offset=offset)
    kind = about.given("std_type") or settings.get(
        f"{model}.distribution_cfg.std_type", f"{model}.noise_std_type", "policy.noise_std_type"
    )
    spread: Spread = "log" if kind == "log" else "scalar"
    if kind is None:
        about.assume("std_type", spread, "rsl_rl's default")
    return Answer("point", out // 2, spread)


def _log(std: Tensor, out: int, name: str, about: Assumptions, *, logarithm: bool) -> Tensor:
    if std.shape != (out,):
        raise LoadError(f"{about.where}: {name!r} has shape {tuple(std.shape)}, not {(out,)}.")
    return std if logarithm else std.log()


def _distribution(model: str, settings: Settings) -> str | None:
    """What params/agent.yaml tells of the distribution."""
    name = settings.get(f"{model}.distribution_cfg.class_name") or ""
    if found := re.search(r"(Heteroscedastic|Beta)\w*$", name):
        return found[1].lower()
    if name and not re.search(r"(^|\W)Gaussian\w*$", name):
        raise LoadError(
            f"{settings.path}: {model}.distribution_cfg.class_name is {name:.80}, which is none "
            f"of rsl_rl's. Say what it is: {FLAG} distribution=…."
        )
    dependent = settings.get(f"{model}.state_dependent_std", "policy.state_dependent_std")
    if (dependent or "").lower() == "true":
        return "heteroscedastic"
    told = any(name.startswith((f"{model}.", "policy.")) for name in settings.values)
    return "none" if told else None


def _action_range(settings: Settings, model: str) -> tuple[float, float]:
    """The interval of a Beta distribution's actions; -1 to 1 if the settings tell none."""
    name = f"{model}.distribution_cfg.action_range"
    found = settings.values.get(name, ())
    if not found:
        return -1.0, 1.0
    try:
        low, high = (float(each) for each in found)
    except ValueError as error:
        raise LoadError(f"{settings.path}: {name} is {found}, no interval.") from error
    if not low < high:
        raise LoadError(f"{settings.path}: {name} is {found}, no interval. See {FLAG}.")
    return low, high
