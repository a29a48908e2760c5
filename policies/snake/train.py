"""Expert iteration on Snake: `python -m policies.snake.train`.

In the first round the tree search thinks on its own, and an executor is distilled from it. In each
round that follows the executor of the last one is the search's prior, and learns from what the
search then makes of it (Anthony et al. 2017). Search and executor are measured in each round on
games that are neither trained on nor published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from agentkd import environments
from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.loop import run_distillation
from agentkd.distillation.sources import CollectionOptions
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate
from agentkd.planners import Planner
from agentkd.spec import env_spec
from agentkd.types import Policy
from policies.snake import search

ENV = "envs.snake:agentkd/Snake-v0"
_JUDGED, _GAMES = 20_000, 60


def score(policy: Policy) -> str:
    """The mean return on games that nothing was trained on, and its standard error."""
    returns = evaluate(ENV, policy, episodes=_GAMES, seed=_JUDGED).returns
    error = np.std(returns) / np.sqrt(len(returns))
    return f"{np.mean(returns):5.2f} ± {error:.2f}"


def main() -> None:
    """Read the command line and iterate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/snake"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=60_000)
    parser.add_argument("--walks", type=int, default=64)
    parser.add_argument("--executor", default="mlp:128,64")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    spec = env_spec(environments.make(ENV))
    executor: str | Executor = arguments.executor
    for index in range(arguments.rounds):
        prior = None if isinstance(executor, str) else executor
        policy = search(arguments.walks, prior)
        name = f"tree search, {arguments.walks} walks, round {index}"
        planner = Planner(policy, spec, name, 0, "")
        result = run_distillation(
            ENV,
            planner,
            executor,
            labels=arguments.labels,
            episodes=0,
            collection=CollectionOptions(least_share=0.3),
            seed=arguments.seed + index,
        )
        executor = result.executor
        origin = {
            "env": ENV,
            "planner": {"refs": ["policies.snake.train"], "name": name},
            "labels": arguments.labels * (index + 1),
            "seed": arguments.seed,
        }
        write_bundle(arguments.out / "executor.akd", executor, origin)
        print(
            f"round {index}: search {score(policy)}  executor {score(executor)}  "
            f"{result.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
