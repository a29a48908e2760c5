"""A Stable-Baselines3 model to time `predict` with: a planner's, built anew.

Saves are not unpickled. A model of the right class and widths is made, and what acts takes the
save's weights; what it predicts is then what the planner decides.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd.errors import AgentkdError, LoadError
from agentkd.measure.latency import Form
from agentkd.planners.sb3.file import Weights, read_save
from agentkd.planners.sb3.policy import Description, describe, is_model
from agentkd.refs import is_reference, resolve
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Spec,
)
from agentkd.types import Floats
from benchmarks.forms import missing

NAME = "SB3 predict"
_WIDE = [256, 256]
_LAYERS = {
    "actor-critic": ("mlp_extractor.policy_net.", "action_net.", "log_std"),
    "squashed": ("actor.latent_pi.", "actor."),
    "deterministic": ("actor.mu.", "actor."),
    "values": ("q_net.q_net.", "q_net."),
    "quantiles": ("quantile_net.quantile_net.", "quantile_net."),
    "linear": ("action_net.",),
}
"""Where the weights that act are, by kind of policy; the hidden layers' first."""


def sb3_form(ref: str | None, spec: Spec, algorithm: str | None = None) -> tuple[Form, Any]:
    """The form "SB3 predict", and the model; (…, None) with the reason where there is none.

    Without a reference to a planner the model is a fresh one for the environment.
    """
    try:
        model, note = _fresh(spec) if ref is None else _model_of(ref, algorithm)
    except ModuleNotFoundError as error:
        return Form(NAME, None, missing(error)), None
    except AgentkdError as error:
        return Form(NAME, None, str(error)), None
    predict = model.predict

    def decide(obs: Floats) -> Any:
        action = predict(obs, deterministic=True)[0]
        return int(action) if action.ndim == 0 else action

    return Form(NAME, decide, note), model


def _model_of(ref: str, algorithm: str | None = None) -> tuple[Any, str]:
    """Find or rebuild the model that a reference names, with a word on where it comes from."""
    if is_reference(ref):
        found = resolve(ref)
        if not is_model(found):
            raise LoadError(f"{ref} is not an SB3 model")
        return found, f"{type(found).__name__}, {ref}"
    path = Path(ref)
    if path.is_dir():
        saves = sorted(path.glob("*.zip"))
        named = [each for each in saves if each.stem in ("planner", "best_model", "model")]
        if len(saves) != 1 and not named:
            raise LoadError(f"{ref} is not one SB3 save")
        path = (named or saves)[0]
    if path.suffix != ".zip":
        raise LoadError(f"{ref} is not an SB3 save")
    description = describe(read_save(path), algorithm)
    normalised = (path.parent / "vecnormalize.pkl").is_file()
    without = ", not normalised" if normalised else ""
    return _rebuilt(description), f"{description.algorithm}, same weights{without}"


def _rebuilt(description: Description) -> Any:
    """Build a model of the description's class and widths, with the weights that act."""
    kind, weights, name = description.kind, description.weights, description.algorithm
    if kind == "recurrent":
        raise LoadError(f"{name} is not rebuilt: it has a memory")
    acts = _LAYERS[kind]
    hidden = _widths(weights, acts[0])
    if kind not in ("actor-critic", "squashed"):
        hidden = hidden[:-1]
    arch: Any = hidden
    if kind == "actor-critic":
        arch = {"pi": hidden, "vf": _widths(weights, "mlp_extractor.value_net.")}
    elif kind in ("squashed", "deterministic"):
        arch = {"pi": hidden, "qf": [8]}  # critics do not act
    deviation = weights.get("actor.log_std", weights.get("log_std"))
    use_sde = kind in ("squashed", "actor-critic") and deviation is not None and deviation.ndim == 2
    model = _new(
        name, description.obs, description.action, arch, description.activation, use_sde=use_sde
    )
    state = model.policy.state_dict()
    for key, tensor in state.items():
        if key.startswith(acts):
            given = weights.get(key)
            if given is None or given.shape != tuple(tensor.shape):
                raise LoadError(f"a {name} of another build: {key!r} does not fit")
            state[key] = tensor.new_tensor(given)
    model.policy.load_state_dict(state)
    return model


def _widths(weights: Weights, prefix: str) -> list[int]:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.weight")
    found = [(int(m[1]), len(w)) for n, w in weights.items() if (m := pattern.fullmatch(n))]
    return [width for _, width in sorted(found)]


def _fresh(spec: Spec) -> tuple[Any, str]:
    """Make an untrained model, 256-256, that fits an environment, with a word on what it is."""
    names = {BoxSpec: "SAC", DiscreteSpec: "DQN"}
    name = names.get(type(spec.action), "PPO")
    arch: Any = {"pi": _WIDE, "vf": _WIDE} if name == "PPO" else _WIDE
    model = _new(name, spec.obs, spec.action, arch, "ReLU", use_sde=False)
    return model, f"a fresh {name}, 256-256"


def _new(
    name: str, obs: ObsSpec, action: ActionSpec, arch: Any, activation: str, *, use_sde: bool
) -> Any:
    import sb3_contrib
    import stable_baselines3
    import torch

    home = stable_baselines3 if hasattr(stable_baselines3, name) else sb3_contrib
    options: dict[str, Any] = {"device": "cpu"}
    if name in ("SAC", "TQC", "CrossQ", "TD3", "DDPG", "DQN", "QRDQN"):
        options["buffer_size"] = 1
    if use_sde:
        options["use_sde"] = True
    kwargs = {"net_arch": arch, "activation_fn": getattr(torch.nn, activation)}
    spaces = _Spaces(obs, action)
    return getattr(home, name)("MlpPolicy", spaces, policy_kwargs=kwargs, **options)


class _Spaces(gym.Env[Any, Any]):
    """An environment with nothing but spaces: SB3 builds its networks from them."""

    def __init__(self, obs: ObsSpec, action: ActionSpec) -> None:
        part = obs.parts[0]
        if obs.layout != "single" or part.kind != "box" or len(part.shape) != 1:
            raise LoadError("only for observations that are one vector")
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, part.shape, np.float32)
        self.action_space = _action_space(action)


def _action_space(action: ActionSpec) -> Any:
    match action:
        case DiscreteSpec(n, start):
            return gym.spaces.Discrete(n, start=start)
        case MultiDiscreteSpec(sizes):
            return gym.spaces.MultiDiscrete(list(sizes))
        case MultiBinarySpec(n):
            return gym.spaces.MultiBinary(n)
        case BoxSpec(low, high, shape):
            if not action.bounded:
                raise LoadError("SB3 needs finite bounds")
            least, most = (np.asarray(end, np.float32).reshape(shape) for end in (low, high))
            return gym.spaces.Box(least, most, dtype=np.float32)
