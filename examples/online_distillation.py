"""PPO learns, and an executor is distilled from it while it does.

At the end there are two policies: the one that PPO trained, and a tiny one in a file that needs no
torch to run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from agentkd import env_spec, write_bundle
from agentkd.distillation.sb3.callback import DistilCallback
from agentkd.measure.evaluate import evaluate


def main() -> None:
    """Train, distil, compare and write the executor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--out", type=Path, default=Path("runs/online"))
    arguments = parser.parse_args()

    environments = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = PPO("MlpPolicy", environments, n_steps=128, seed=0, device="cpu")
    callback = DistilCallback("mlp:32,32")
    model.learn(arguments.steps, callback=callback)
    executor = callback.executor

    spec = env_spec(environments)
    evaluation = evaluate("CartPole-v1", executor, episodes=10, seed=100, spec=spec)
    returns = evaluation.returns
    print(f"executor: {executor.parameters} parameters")
    print(f"executor: mean return {sum(returns) / len(returns):.0f} of 500")

    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "executor.akd"
    write_bundle(path, executor, {"planner": "PPO", "steps": arguments.steps})
    print(f"written: {path}")


if __name__ == "__main__":
    main()
