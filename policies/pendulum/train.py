"""Train the planner of the changing pendulum: `python -m policies.pendulum.train --out DIR`.

PPO with a 64-64 network on 16 pendulums whose gain, length and mass are drawn anew for each episode
and observed; some minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

import envs.changing  # noqa: F401
from policies.training import command

ENVIRONMENT = "agentkd/ChangingPendulum-v0"
ENVIRONMENTS = 16


def train(out: Path, steps: int, seed: int) -> None:
    """Train for `steps` environment steps and leave `planner.zip` in `out`."""
    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy",
        make_vec_env(ENVIRONMENT, ENVIRONMENTS, seed=seed, env_kwargs={"drawn": True}),
        n_steps=256,
        batch_size=512,
        n_epochs=10,
        gamma=0.95,
        gae_lambda=0.95,
        # A class of SB3's, not a lambda: a save would carry the lambda's file path.
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        use_sde=True,
        sde_sample_freq=4,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
        verbose=1,
    )
    model.learn(steps)
    model.save(out / "planner.zip")


if __name__ == "__main__":
    command(__doc__, train, "runs/pendulum-planner", steps=600_000)
