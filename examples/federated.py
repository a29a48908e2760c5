"""Three devices, three planners, one executor; no observation leaves a device.

Each device is a CartPole with a pole of another length. It needs agentkd[federated].
"""

from __future__ import annotations

import argparse
from functools import partial

import gymnasium as gym
import numpy as np

from agentkd import env_spec, initial
from agentkd.distillation.federated import federate, open_client
from agentkd.measure.evaluate import evaluate
from agentkd.types import Categorical, Floats

LENGTHS = {"short": 0.3, "usual": 0.5, "long": 0.8}


def pole(length: float) -> gym.Env[np.ndarray, int]:
    """Return CartPole with half a pole's length in m."""
    env = gym.make("CartPole-v1")
    env.unwrapped.length = length  # type: ignore[attr-defined]
    return env


def planner(obs: Floats) -> Categorical:
    """Push to where the pole falls: log-probabilities of left and right, (batch, 2)."""
    push = obs @ np.array([0.2, 0.5, 10.0, 2.0], np.float32)
    return Categorical(np.stack([-push, push], axis=1))


def main() -> None:
    """Federate, and let the executor act on each device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    devices = {name: partial(pole, length) for name, length in LENGTHS.items()}
    clients = {
        name: open_client(env, planner, "mlp:16", seed=seed)
        for seed, (name, env) in enumerate(devices.items())
    }
    executor = initial("mlp:16", env_spec(gym.make("CartPole-v1")))
    result = federate(clients, executor, rounds=arguments.rounds, labels=500, steps=100)
    print(f"received {result.received:,} bytes, none of them an observation")
    for name, client in clients.items():
        own = client.own(result.executor)  # with the normaliser that stayed on the device
        returns = evaluate(devices[name], own, episodes=5, seed=100).returns
        print(f"{name}: mean return {np.mean(returns):.0f} of 500")
        client.close()


if __name__ == "__main__":
    main()
