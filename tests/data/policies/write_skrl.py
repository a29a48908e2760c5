"""Writes checkpoints of skrl with skrl, and what they answer; see README.md.

PYTHONPATH=FOLDER_WITH_SKRL python write_skrl.py VERSION OUT [OBSERVATIONS]
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.utils.model_instantiators.torch import categorical_model, gaussian_model, shared_model

MAJOR = int(sys.argv[1].split(".")[0])
OUT, COUNT = Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 64
OBS = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
ACTIONS = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
KEY = "observations" if MAJOR > 1 else "states"
PREPROCESSOR = "observation_preprocessor" if MAJOR > 1 else "state_preprocessor"


def write(name: str, instantiate: Any, space: Any, *, normal: bool, activation: str) -> None:
    """Instantiate a model as skrl's runner does, save it as an agent does, and ask it."""
    torch.manual_seed(0)
    layers = {"name": "net", "input": KEY.upper(), "layers": [8, 6], "activations": activation}
    known = inspect.signature(instantiate).parameters
    spaces = {"observation_space": OBS, "state_space": OBS, "action_space": space, "device": "cpu"}
    spaces = {key: value for key, value in spaces.items() if key in known}
    if instantiate is shared_model:
        # As Isaac Lab's settings have it, `separate: False`.
        policy = {"network": [layers], "output": "ACTIONS", "initial_log_std": -0.4}
        value = {"network": [layers], "output": "ONE"}
        model = shared_model(
            **spaces,
            structure=["GaussianMixin", "DeterministicMixin"],
            roles=["policy", "value"],
            parameters=[policy, value],
        )
    else:
        more = {"initial_log_std": -0.4} if "initial_log_std" in known else {}
        model = instantiate(**spaces, network=[layers], output="ACTIONS", **more)
    for role in ("policy", "value") if instantiate is shared_model else ("policy",):
        model.init_state_dict(role=role)
    with torch.no_grad():
        if hasattr(model, "log_std_parameter"):
            model.log_std_parameter += torch.randn(3)
    scaler = RunningStandardScaler(size=OBS, device="cpu")
    scaler(torch.randn(200, 5) * 4.0 + 1.0, train=True)
    optimizer = torch.optim.Adam(model.parameters())
    modules = {"policy": model, "optimizer": optimizer} | ({PREPROCESSOR: scaler} if normal else {})
    torch.save({key: module.state_dict() for key, module in modules.items()}, OUT / f"{name}.pt")
    obs = 5.0 * torch.randn(1, COUNT, 5)
    with torch.no_grad():
        seen = scaler(obs[0]) if normal else obs[0]
        out = model.compute({KEY: seen}, role="policy")
        if space is ACTIONS:
            model.act({KEY: seen}, role="policy")
            distribution = model.distribution(role="policy")
            found = {"mean": distribution.mean, "std": distribution.stddev.expand(COUNT, 3)}
        else:
            found = {"logits": out[0]}
    arrays = {"obs": obs, **{key: value[None] for key, value in found.items()}}
    np.savez_compressed(OUT / f"{name}.npz", **{key: a.numpy() for key, a in arrays.items()})


OUT.mkdir(parents=True, exist_ok=True)
short = f"skrl{MAJOR}"
write(f"{short}_gaussian", gaussian_model, ACTIONS, normal=True, activation="elu")
write(f"{short}_shared", shared_model, ACTIONS, normal=True, activation="elu")
write(f"{short}_plain", gaussian_model, ACTIONS, normal=False, activation="relu")
write(f"{short}_choice", categorical_model, gym.spaces.Discrete(4), normal=True, activation="tanh")
