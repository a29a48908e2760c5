"""Writes checkpoints of rl_games with rl_games, and what they answer; see README.md.

PYTHONPATH=FOLDER_WITH_RL_GAMES python write_rl_games.py OUT [OBSERVATIONS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rl_games.algos_torch.model_builder import ModelBuilder

OUT, COUNT = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 64
NETWORK: dict[str, Any] = {
    "name": "actor_critic",
    "separate": False,
    "mlp": {"units": [8, 6], "activation": "elu", "initializer": {"name": "default"}},
}
CONTINUOUS = {
    "mu_activation": "None",
    "sigma_activation": "None",
    "mu_init": {"name": "default"},
    "sigma_init": {"name": "const_initializer", "val": -0.3},
    "fixed_sigma": True,
}
RNN = {"name": "lstm", "units": 7, "layers": 1, "before_mlp": False}


def write(
    name: str, model: str, space: dict[str, Any], actions: Any, rnn: dict[str, Any] | None = None
) -> None:
    """Build a model as the agent does, save it as the agent does, and ask it."""
    torch.manual_seed(0)
    network = {**NETWORK, "space": space} | ({"rnn": rnn} if rnn else {})
    built = ModelBuilder().load({"model": {"name": model}, "network": network})
    found = built.build(
        {
            "actions_num": actions,
            "input_shape": (5,),
            "num_seqs": 4,
            "value_size": 1,
            "normalize_value": True,
            "normalize_input": True,
        }
    )
    found.train()
    found.running_mean_std(torch.randn(300, 5) * 3.0 + 1.0)
    found.eval()
    state = {
        "epoch": 3,
        "frame": 192,
        "model": found.state_dict(),
        "optimizer": torch.optim.Adam(found.parameters()).state_dict(),
        "last_mean_rewards": np.float32(1.5),
        "env_state": None,
    }
    torch.save(state, OUT / f"{name}.pth")
    rows = COUNT if rnn is None else max(4, COUNT // 16)
    obs = 4.0 * torch.randn(COUNT // rows, rows, 5)
    states: Any = None
    if rnn is not None:
        found.a2c_network.num_seqs = rows
        states = found.get_default_rnn_state()
    answers: dict[str, list[Any]] = {}
    for each in obs:
        with torch.no_grad():
            out = found({"is_train": False, "obs": each.clone(), "rnn_states": states})
        states = out["rnn_states"]
        for key, short in (("mus", "mean"), ("sigmas", "std"), ("logits", "logits")):
            if key in out:
                value = out[key]
                value = torch.cat(list(value), 1) if isinstance(value, (list, tuple)) else value
                answers.setdefault(short, []).append(value.numpy())
    arrays = {"obs": obs.numpy(), **{key: np.stack(value) for key, value in answers.items()}}
    np.savez_compressed(OUT / f"{name}.npz", **arrays)


OUT.mkdir(parents=True, exist_ok=True)
write("rlgames_mlp", "continuous_a2c_logstd", {"continuous": CONTINUOUS}, 3)
spread = {**CONTINUOUS, "fixed_sigma": False}
write("rlgames_hetero", "continuous_a2c_logstd", {"continuous": spread}, 3)
write("rlgames_lstm", "continuous_a2c_logstd", {"continuous": CONTINUOUS}, 3, RNN)
gru = {**RNN, "name": "gru", "before_mlp": True}
write("rlgames_gru", "continuous_a2c_logstd", {"continuous": CONTINUOUS}, 3, gru)
write("rlgames_choice", "discrete_a2c", {"discrete": {}}, 4)
