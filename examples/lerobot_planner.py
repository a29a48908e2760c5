"""A served planner that is a LeRobot policy: its chunks of actions become strategies.

Run it in LeRobot's environment; robots ask it by ws://HOST:4750, as any served planner:

    pip install "agentkd[cli,remote]"
    LEROBOT_POLICY=outputs/train/act/pretrained_model LEROBOT_TASK="fold the towel" \
        agentkd serve lerobot_planner:planner --env my_robot:Robot

The robot's observation is a dictionary with LeRobot's keys (observation.state,
observation.images.front, …), or one array, which is the state. Policies that keep several
observations, such as diffusion, are refused. Written after the source of LeRobot 0.6 and tested
with a stand-in for it; LeRobot itself was not run.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, final

import numpy as np
import torch

from agentkd.errors import ConfigError
from agentkd.spec import ObsSpec, Spec, unflatten
from agentkd.types import Floats


@final
class Chunks:
    """Asks a policy of LeRobot's row by row, between its two processors.

    Args:
        policy: Has `predict_action_chunk`, and a `config`.
        before: Normalises an observation.
        after: Gives an action its units.
        spec: The robot's observation.
        task: What the robot is told to do.
    """

    def __init__(self, policy: Any, before: Any, after: Any, spec: ObsSpec, task: str) -> None:
        """Ask once, which tells how long chunks are."""
        kept = int(getattr(policy.config, "n_obs_steps", 1))
        if kept != 1:
            raise ConfigError(f"The policy keeps {kept} observations; one that keeps 1 is served.")
        self._policy, self._before, self._after = policy.eval(), before, after
        self._spec, self._task = spec, task
        self.horizon = 1
        self.horizon = len(self(np.zeros((1, spec.size), np.float32)))

    def __call__(self, obs: Floats) -> Floats:
        """Return `horizon` rows of actions for each of the observations (batch, size)."""
        return np.concatenate([self._chunk(row[None]) for row in obs])

    @torch.no_grad()
    def _chunk(self, row: Floats) -> Floats:
        found = unflatten(self._spec, row)
        parts = found if isinstance(found, dict) else {"observation.state": found}
        observed: dict[str, Any] = {name: _tensor(each) for name, each in parts.items()}
        chunk = self._policy.predict_action_chunk(self._before({**observed, "task": self._task}))
        # The processor takes one tick's action, (batch, numbers).
        ticks = [self._after(chunk[:, tick]) for tick in range(chunk.shape[1])]
        return np.asarray(torch.cat(ticks).float().cpu().numpy(), np.float32)


def _tensor(array: Any) -> torch.Tensor:
    """Images, (1, height, width, channels) in bytes, become (1, channels, …) from 0 to 1."""
    tensor = torch.from_numpy(np.array(array))
    if array.dtype == np.uint8 and array.ndim == 4:
        return tensor.permute(0, 3, 1, 2).float() / 255
    return tensor.float()


def planner(spec: Spec) -> Chunks:
    """Load the folder, or repository of the Hub, that LEROBOT_POLICY names."""
    path = os.environ["LEROBOT_POLICY"]
    config = import_module("lerobot.configs.policies").PreTrainedConfig.from_pretrained(path)
    factory = import_module("lerobot.policies.factory")
    policy = factory.get_policy_class(config.type).from_pretrained(path)
    before, after = factory.make_pre_post_processors(policy.config, pretrained_path=path)
    return Chunks(policy, before, after, spec.obs, os.environ.get("LEROBOT_TASK", ""))
