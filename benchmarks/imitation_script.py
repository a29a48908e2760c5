"""Run by another Python, which has `imitation` and not agentkd: DAgger and BC.

The first line of stdin is the order, as JSON; the planner is a .npz of layers. After each round a
line on stdout names a snapshot, and a line on stdin says whether to go on. The clock stands still
meanwhile. `imitation` needs gymnasium 0.29 and SB3 2.2, so it cannot share an environment with
agentkd.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor

_ENVS = 8
_DEMONSTRATIONS = 50_000
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
    "elu": torch.nn.functional.elu,
    "none": lambda x: x,
}


class Expert(BasePolicy):
    """The planner: layers from a .npz, acting as it does deterministically."""

    def __init__(self, observation_space: Any, action_space: Any, path: str) -> None:
        """Read the layers."""
        super().__init__(observation_space, action_space)
        with np.load(path, allow_pickle=False) as data:
            self.names = [str(name) for name in data["activations"]]
            self.numbers = {
                name: torch.from_numpy(data[name])
                for name in data.files
                if data[name].dtype == np.float32
            }
            self.head = str(data["head"])
            self.bound = float(data["clip"])

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Act; there is no other way than the deterministic one."""
        del deterministic
        flat = observation.float().flatten(1)
        x: Tensor = (flat - self.numbers["mean"]) * self.numbers["scale"]
        x = x.clamp(-self.bound, self.bound)
        for index, name in enumerate(self.names):
            weight, bias = (self.numbers[f"{k}{index}"] for k in ("weight", "bias"))
            x = _ACTIVATIONS[name](x @ weight.T + bias)
        if self.head == "categorical":
            return x.argmax(1)
        low, high = (torch.from_numpy(np.float32(b)) for b in self._bounds())
        if self.head == "squashed":
            return low + 0.5 * (torch.tanh(x) + 1.0) * (high - low)
        return torch.minimum(torch.maximum(x, low), high)

    def _bounds(self) -> tuple[Any, Any]:
        space: Any = self.action_space
        return space.low, space.high


class Clock:
    """Counts the time that training takes, and asks whether to go on."""

    def __init__(self, folder: Path, seconds: float) -> None:
        """Begin to count."""
        self._folder, self._seconds = folder, seconds
        self._passed, self._since, self._count = 0.0, time.monotonic(), 0

    def on(self, policy: Any, labels: int) -> bool:
        """Leave a snapshot; False if it is enough."""
        self._passed += time.monotonic() - self._since
        path = self._folder / f"snapshot-{self._count}.npz"
        self._count += 1
        save(policy, path)
        said = {"path": str(path), "seconds": self._passed, "labels": labels}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        wanted = sys.stdin.readline().strip() == "go"
        self._since = time.monotonic()
        return wanted and self._passed < self._seconds


def save(policy: Any, path: Path) -> None:
    """Write an actor as layers behind a normaliser."""
    state = {k: v.detach().cpu().numpy() for k, v in policy.state_dict().items()}
    layers = sorted(
        (name for name in state if name.startswith("mlp_extractor.policy_net.")),
        key=lambda name: int(name.split(".")[2]),
    )
    names = [name[: -len(".weight")] for name in layers if name.endswith(".weight")]
    out = {}
    for index, name in enumerate([*names, "action_net"]):
        out[f"weight{index}"] = state[f"{name}.weight"]
        out[f"bias{index}"] = state[f"{name}.bias"]
    normalise = "features_extractor.normalize."
    mean, var = (state[f"{normalise}running_{what}"] for what in ("mean", "var"))
    epsilon = float(policy.features_extractor.normalize.eps)
    np.savez(path, mean=mean, scale=1.0 / np.sqrt(var + epsilon), **out)


def student(venv: Any, hidden: list[int]) -> Any:
    """The policy that learns: as wide as ours, observations normalised as they come."""
    base = import_module("imitation.policies.base")
    networks = import_module("imitation.util.networks")
    return ActorCriticPolicy(
        venv.observation_space,
        venv.action_space,
        lr_schedule=lambda _: 1e-3,
        net_arch=hidden,
        features_extractor_class=base.NormalizeFeaturesExtractor,
        features_extractor_kwargs={"normalize_class": networks.RunningNorm},
    )


def dagger(order: dict[str, Any], venv: Any, expert: Any, clock: Clock, quiet: Any) -> None:
    """DAgger as `SimpleDAggerTrainer` does it by default, round by round."""
    bc = import_module("imitation.algorithms.bc")
    algorithm = import_module("imitation.algorithms.dagger")
    random = np.random.default_rng(order["seed"])
    policy = student(venv, order["hidden"])
    distiller = bc.BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=random,
        policy=policy,
        device="cpu",
        custom_logger=quiet,
    )
    trainer = algorithm.SimpleDAggerTrainer(
        venv=venv,
        scratch_dir=order["folder"],
        expert_policy=expert,
        bc_trainer=distiller,
        rng=random,
        custom_logger=quiet,
    )
    # Its own rollouts for logging would count as training time.
    kwargs = {"log_rollouts_venv": None, "progress_bar": False}
    labels = 0
    while True:
        trainer.train(1, bc_train_kwargs=kwargs)
        labels = sum(len(each.acts) for each in trainer._all_demos)
        if not clock.on(policy, labels):
            return


def behaviour(order: dict[str, Any], venv: Any, expert: Any, clock: Clock, quiet: Any) -> None:
    """Behaviour cloning on demonstrations, episode by episode."""
    bc = import_module("imitation.algorithms.bc")
    rollout = import_module("imitation.data.rollout")
    random = np.random.default_rng(order["seed"])
    trajectories = rollout.rollout(
        expert,
        venv,
        rollout.make_sample_until(min_timesteps=_DEMONSTRATIONS),
        rng=random,
        deterministic_policy=True,
        verbose=False,
    )
    steps = rollout.flatten_trajectories(trajectories)
    policy = student(venv, order["hidden"])
    distiller = bc.BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=random,
        policy=policy,
        demonstrations=steps,
        device="cpu",
        custom_logger=quiet,
    )
    while True:
        distiller.train(n_epochs=1, progress_bar=False)
        if not clock.on(policy, len(steps)):
            return


def main() -> None:
    """Read the order and carry it out."""
    torch.set_num_threads(1)
    order = json.loads(sys.stdin.readline())
    logger = import_module("imitation.util.logger")
    imitation_util = import_module("imitation.util.util")
    wrappers = import_module("imitation.data.wrappers")
    quiet = logger.configure(Path(order["folder"]) / "log", ["log"])
    torch.manual_seed(order["seed"])
    for name in ("bc", "dagger"):
        import_module(f"imitation.algorithms.{name}")
    # The first optimiser of a process imports more of torch than torch did itself.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    # The clock begins after the imports and before the environments are made.
    clock = Clock(Path(order["folder"]), float(order["seconds"]))
    venv = imitation_util.make_vec_env(
        order["env"],
        rng=np.random.default_rng(order["seed"]),
        n_envs=_ENVS,
        env_make_kwargs=order["env_args"],
        post_wrappers=[lambda env, _: wrappers.RolloutInfoWrapper(env)],
    )
    expert = Expert(venv.observation_space, venv.action_space, order["planner"])
    run = dagger if order["method"] == "dagger" else behaviour
    run(order, venv, expert, clock, quiet)


if __name__ == "__main__":
    main()
