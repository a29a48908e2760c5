"""From a Stable-Baselines3 model to an executor file, in half a minute.

The model may be a live object as here, the path of a save, a torch module or any callable.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import agentkd


def main() -> None:
    """Train a model, distil it and write the executor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30_000)
    steps = parser.parse_args().steps

    env = Monitor(gym.make("CartPole-v1"))
    model = PPO("MlpPolicy", env, seed=0, device="cpu").learn(steps)

    executor = agentkd.distill("CartPole-v1", model, "mlp:32,32", seconds=30)
    evaluate_policy(executor.as_sb3(), env)
    executor.save("executor.akd")

    print(f"mean return {sum(env.get_episode_rewards()[-10:]) / 10:.0f} of 500")
    print(f"written: executor.akd, {executor.parameters} parameters")


if __name__ == "__main__":
    main()
