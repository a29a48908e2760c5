"""Writes checkpoints of rsl_rl with rsl_rl, and what they answer; see README.md.

    PYTHONPATH=FOLDER_WITH_RSL_RL python write_rsl_rl.py VERSION OUT [OBSERVATIONS]

One training iteration in an environment of noise fills the normaliser, the weights and the
optimiser; then the library saves. Beside x.pt lies x.npz: observations, means and deviations, of
sequences (ticks, rows, …) for policies with a memory.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

MAJOR = int(sys.argv[1].split(".")[0])
OUT, COUNT = Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 64
OBS, ACTIONS, ENVS = 5, 3, 8


class Noise:
    """Observations of noise, and a reward for small actions."""

    num_envs, num_actions, max_episode_length = ENVS, ACTIONS, 50
    num_obs, num_privileged_obs = OBS, None
    device, cfg, unwrapped = "cpu", {}, None

    def __init__(self) -> None:
        self.episode_length_buf = torch.zeros(ENVS, dtype=torch.long)

    def get_observations(self) -> Any:
        obs = torch.randn(ENVS, OBS) * torch.tensor([1.0, 5.0, 0.1, 2.0, 1.0]) + 0.5
        if MAJOR < 3:
            return obs, {"observations": {}}
        return TensorDict({"policy": obs, "teacher": torch.randn(ENVS, 7)}, [ENVS])

    def step(self, actions: torch.Tensor) -> Any:
        found = self.get_observations()
        obs, extras = found if MAJOR < 3 else (found, {})
        rewards = -actions.square().sum(1)
        return obs, rewards, torch.rand(ENVS) < 0.1, extras

    def reset(self) -> Any:
        return self.get_observations()


ALGORITHM = {
    "class_name": "PPO",
    "num_learning_epochs": 2,
    "num_mini_batches": 2,
    "learning_rate": 1e-2,
    "clip_param": 0.2,
    "gamma": 0.99,
    "lam": 0.95,
    "value_loss_coef": 1.0,
    "entropy_coef": 0.01,
    "max_grad_norm": 1.0,
    "use_clipped_value_loss": True,
    "schedule": "fixed",
    "desired_kl": 0.01,
}


def config(memory: str, normal: bool, spread: str) -> dict[str, Any]:
    """The settings of a run, in the form of its version."""
    hidden = [8, 6]
    rnn: dict[str, Any] = {}
    if memory:
        rnn = {"rnn_type": memory, "rnn_num_layers": 2 if memory == "lstm" else 1}
        rnn["rnn_hidden_size" if MAJOR < 3 else "rnn_hidden_dim"] = 7
    common = {
        "num_steps_per_env": 16,
        "save_interval": 1,
        "logger": "tensorboard",
        "empirical_normalization": normal,
        "obs_groups": {"policy": ["policy"], "actor": ["policy"], "critic": ["policy"]},
        "algorithm": dict(ALGORITHM),
        "multi_gpu": None,
    }
    if MAJOR < 4:
        kind = "ActorCriticRecurrent" if memory else "ActorCritic"
        policy: dict[str, Any] = {
            "class_name": kind,
            "init_noise_std": 0.7,
            "actor_hidden_dims": hidden,
            "critic_hidden_dims": hidden,
            "activation": "elu",
            **rnn,
        }
        if MAJOR == 3:
            policy |= {"actor_obs_normalization": normal, "critic_obs_normalization": normal}
            policy |= {"noise_std_type": "log" if spread == "log" else "scalar"}
            policy |= {"state_dependent_std": True} if spread == "hetero" else {}
            common.pop("empirical_normalization")
        return {**common, "policy": policy}
    model: dict[str, Any] = {
        "class_name": "RNNModel" if memory else "MLPModel",
        "hidden_dims": hidden,
        "activation": "elu",
        "obs_normalization": normal,
        **rnn,
    }
    actor = dict(model)
    if MAJOR == 4:
        actor |= {"stochastic": True, "init_noise_std": 0.7, "noise_std_type": "scalar"}
        actor |= {"state_dependent_std": spread == "hetero"}
        model |= {"stochastic": False}
    else:
        actor["distribution_cfg"] = {
            "scalar": {"class_name": "GaussianDistribution", "init_std": 0.7},
            "log": {"class_name": "GaussianDistribution", "init_std": 0.7, "std_type": "log"},
            "hetero": {"class_name": "HeteroscedasticGaussianDistribution", "init_std": 0.7},
            "beta": {"class_name": "BetaDistribution", "action_range": (-2.0, 1.0)},
        }[spread]
    return {**common, "actor": actor, "critic": model}


def ask(runner: Any, obs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Ask the library for the mean and the deviation, (rows, actions)."""
    if MAJOR >= 4:
        model = runner.alg.actor
        state = model.get_hidden_state()
        model(TensorDict({"policy": obs}, [len(obs)]), stochastic_output=True)
        if state is not None or model.is_recurrent:
            model.reset(hidden_state=state)
        mean = model(TensorDict({"policy": obs}, [len(obs)]))
        return mean.numpy(), model.output_std.expand_as(mean).numpy()
    policy = getattr(runner.alg, "policy", None) or runner.alg.actor_critic
    given = TensorDict({"policy": obs}, [len(obs)]) if MAJOR == 3 else runner.obs_normalizer(obs)
    memory = getattr(policy, "memory_a", None)
    names = [n for n in ("hidden_state", "hidden_states") if hasattr(memory, n)]
    before = getattr(memory, names[0]) if names else None
    policy.act(given)
    deviation = policy.action_std
    if names:
        setattr(memory, names[0], before)
    return policy.act_inference(given).numpy(), deviation.numpy()


def write(name: str, memory: str = "", normal: bool = True, spread: str = "scalar") -> None:
    """Train for one iteration, save, and note what is answered."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        runner = OnPolicyRunner(Noise(), config(memory, normal, spread), folder, "cpu")
        runner.learn(1)
        runner.save(str(OUT / f"{name}.pt"))
    (getattr(runner, "eval_mode", None) or runner.get_inference_policy)()
    rows = COUNT if not memory else max(4, COUNT // 16)
    obs = 3.0 * torch.randn(COUNT // rows, rows, OBS)
    policy = runner.alg.actor if MAJOR >= 4 else getattr(runner.alg, "policy", None)
    policy = policy or runner.alg.actor_critic
    with torch.no_grad():
        if memory:
            for part in ("rnn", "memory_a"):
                held = getattr(policy, part, None)
                for kept in ("hidden_state", "hidden_states"):
                    if hasattr(held, kept):
                        setattr(held, kept, None)
        means, deviations = zip(*(ask(runner, each) for each in obs), strict=True)
        if MAJOR == 5 and name in ("rsl5_mlp", "rsl5_gru", "rsl5_lstm"):
            runner.export_policy_to_jit(str(OUT), f"{name}_jit.pt")
            runner.export_policy_to_onnx(str(OUT), f"{name}_export.onnx")
    found = {"obs": obs.numpy(), "mean": np.stack(means), "std": np.stack(deviations)}
    np.savez_compressed(OUT / f"{name}.npz", **{k: v.astype(np.float32) for k, v in found.items()})


OUT.mkdir(parents=True, exist_ok=True)
if MAJOR == 5:
    write("rsl5_mlp")
    write("rsl5_plain", normal=False, spread="log")
    write("rsl5_gru", "gru")
    write("rsl5_lstm", "lstm", spread="log")
    write("rsl5_hetero", spread="hetero")
    write("rsl5_beta", spread="beta")
else:
    short = f"rsl{MAJOR}"
    write(f"{short}_mlp")
    write(f"{short}_lstm", "lstm")
    if MAJOR > 2:
        write(f"{short}_hetero", spread="hetero")
    if MAJOR == 3:
        write(f"{short}_gru", "gru", normal=False)
