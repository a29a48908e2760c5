"""Every algorithm of Stable-Baselines3 that planners come from, at its smallest."""

from __future__ import annotations

from typing import Any

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

SHORT: dict[str, Any] = {"n_steps": 8, "batch_size": 8}
STORED: dict[str, Any] = {"learning_starts": 4, "batch_size": 4, "buffer_size": 100}
ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "A2C": (A2C, {}),
    "PPO": (PPO, SHORT),
    "TRPO": (TRPO, SHORT),
    "RecurrentPPO": (RecurrentPPO, SHORT),
    "DQN": (DQN, STORED),
    "QRDQN": (QRDQN, STORED),
    "SAC": (SAC, STORED),
    "TQC": (TQC, STORED),
    "TD3": (TD3, STORED),
    "DDPG": (DDPG, STORED),
    "CrossQ": (CrossQ, STORED),
    "ARS": (ARS, {"n_delta": 1}),
}
