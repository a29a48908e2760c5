"""Distillation in PPO's rollouts without a reward: the baselines of Spigler 2025, arXiv:2407.15134.

The planner's answers are all that counts, on states that the executor comes to ("student-driven")
or the planner ("teacher-driven").
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor
from torch.nn import functional

from agentkd import dists
from agentkd.distillation.sb3.guide import Apart, apart_for
from agentkd.planners import Planner
from agentkd.spec import flatten
from agentkd.types import ActionDist, Floats


@final
class DrivenPPO(PPO):
    """PPO whose only losses are the divergence from a planner and the critic's.

    All of a rollout is one batch of one gradient step. The environments lie behind VecNormalize;
    the planner gets their own observations.

    Args:
        policy: As PPO's.
        env: As PPO's, a VecNormalize.
        planner: Labels, and drives if `by_planner`; without a memory.
        by_planner: Whether the planner drives, by draws from its answers.
        options: As PPO's.
    """

    def __init__(
        self, policy: Any, env: Any, *, planner: Planner, by_planner: bool, **options: Any
    ) -> None:
        self._planner, self._by_planner = planner, by_planner
        self._seen: list[Floats] = []
        self._said: list[Floats] = []
        self._apart: Apart | None = None
        super().__init__(policy, env, **options)

    def collect_rollouts(self, env: Any, *arguments: Any, **named: Any) -> bool:
        """Collect as PPO does, with the driver in the policy's place."""
        self._seen, self._said = [], []
        policy = self.policy
        try:
            self.policy = _Driver(self)  # type: ignore[assignment]
            return super().collect_rollouts(env, *arguments, **named)
        finally:
            self.policy = policy

    def look(self) -> Floats:
        """Return and remember where the environments stand, flat, (environments, obs)."""
        wrapper = self.get_vec_normalize_env()
        assert wrapper is not None
        obs = flatten(self._planner.spec.obs, wrapper.get_original_obs())
        self._seen.append(obs)
        return obs

    def drive(self, obs: Floats) -> Any:
        """Return the planner's actions, and remember its answer; None where it does not drive."""
        if not self._by_planner:
            return None
        dist = self._ask(obs)
        random = np.random.default_rng(self.num_timesteps + (self.seed or 0))
        return dists.sample(dist, self._planner.spec.action, random)

    def _ask(self, obs: Floats) -> ActionDist:
        policy: Any = self._planner.policy
        dist: ActionDist = policy(obs)
        self._said.append(dists.pack(dist))
        if self._apart is None:
            self._apart = apart_for(dists.kind_of(dist), self._planner.spec.action)
        return dist

    def train(self) -> None:
        """Take one step towards the planner's answers to the whole rollout."""
        if not self._by_planner:
            self._ask(np.concatenate(self._seen))
        buffer = self.rollout_buffer
        said = np.concatenate(self._said).reshape(buffer.buffer_size, self.n_envs, -1)
        obs, rows, returns = (
            torch.as_tensor(buffer.swap_and_flatten(each), dtype=torch.float32, device=self.device)
            for each in (buffer.observations, said, buffer.returns)
        )
        assert self._apart is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        values = self.policy.predict_values(obs).flatten()
        loss: Tensor = self._apart(self.policy.get_distribution(obs), rows).mean()
        loss = loss + self.vf_coef * functional.mse_loss(returns.flatten(), values)
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1


@final
class _Driver:
    """Stands in the policy's place while rollouts are collected."""

    def __init__(self, model: DrivenPPO) -> None:
        self._model, self._policy = model, model.policy

    def __getattr__(self, name: str) -> Any:
        """Be the policy in all but acting: its critic judges, callbacks look at it."""
        return getattr(self._policy, name)

    def __call__(self, obs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Give actions, the critic's values and log probabilities, zeros where they are unknown."""
        actions = self._model.drive(self._model.look())
        if actions is None:
            acted: tuple[Tensor, Tensor, Tensor] = self._policy(obs)
            return acted
        values = self._policy.predict_values(obs)
        return torch.as_tensor(np.asarray(actions)), values, torch.zeros(len(actions))
