"""An executor is distilled, goes on learning from rewards in PPO, and comes back.

The environment is not the one the planner knew: its pole is twice as long. The planner still guides
for as long as it returns more than the executor.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from agentkd import Planner, env_spec, write_bundle
from agentkd.distillation import run_distillation
from agentkd.distillation.sb3.from_sb3 import from_sb3
from agentkd.distillation.sb3.guide import Gap, Guide
from agentkd.distillation.sb3.guided_ppo import GuidedPPO
from agentkd.distillation.sb3.to_sb3 import CriticFirst, to_sb3
from agentkd.executors.executor import Executor
from agentkd.types import Categorical, Floats


def balance(obs: Floats, /) -> Categorical:
    """Push the cart towards where the pole falls; it knows the short pole."""
    lean = 4.0 * (obs[:, 2] + 0.3 * obs[:, 3])
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


def long_pole() -> gym.Env[Floats, int]:
    """Make CartPole with a pole that is twice as long."""
    env = gym.make("CartPole-v1", max_episode_steps=1000)
    env.unwrapped.length = 1.0  # type: ignore[attr-defined]
    env.unwrapped.polemass_length = 0.1  # type: ignore[attr-defined]
    return env


def mean_return(executor: Executor, episodes: int = 10) -> float:
    """Let the executor act on the long pole."""
    env, total = long_pole(), 0.0
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            obs, reward, ended, cut, _ = env.step(executor.act(obs))
            total += float(reward)
            over = ended or cut
    return total / episodes


def main() -> None:
    """Distil, fine-tune, compare and write the executor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--out", type=Path, default=Path("runs/fine-tuning"))
    arguments = parser.parse_args()

    spec = env_spec(gym.make("CartPole-v1"))
    planner = Planner(balance, spec, "rule", 2, "")
    made = run_distillation("CartPole-v1", planner, "mlp:16", labels=4000, episodes=0)
    executor = made.executor
    before = mean_return(executor)

    environments = VecNormalize(make_vec_env(long_pole, 8, seed=0), norm_obs=False)
    guide = Guide("kickstart", weight=Gap(planner=before, random=20.0))
    model = to_sb3(
        executor,
        GuidedPPO,
        environments,
        planner=planner,
        guide=guide,
        n_steps=128,
        batch_size=256,
        gamma=0.995,
        seed=0,
    )
    model.learn(arguments.steps, callback=CriticFirst(arguments.steps // 5))
    tuned = from_sb3(model)

    print(f"on the long pole, of 1000: {before:.0f} before, {mean_return(tuned):.0f} now")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "executor.akd"
    write_bundle(path, tuned, {"planner": "rule, then PPO", "steps": arguments.steps})
    print(f"written: {path}")


if __name__ == "__main__":
    main()
