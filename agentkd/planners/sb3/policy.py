"""What a Stable-Baselines3 policy is, told by a save or by a live model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from agentkd.errors import ConfigError, LoadError, SpecError, UnsafeError, did_you_mean
from agentkd.planners.sb3.file import Save, Weights
from agentkd.planners.sb3.spaces import read_spaces
from agentkd.spec import ActionSpec, BoxSpec, ObsSpec

Kind = Literal[
    "actor-critic", "recurrent", "squashed", "deterministic", "values", "quantiles", "linear"
]

REMEDY = (
    "Load the model in a function of yours and give module:function; or, if you trust "
    "who made the file, allow unpickling (allow_pickle=True, --unpickle), which runs "
    "whatever code it holds."
)
"""What to do about a policy that cannot be rebuilt from its weights."""
ALGORITHMS: Mapping[str, Kind] = {
    "PPO": "actor-critic",
    "A2C": "actor-critic",
    "TRPO": "actor-critic",
    "RecurrentPPO": "recurrent",
    "SAC": "squashed",
    "TQC": "squashed",
    "CrossQ": "squashed",
    "TD3": "deterministic",
    "DDPG": "deterministic",
    "DQN": "values",
    "QRDQN": "quantiles",
    "ARS": "linear",
}
"""The algorithms that are read, and how each one's policy is built."""

_MODULES = {
    "PPO": r"stable_baselines3\.(common|ppo|a2c)\.policies",
    "TRPO": r"sb3_contrib\.trpo\.policies",
    "RecurrentPPO": r"sb3_contrib\.(common\.recurrent|ppo_recurrent)\.policies",
    "SAC": r"stable_baselines3\.sac\.policies",
    "TQC": r"sb3_contrib\.tqc\.policies",
    "CrossQ": r"sb3_contrib\.crossq\.policies",
    "TD3": r"stable_baselines3\.td3\.policies",
    "DQN": r"stable_baselines3\.dqn\.policies",
    "QRDQN": r"sb3_contrib\.qrdqn\.policies",
    "ARS": r"sb3_contrib\.ars\.policies",
}
_ON_POLICY = ("actor-critic", "recurrent")
EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
EXTRACTORS_MODULE = "stable_baselines3.common.torch_layers"
_MASKED = r"sb3_contrib\.(common\.maskable|ppo_mask)\.policies"
_OPTIONS = re.compile(
    "device|net_arch|activation_fn|ortho_init|use_sde|log_std_init|full_std|use_expln"
    "|squash_output|features_extractor_class|features_extractor_kwargs|share_features_extractor"
    "|normalize_images|optimizer_class|optimizer_kwargs|n_critics|n_quantiles|clip_mean|with_bias"
    "|sde_net_arch|lstm_hidden_size|n_lstm_layers|shared_lstm|enable_critic_lstm|lstm_kwargs"
    "|batch_norm|batch_norm_momentum|batch_norm_eps|renorm_warmup_steps|:type:"
)
"""The options of SB3's policies; what each does is in the weights, or is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """All that is needed to rebuild what acts.

    Attributes:
        images: The names of the observation's images that are divided by 255.
        activation: The name of the activation's class in torch.nn.
        use_expln: Whether gSDE bounds its deviation with `expln`.
        squash: Whether the actions end in tanh, where the algorithm leaves it open.
        clip_mean: gSDE of SAC keeps its mean within [-clip_mean, clip_mean].
        epsilon: CrossQ's renormalisation adds it to the variance.
        where: The file, for messages.
    """

    algorithm: str
    kind: Kind
    obs: ObsSpec
    action: ActionSpec
    images: frozenset[str]
    activation: str
    use_expln: bool
    squash: bool
    clip_mean: float
    epsilon: float
    weights: Weights
    where: str


_BASES = (
    ("stable_baselines3.common.base_class", "BaseAlgorithm"),
    ("stable_baselines3.common.policies", "BasePolicy"),
)


def is_model(found: Any) -> bool:
    """Whether an object is an SB3 model or policy; SB3 is not imported for it."""
    return any((base.__module__, base.__name__) in _BASES for base in type(found).__mro__)


def algorithm_of_module(module: str) -> str | None:
    """Name an algorithm whose policies are defined in a module, None for others."""
    return next((name for name, known in _MODULES.items() if re.fullmatch(known, module)), None)


def refuse_masks(module: str, where: str) -> None:
    """Refuse a policy of a module of MaskablePPO's: it acts only together with masks."""
    if re.fullmatch(_MASKED, module):
        raise SpecError(
            f"{where} is a policy of MaskablePPO. It needs action masks, and a planner "
            "gets only observations: without masks it chooses illegal actions. Write a "
            "function planner(spec) that finds the masks from the observations and returns "
            "Categorical(model.policy.get_distribution(obs, masks).distribution.logits), "
            "and give module:planner."
        )


def known_algorithm(algorithm: str) -> str:
    """Give an algorithm's name as it is written; a `ConfigError` if there is none."""
    names = {name.lower(): name for name in ALGORITHMS}
    name = algorithm.lower().replace("-", "").replace("_", "")
    if name not in names:
        raise ConfigError(f"No algorithm {algorithm!r}.{did_you_mean(algorithm, ALGORITHMS)}")
    return names[name]


_MARKS: tuple[tuple[str, str], ...] = (
    ("cg_max_steps", "TRPO"),
    ("delta_std", "ARS"),
    ("top_quantiles_to_drop_per_net", "TQC"),
    ("_last_lstm_states", "RecurrentPPO"),
    ("n_epochs", "PPO"),
    ("gae_lambda", "A2C"),
    ("n_quantiles", "QRDQN"),
    ("target_entropy", "SAC"),
    ("policy_delay", "TD3"),
)


def algorithm_of_options(data: Mapping[str, Any], weights: Weights) -> str | None:
    """Name the algorithm that has such options and weights, None for others."""
    name = next((name for mark, name in _MARKS if mark in data), None)
    if name == "SAC" and "policy_delay" in data:
        return "CrossQ"
    if name == "TD3":
        both = str(data.get("policy_delay")), str(data.get("target_noise_clip"))
        return "DDPG" if both == ("1", "0.0") else "TD3"
    if name is None and "exploration_fraction" in data:
        quantiles = any(each.startswith("quantile_net.") for each in weights)
        return "QRDQN" if quantiles else "DQN"
    return name


def _choose(save: Save, asked: str | None) -> str:
    """Name the algorithm whose policy the save holds."""
    refuse_masks(save.module, str(save.path))
    found = algorithm_of_module(save.module)
    marked = algorithm_of_options(save.data, save.weights)
    if found is not None and marked and ALGORITHMS[marked] == ALGORITHMS[found]:
        found = marked
    name = None if asked is None else known_algorithm(asked)
    if found is None:
        raise UnsafeError(
            f"{save.path}: its policy is {save.policy_class or 'a class'} of the "
            f"module {save.module!r}, whose network only its own code tells. Known are "
            f"the policies of {', '.join(ALGORITHMS)}. {REMEDY}"
        )
    if name is not None and ALGORITHMS[name] != ALGORITHMS[found]:
        raise LoadError(
            f"{save.path} is a save of {found}, not of {name}. "
            "Leave the algorithm out and it is inferred."
        )
    return name or found


def _check_options(save: Save) -> None:
    unknown = sorted(name for name in save.policy_kwargs if not _OPTIONS.fullmatch(name))
    if unknown:
        raise LoadError(
            f"{save.path}: the policy's options {', '.join(unknown)} are not known. {REMEDY}"
        )
    text = save.policy_kwargs.get("features_extractor_class")
    own = (f"<class '{EXTRACTORS_MODULE}.{name}'>" for name in EXTRACTORS)
    if text is not None and text not in own:
        raise UnsafeError(
            f"{save.path}: its features extractor {text} is of a class of its own. "
            f"Known are {', '.join(EXTRACTORS)}. {REMEDY}"
        )


def _activation(save: Save, kind: Kind) -> str:
    text = save.policy_kwargs.get("activation_fn")
    if text is None:
        return "Tanh" if kind in _ON_POLICY else "ReLU"
    found = re.fullmatch(r"<class 'torch\.nn\.modules\.\w+\.(\w+)'>", str(text))
    if not found:
        raise UnsafeError(
            f"{save.path}: its activation {text} is not a class of torch.nn. {REMEDY}"
        )
    return found[1]


def describe(save: Save, algorithm: str | None = None) -> Description:
    """Say what policy a save holds.

    The algorithm is given where the save does not tell, or uses a class of its own that only sets
    options of a known one.

    Raises:
        ConfigError: If there is no such algorithm.
        LoadError: If the save is of another one, or damaged.
        UnsafeError: If it uses classes that only running its code would give.
    """
    name = _choose(save, algorithm)
    kind = ALGORITHMS[name]
    _check_options(save)
    options = save.policy_kwargs
    spec, images = read_spaces(save.data)
    squash = options.get("squash_output")
    if squash is None and kind == "linear":
        if save.policy_class not in ("ARSPolicy", "ARSLinearPolicy"):
            raise LoadError(f"{save.path} does not tell which policy of ARS it has.")
        squash = save.policy_class == "ARSPolicy"
    return Description(
        algorithm=name,
        kind=kind,
        obs=spec.obs,
        action=spec.action,
        images=images if options.get("normalize_images", True) else frozenset(),
        activation=_activation(save, kind),
        use_expln=bool(options.get("use_expln", False)),
        squash=bool(squash),
        clip_mean=float(options.get("clip_mean", 2.0)),
        epsilon=float(options.get("batch_norm_eps", 1e-3)),
        weights=save.weights,
        where=str(save.path),
    )


def check_action(saved: ActionSpec, given: ActionSpec, where: str) -> None:
    """Make sure that a policy's actions are those of the environment, or raise a `SpecError`."""
    if isinstance(saved, BoxSpec) and isinstance(given, BoxSpec):
        if len(saved.low) != len(given.low):
            raise SpecError(
                f"{where} gives {len(saved.low)} numbers as action; the environment "
                f"takes {len(given.low)}. It was trained in another environment."
            )
        pairs = ((saved.low, given.low), (saved.high, given.high))
        if not all(np.allclose(left, right, atol=1e-6) for left, right in pairs):
            raise SpecError(
                f"{where} was trained with actions from {saved.low} to {saved.high}; "
                f"the environment's go from {given.low} to {given.high}. Wrap the "
                "environment with gymnasium.wrappers.RescaleAction."
            )
    elif saved != given:
        raise SpecError(
            f"{where} acts with {saved}; the environment takes {given}. It was trained "
            "in another environment."
        )
