"""Writes ONNX files with godot_rl's exporter, and what the policies answer; see README.md.

PYTHONPATH=FOLDER_WITH_GODOT_RL python write_godot.py OUT [OBSERVATIONS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import torch
from godot_rl.wrappers.onnx.stable_baselines_export import export_model_as_onnx
from stable_baselines3 import PPO

OUT, COUNT = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 64
OBS = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)


class Still(gym.Env[Any, Any]):
    """Any actions, and nothing happens."""

    observation_space = OBS

    def __init__(self, action: Any) -> None:
        self.action_space = action

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def write(name: str, action: Any) -> None:
    """Make a model, let godot_rl export it, and ask it."""
    small = {"net_arch": [8]}
    model = PPO(
        "MlpPolicy", Still(action), n_steps=8, batch_size=8, policy_kwargs=small, device="cpu"
    )
    path = OUT / f"{name}.onnx"
    export_model_as_onnx(model, str(path), use_obs_array=True)
    # One file: the exporter of torch 2.9 and later keeps weights in a second one.
    onnx.save(onnx.load(str(path)), str(path))
    Path(f"{path}.data").unlink(missing_ok=True)
    obs = np.random.default_rng(0).uniform(-1, 1, (COUNT, 5)).astype(np.float32)
    with torch.no_grad():
        policy = model.policy
        features = policy.extract_features(torch.from_numpy(obs))
        found = policy.action_net(policy.mlp_extractor.forward_actor(features))
    np.savez_compressed(OUT / f"{name}.npz", obs=obs[None], out=found.numpy()[None])


write("godot_ppo", gym.spaces.Box(-1.0, 1.0, (3,), np.float32))
write("godot_choice", gym.spaces.MultiDiscrete([2, 3]))
