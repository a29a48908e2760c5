"""Train the LunarLander-v3 planner: `python -m policies.lunarlander.train --out DIR`.

PPO with a 256-256 network on 16 environments, 2 million steps, some seventeen minutes on one core.
The learning rate and the entropy bonus fall to zero, so that the action distributions that are left
at the end are what the planner means. Every 100,000 steps the policy plays 40 episodes; the best of
these saves is kept.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule

from policies.training import command

ENVIRONMENT = "LunarLander-v3"
ENVIRONMENTS = 16


class FadeEntropy(BaseCallback):
    """Lower the entropy bonus linearly to zero over training."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self._start = start

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        left = self.model._current_progress_remaining
        self.model.ent_coef = self._start * left  # type: ignore[attr-defined]


def train(out: Path, steps: int, seed: int) -> None:
    """Train for `steps` environment steps and leave `planner.zip` in `out`."""
    torch.set_num_threads(1)
    envs = make_vec_env(ENVIRONMENT, n_envs=ENVIRONMENTS, seed=seed)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=1024,
        batch_size=512,
        n_epochs=6,
        gamma=0.999,
        gae_lambda=0.98,
        ent_coef=0.01,
        # A class of SB3's, not a lambda: a save would carry the lambda's file path.
        learning_rate=LinearSchedule(6e-4, 0.0, 1.0),
        policy_kwargs={"net_arch": {"pi": [256, 256], "vf": [128, 128]}},
        seed=seed,
        device="cpu",
        verbose=1,
    )
    judge = EvalCallback(
        Monitor(gym.make(ENVIRONMENT)),
        n_eval_episodes=40,
        eval_freq=100_000 // ENVIRONMENTS,
        best_model_save_path=str(out),
        deterministic=True,
        verbose=1,
    )
    model.learn(steps, callback=[judge, FadeEntropy(0.01)])
    model.save(out / "last.zip")
    best = out / "best_model.zip"
    # A run that is shorter than the first judgement has no best save.
    (best if best.exists() else out / "last.zip").replace(out / "planner.zip")


if __name__ == "__main__":
    command(__doc__, train, "runs/lunarlander-planner", steps=2_000_000)
