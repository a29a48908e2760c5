"""An executor as a Stable-Baselines3 model, to learn on from rewards, and back.

The model's first deterministic answer is the executor's: normaliser, squashing and scaling are
inside its policy. `from_sb3` makes an executor of it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agentkd import dists, environments
from agentkd.distillation.prune import Dense, dense_layers
from agentkd.errors import ConfigError, SpecError, check_range, did_you_mean
from agentkd.executors.architecture import view_of
from agentkd.executors.executor import Executor
from agentkd.spec import env_spec
from agentkd.types import Floats

_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    each.__name__: each for each in (PPO, A2C, SAC, TD3, DDPG)
}
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "elu": nn.ELU}
_STD = 0.1
"""Exploration at first, as a share of half the box."""


@final
class Normalised(BaseFeaturesExtractor):
    """An executor's normaliser in front of an SB3 policy; it does not learn.

    It keeps whether the executor is squashed, for the way back. `names` are the parts of a
    dictionary, in the order in which they are laid out.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_space: Any,
        mean: Sequence[float],
        scale: Sequence[float],
        clip: float,
        squashed: bool,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(observation_space, len(mean))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.clip, self.squashed = clip, squashed
        self._names = tuple(names)

    def forward(self, obs: Any) -> Tensor:
        """Normalise observations that SB3 has made tensors of, (batch, …)."""
        pieces = [obs[name] for name in self._names] if self._names else [obs]
        flat = torch.cat([each.flatten(1) for each in pieces], dim=1)
        return ((flat - self.mean) * self.scale).clamp(-self.clip, self.clip)


@final
class _BoundedLinear(nn.Linear):
    """A linear layer, tanh, and scaling to the bounds of the box."""

    low: Tensor
    high: Tensor

    def __init__(self, size: int, low: Floats, high: Floats) -> None:
        super().__init__(size, len(low))
        # The bounds are the environment's and not saved.
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in) to actions, (batch, out)."""
        squashed = torch.tanh(super().forward(x))
        return self.low + 0.5 * (squashed + 1.0) * (self.high - self.low)


@final
class _BoundedGaussian(DiagGaussianDistribution):
    """A Gaussian in the environment's units whose mean stays within the box."""

    def __init__(self, low: Floats, high: Floats) -> None:
        super().__init__(len(low))
        self._low, self._high = low, high

    def proba_distribution_net(
        self, latent_dim: int, log_std_init: float = 0.0
    ) -> tuple[nn.Module, nn.Parameter]:
        """Make the layer that gives the mean, and the deviation."""
        _, log_std = super().proba_distribution_net(latent_dim, log_std_init)
        return _BoundedLinear(latent_dim, self._low, self._high), log_std


@final
class ExecutorPolicy(ActorCriticPolicy):
    """An actor-critic policy whose mean is squashed into the box, as an executor's is.

    SB3's own lets the mean leave the box and clips the action.
    """

    def _build(self, lr_schedule: Any) -> None:
        space: Any = self.action_space
        low, high = (np.float32(end).ravel() for end in (space.low, space.high))
        self.action_dist = _BoundedGaussian(low, high)
        super()._build(lr_schedule)


def to_sb3(
    executor: Executor,
    algorithm: str | type[BaseAlgorithm],
    env: Any,
    *,
    critic: Sequence[int] | None = None,
    std: float = _STD,
    **options: Any,
) -> Any:
    """Make an SB3 model whose policy begins as an executor.

    Its critic knows nothing yet; see `CriticFirst`.

    Args:
        executor: An executor of dense layers.
        algorithm: "PPO", "A2C", "SAC", "TD3" or "DDPG"; or a subclass of one of these.
        env: The environment, by name or as SB3 takes it.
        critic: The widths of the critic; 64-64, or 256-256 for SAC, TD3 and DDPG.
        std: Of the first exploration, as a share of half the box (PPO, A2C, SAC).
        options: For the algorithm, such as `learning_rate`.

    Raises:
        ConfigError: If the algorithm is unknown, or cannot act as the executor does; or if that
            has a view.
        SpecError: If the executor is for another environment.
    """
    kind = _algorithm(algorithm)
    shape, layers = dense_layers(executor)
    made = environments.make(env, finite=True) if isinstance(env, str) else env
    spec = env_spec(made)
    if sees := view_of(executor):
        raise ConfigError(
            f"The executor sees {','.join(sees)}; Stable-Baselines3 learns from whole "
            "observations. Take an executor that sees all of them, in an environment whose wrapper "
            "shows less."
        )
    if spec.obs.size != executor.spec.obs.size or spec.action != executor.spec.action:
        raise SpecError(f"The executor is for {executor.spec}; the environment is {spec}.")
    check_range("std", std, above=0)
    on_policy = issubclass(kind, (PPO, A2C))
    squashed = executor.head == "squashed"
    if not on_policy and not squashed:
        raise ConfigError(
            f"{kind.__name__} ends in tanh; this executor ends in {executor.head!r}. Use "
            "PPO, or distil with a squashed head (initial(…, squashed=True))."
        )
    widths = list(critic or ([64, 64] if on_policy else [256, 256]))
    dictionary = executor.spec.obs.layout != "single"
    kwargs = {
        "net_arch": {"pi": list(shape.hidden), ("vf" if on_policy else "qf"): widths},
        "activation_fn": _ACTIVATIONS[shape.activation],
        "features_extractor_class": Normalised,
        "features_extractor_kwargs": {
            "mean": executor.mean.tolist(),
            "scale": executor.scale.tolist(),
            "clip": executor.clip,
            "squashed": squashed,
            "names": [part.name for part in executor.spec.obs.parts] if dictionary else [],
        },
        "normalize_images": False,
        **options.pop("policy_kwargs", {}),
    }
    policy: Any = "MultiInputPolicy" if dictionary else "MlpPolicy"
    if on_policy and squashed:
        policy = ExecutorPolicy
    options.setdefault("device", "cpu")
    model: Any = kind(policy, made, policy_kwargs=kwargs, **options)
    _load(model, executor, layers, std)
    return model


def _algorithm(algorithm: str | type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    if not isinstance(algorithm, str):
        if not issubclass(algorithm, tuple(_ALGORITHMS.values())):
            raise ConfigError(f"{algorithm.__name__} is none of {list(_ALGORITHMS)}.")
        return algorithm
    if algorithm.upper() in ("DQN", "QRDQN"):
        raise ConfigError(
            f"{algorithm} learns action values, and an executor has none: its numbers "
            "are logits, and far too small. Use PPO."
        )
    if algorithm.upper() not in _ALGORITHMS:
        raise ConfigError(f"No algorithm {algorithm!r}.{did_you_mean(algorithm, _ALGORITHMS)}")
    return _ALGORITHMS[algorithm.upper()]


@torch.no_grad()
def _load(model: Any, executor: Executor, layers: Sequence[Dense], std: float) -> None:
    """Give the policy the executor's numbers."""
    policy = model.policy
    deviation: Any = None
    if hasattr(policy, "mlp_extractor"):
        modules = [*policy.mlp_extractor.policy_net, policy.action_net]
        deviation = getattr(policy, "log_std", None)
        if deviation is not None:
            low, high = dists.bounds(executor.spec.action)
            half = np.where(np.isfinite(high - low), (high - low) / 2, 1.0)
            deviation.copy_(torch.from_numpy(np.log(std * half + 1e-8)))
    elif hasattr(policy.actor, "latent_pi"):
        modules = [*policy.actor.latent_pi, policy.actor.mu]
        policy.actor.log_std.weight.zero_()
        policy.actor.log_std.bias.fill_(float(np.log(std)))
    else:
        modules = list(policy.actor.mu)
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    for module, (weight, bias) in zip(linear, layers, strict=True):
        module.weight.copy_(torch.from_numpy(weight))
        module.bias.copy_(torch.from_numpy(bias))
    target = getattr(policy, "actor_target", None)
    if target is not None:
        target.load_state_dict(policy.actor.state_dict())


@final
class CriticFirst(BaseCallback):
    """Leaves a policy as it is for `steps` environment steps, in which its critic learns from it.

    A critic that knows nothing gives advantages that are noise, and some updates of noise undo what
    was distilled.

    Raises:
        ConfigError: If `steps` is below 1.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        check_range("steps", steps, least=1, whole=True)
        self._steps = steps

    def _actor(self) -> list[nn.Parameter]:
        policy: Any = self.model.policy
        if not hasattr(policy, "mlp_extractor"):
            return list(policy.actor.parameters())
        parts = policy.mlp_extractor.policy_net, policy.action_net
        found = [each for part in parts for each in part.parameters()]
        deviation = getattr(policy, "log_std", None)
        return found if deviation is None else [*found, deviation]

    def _let(self, change: bool) -> None:
        for parameter in self._actor():
            parameter.requires_grad_(change)

    def _on_training_start(self) -> None:
        self._let(change=False)

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._steps:
            self._let(change=True)
        return True

    def _on_training_end(self) -> None:
        self._let(change=True)
