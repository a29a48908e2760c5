"""Policy files for the tests, and how they are loaded and asked."""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from agentkd.planners import Planner, load_planner
from agentkd.spec import Spec
from agentkd.types import RecurrentPolicy

# A folder with the same files and more observations may be given instead.
FILES = Path(os.environ.get("AGENTKD_POLICY_FILES", Path(__file__).parent / "data" / "policies"))


class Robot(gym.Env[Any, Any]):
    """Five numbers of noise, three numbers as action, twenty ticks."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (5,), np.float32)
    action_space = gym.spaces.Box(-10.0, 10.0, (3,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begin."""
        super().reset(seed=seed)
        self._left = 20
        return self.np_random.standard_normal(5).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        """Go on."""
        self._left -= 1
        obs = self.np_random.standard_normal(5).astype(np.float32)
        return obs, -float(np.square(action).mean()), self._left == 0, False, {}


def load(path: Path, spec: Spec | None = None, **args: Any) -> Planner:
    """Load a file; what is assumed about it is announced, and of no interest here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_planner(str(path), spec, args=args or None)


def answers(planner: Planner, obs: Any) -> list[Any]:
    """What a planner answers to sequences of observations, (ticks, rows, size)."""
    policy: Any = planner.policy
    if not isinstance(policy, RecurrentPolicy):
        return [policy(each) for each in obs]
    state, found = policy.initial_state(obs.shape[1]), []
    for each in obs:
        answer, state = policy(each, state)
        found.append(answer)
    return found


def saved(tmp_path: Path, found: Any, name: str = "x.cleanrl_model") -> Path:
    """Write a file with torch.save."""
    torch.save(found, tmp_path / name)
    return tmp_path / name


def chain(*sizes: int, between: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), between())][:-1])
