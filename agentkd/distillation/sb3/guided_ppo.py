"""PPO beside a planner: reward and distillation together, with any planner.

Proximal policy distillation and kickstarting. Without a reward, `agentkd.distill` is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecTransposeImage, is_vecenv_wrapped
from torch import Tensor
from torch.nn import functional

from agentkd import dists
from agentkd.distillation.sb3.guide import Apart, Guide, apart_for, mean_return
from agentkd.distillation.sb3.to_sb3 import ExecutorPolicy
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.planners import Planner
from agentkd.spec import Spec, env_spec, flatten
from agentkd.types import ActionDist, Floats, Kind, RecurrentPolicy


@final
class _Rollouts(RolloutBuffer):
    """Knows which rows its last batch was."""

    chosen: Any = None

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        self.chosen = batch_inds
        return super()._get_samples(batch_inds, env)


@final
class _DictRollouts(DictRolloutBuffer):
    """The same for observations that are dictionaries."""

    chosen: Any = None

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        self.chosen = batch_inds
        return super()._get_samples(batch_inds, env)


class _Losses(NamedTuple):
    """The parts of one batch's loss, each ()."""

    reward: Tensor
    value: Tensor
    entropy: Tensor
    apart: Tensor
    drift: Tensor


@final
class GuidedPPO(PPO):
    """PPO with a planner beside it.

    The planner may be any of `load_planner` without a memory. It is asked once about each visited
    state, in one batch before each update, and gets the environment's own observations, before
    VecNormalize. The policy may be PPO's, or that of `to_sb3`, which begins with an executor.

    Raises:
        ConfigError: If the planner has a memory, or the environment is one of images.
        SpecError: If it is for another environment.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        planner: Planner,
        guide: Guide | None = None,
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        self.planner, self.guide = planner, guide or Guide()
        self.weight = 0.0
        self._seen: list[Floats] = []
        self._now: Floats | None = None
        self._kind: Kind | None = None
        self._apart: Apart | None = None
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)
        known: Any = planner.policy
        if isinstance(known, RecurrentPolicy) and hasattr(known, "initial_state"):
            raise ConfigError(
                "A planner with a memory cannot guide: it would have to see every "
                "state in its order. Distil it with `distill`."
            )
        if is_vecenv_wrapped(self.env, VecTransposeImage):  # type: ignore[arg-type]
            raise ConfigError("Images are not supported here; distil with `distill`.")
        self._spec: Spec = env_spec(self.env)
        if (self._spec.obs.size, self._spec.action) != (planner.spec.obs.size, planner.spec.action):
            raise SpecError(f"The planner is for {planner.spec}; the environment is {self._spec}.")

    def _setup_model(self) -> None:
        dictionary = isinstance(self.observation_space, spaces.Dict)
        self.rollout_buffer_class = _DictRollouts if dictionary else _Rollouts
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        own = ["planner", "_apart", "_seen", "_now"]
        return [*super()._excluded_save_params(), *own]

    def collect_rollouts(self, env: Any, *arguments: Any, **named: Any) -> bool:
        """Collect as PPO does, and remember what the environment gave."""
        self._seen = []
        self._look()
        return super().collect_rollouts(env, *arguments, **named)

    def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
        super()._update_info_buffer(infos, dones)
        # Called between a step and its record: the last observation is still the one acted on.
        self._seen.append(self.observed())
        self._look()

    def _look(self) -> None:
        """Remember what the environments gave, where VecNormalize changes it."""
        wrapper = self.get_vec_normalize_env()
        if wrapper is not None:
            self._now = flatten(self._spec.obs, wrapper.get_original_obs())

    def observed(self) -> Floats:
        """The environments' last observations, flat, (environments, obs)."""
        if self._now is not None and self.get_vec_normalize_env() is not None:
            return self._now
        obs: Any = self._last_obs
        if isinstance(self.observation_space, spaces.Discrete):
            obs = np.asarray(obs).reshape(-1)
        return flatten(self._spec.obs, obs)

    def ask(self, obs: Floats) -> ActionDist:
        """Ask the planner about flat observations, (n, obs).

        Raises:
            PlannerError: If it raises, or answers with NaN or infinity.
        """
        policy: Any = self.planner.policy
        try:
            dist: ActionDist = policy(obs)
        except Exception as error:
            raise PlannerError(f"The planner raised {type(error).__name__}: {error}") from error
        dists.check(dist, self._spec.action, len(obs))
        self._kind = dists.kind_of(dist)
        return dist

    def _labels(self) -> Tensor:
        """The planner's answers, packed, in the order of the flattened buffer."""
        steps, count = len(self._seen), self.n_envs
        packed = dists.pack(self.ask(np.concatenate(self._seen)))
        rows = packed.reshape(steps, count, -1).swapaxes(0, 1)
        flat = np.ascontiguousarray(rows.reshape(steps * count, -1), np.float32)
        return torch.from_numpy(flat).to(self.device)

    def train(self) -> None:
        """Update the policy with the rollouts and the planner's answers to them."""
        labels = self._labels()
        assert self._kind is not None
        if self._apart is None:
            bounded = isinstance(self.policy, ExecutorPolicy)
            self._apart = apart_for(self._kind, self._spec.action, bounded=bounded)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        schedule: Any = self.clip_range
        rollouts: Any = self.rollout_buffer
        self.weight = self.guide.weight_at(mean_return(self.ep_info_buffer))
        clip = float(schedule(self._current_progress_remaining))
        found: list[_Losses] = []
        for _ in range(self.n_epochs):
            for batch in rollouts.get(self.batch_size):
                rows = labels[rollouts.chosen]
                losses = self._losses(batch, rows, clip)
                found.append(_Losses(*(each.detach() for each in losses)))
                if self._far(losses):
                    break
                self.policy.optimizer.zero_grad()
                self._total(losses).backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
            if self._far(found[-1]):
                break
        self._log(found)

    def _far(self, losses: _Losses) -> bool:
        """Whether an update has gone further than `target_kl` allows."""
        if self.target_kl is None:
            return False
        return float(losses.drift.detach()) > 1.5 * self.target_kl

    def _losses(self, batch: Any, rows: Tensor, clip: float) -> _Losses:
        actions = batch.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        values, log_prob, entropy = self.policy.evaluate_actions(batch.observations, actions)
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            spread = advantages.std() + 1e-8
            advantages = (advantages - advantages.mean()) / spread
        change = log_prob - batch.old_log_prob
        ratio = change.exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        gained = torch.minimum(advantages * ratio, advantages * clipped)
        assert self._apart is not None
        apart = self._apart(self.policy.get_distribution(batch.observations), rows)
        if self.guide.method == "ppd":
            apart = ratio.clamp_min(1 - clip) * apart
        return _Losses(
            reward=-gained.mean(),
            value=functional.mse_loss(batch.returns, values.flatten()),
            entropy=-(entropy.mean() if entropy is not None else -log_prob.mean()),
            apart=apart.mean(),
            drift=(ratio - 1 - change).mean(),
        )

    def _total(self, losses: _Losses) -> Tensor:
        return (
            losses.reward
            + self.ent_coef * losses.entropy
            + self.vf_coef * losses.value
            + self.weight * losses.apart
        )

    def _log(self, found: Sequence[_Losses]) -> None:
        means = [float(torch.stack(each).mean()) for each in zip(*found, strict=True)]
        for name, value in zip(_Losses._fields, means, strict=True):
            self.logger.record(f"guided/{name}", value)
        self.logger.record("guided/weight", self.weight)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
