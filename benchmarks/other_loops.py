"""Loops of others, timed as ours is. A script for a Python that has them.

    .pythons/loops/bin/python benchmarks/other_loops.py rtgym 500 60 moments.npy
    .pythons/loops/bin/python benchmarks/other_loops.py openpi 50 60 moments.npy 150 10

It needs NumPy and the package named, and nothing of agentkd. The system, ticks per second, seconds,
and the file for the moments at which actions came, in nanoseconds;
for openpi also how long its policy takes, in ms, and how many actions it gives at once.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from typing import Any

import numpy as np

OBS, ACTIONS, WIDTH = 17, 6, 64


class Network:
    """What acts: 17-64-64-6 in NumPy, on the thread that ticks."""

    def __init__(self) -> None:
        """Draw the weights."""
        random = np.random.default_rng(0)
        sizes = [OBS, WIDTH, WIDTH, ACTIONS]
        self._weights = [
            random.standard_normal((a, b)).astype(np.float32) / np.float32(np.sqrt(a))
            for a, b in zip(sizes, sizes[1:])  # noqa: B905, RUF007 (old Pythons too)
        ]

    def __call__(self, obs: Any) -> Any:
        """Decide."""
        for weight in self._weights:
            obs = np.tanh(obs @ weight)
        return obs


def rtgym(hz: float, seconds: float, moments: list[int]) -> None:
    """The thread-safe environment of rtgym, stepped by the network."""
    gymnasium: Any = importlib.import_module("gymnasium")
    package: Any = importlib.import_module("rtgym")
    spaces = gymnasium.spaces
    obs = np.zeros(OBS, np.float32)

    class Interface(package.RealTimeGymInterface):  # type: ignore[misc]
        def get_observation_space(self) -> Any:
            return spaces.Tuple((spaces.Box(-9.0, 9.0, (OBS,), np.float32),))

        def get_action_space(self) -> Any:
            return spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)

        def get_default_action(self) -> Any:
            return np.zeros(ACTIONS, np.float32)

        def reset(self, *_: Any, **__: Any) -> Any:
            return [obs], {}

        def get_obs_rew_terminated_info(self) -> Any:
            return [obs], 0.0, False, {}

        def send_control(self, _control: Any) -> None:
            moments.append(time.perf_counter_ns())

    warnings.simplefilter("ignore")
    config = dict(package.DEFAULT_CONFIG_DICT)
    config["interface"] = Interface
    config["time_step_duration"] = config["start_obs_capture"] = 1.0 / hz
    env = gymnasium.make("real-time-gym-ts-v1", config=config, disable_env_checker=True)
    network = Network()
    seen, _ = env.reset()
    end = time.perf_counter() + seconds
    moments.clear()
    while time.perf_counter() < end:
        seen = env.step(network(seen[0]))[0]


def openpi(hz: float, seconds: float, moments: list[int], policy_ms: float, horizon: int) -> None:
    """openpi-client's Runtime, with an ActionChunkBroker where there are chunks."""
    runtime: Any = importlib.import_module("openpi_client.runtime.runtime")
    agents: Any = importlib.import_module("openpi_client.runtime.agents.policy_agent")
    environments: Any = importlib.import_module("openpi_client.runtime.environment")
    policies: Any = importlib.import_module("openpi_client.base_policy")
    broker: Any = importlib.import_module("openpi_client.action_chunk_broker")
    obs = np.zeros(OBS, np.float32)
    network = Network()

    class Policy(policies.BasePolicy):  # type: ignore[misc]
        def infer(self, seen: Any) -> Any:
            if policy_ms:
                time.sleep(policy_ms / 1e3)
            action = network(seen["obs"])
            rows = np.repeat(action[None], horizon, 0)
            return {"actions": rows if horizon > 1 else action}

    class World(environments.Environment):  # type: ignore[misc]
        end = 0.0

        def reset(self) -> None:
            self.end = time.perf_counter() + seconds

        def is_episode_complete(self) -> bool:
            return time.perf_counter() >= self.end

        def get_observation(self) -> Any:
            return {"obs": obs}

        def apply_action(self, _action: Any) -> None:
            moments.append(time.perf_counter_ns())

    policy: Any = Policy()
    if horizon > 1:
        policy = broker.ActionChunkBroker(policy, horizon)
    agent = agents.PolicyAgent(policy)
    runtime.Runtime(World(), agent, [], max_hz=hz).run()


def main(words: list[str]) -> int:
    """Time one loop and write its moments."""
    system, hz, seconds, path, *rest = words
    moments: list[int] = []
    if system == "rtgym":
        rtgym(float(hz), float(seconds), moments)
    elif system == "openpi":
        policy_ms = float(rest[0]) if rest else 0.0
        horizon = int(rest[1]) if len(rest) > 1 else 1
        openpi(float(hz), float(seconds), moments, policy_ms, horizon)
    else:
        raise SystemExit(f"No system {system!r}: rtgym or openpi.")
    np.save(path, np.asarray(moments, np.int64), allow_pickle=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
