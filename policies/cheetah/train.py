"""Train the planner for `agentkd/CheetahDrawn-v0`: `python -m policies.cheetah.train --out DIR`.

PPO sees the joints, their velocities and what was drawn. Its environments are stepped by MuJoCo's
own threads (`mujoco.rollout`), each with a model of its own, because Python would take longer than
the physics. The learning rate falls to zero.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco import half_cheetah_v5
from mujoco import rollout
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from envs import cheetah

SEES = ("joints", "physics", "speeds")
"""What the planner sees: `--planner-sees joints,physics,speeds`."""
TICKS = 1000
SUBSTEPS = 5
LOOK = 10
"""Rollouts between two lines of progress."""
_MODEL = Path(half_cheetah_v5.__file__).parent / "assets" / "half_cheetah.xml"


class Cheetahs(VecEnv):
    """Many drawn cheetahs side by side, for training.

    Args:
        count: How many.
        threads: How many threads step them.
        seed: For everything that is drawn.

    Attributes:
        physics: What was drawn for each, (count, 8).
        state: Time, positions and velocities of each, (count, 19).
        age: How many ticks each one's episode has lasted, (count,).
    """

    def __init__(self, count: int, threads: int, seed: int) -> None:
        """Make a model for each."""
        seen = gym.spaces.Dict({name: cheetah.SPACE[name] for name in SEES})
        super().__init__(count, seen, gym.spaces.Box(-1.0, 1.0, (6,), np.float32))
        self._random = np.random.default_rng(seed)
        self._usual = mujoco.MjModel.from_xml_path(str(_MODEL))
        self._models = [copy.copy(self._usual) for _ in range(count)]
        self._pool = rollout.Rollout(nthread=threads)
        self._data = [mujoco.MjData(self._usual) for _ in range(threads)]
        self.physics = np.ones((count, 8))
        self.state = np.zeros((count, 1 + 9 + 9))
        self.age = np.zeros(count, int)
        self._gained = np.zeros(count)
        self._actions: Any = np.zeros((count, 6))

    def begin(self, index: int) -> None:
        """Draw an episode's physics and where it begins."""
        self.physics[index] = cheetah.draw(self._random)
        cheetah.apply(self._models[index], self._usual, self.physics[index])
        self.state[index] = [0.0, *np.concatenate(cheetah.begin(self._usual, self._random))]
        self.age[index], self._gained[index] = 0, 0.0

    def reset(self) -> Any:
        """Begin all, at different ages, so that they do not end together."""
        for index in range(self.num_envs):
            self.begin(index)
        self.age = self._random.integers(0, TICKS, self.num_envs)
        return self._shown()

    def _shown(self) -> dict[str, Any]:
        positions, speeds = self.state[:, 1:10], self.state[:, 10:]
        seen = cheetah.observe(positions, speeds, self._actions, self.physics)
        return {name: seen[name] for name in SEES}

    def step_async(self, actions: Any) -> None:
        """Keep the actions, (count, 6)."""
        self._actions = np.clip(actions, -1.0, 1.0)

    def step_wait(self) -> Any:
        """Step all for one tick; those that come to their end begin again."""
        control = np.repeat(self._actions[:, None].astype(np.float64), SUBSTEPS, axis=1)
        before = self.state[:, 1].copy()
        states, _ = self._pool.rollout(self._models, self._data, self.state, control)
        self.state = states[:, -1].copy()
        reward = (self.state[:, 1] - before) / cheetah.TICK
        reward -= 0.1 * np.square(self._actions).sum(1)
        self.age += 1
        self._gained += reward
        ended = self.age >= TICKS
        infos: list[dict[str, Any]] = [{} for _ in ended]
        if ended.any():
            last = self._shown()
            for index in np.flatnonzero(ended):
                infos[index] = {
                    "terminal_observation": {name: each[index] for name, each in last.items()},
                    "TimeLimit.truncated": True,
                    "episode": {"r": self._gained[index], "l": TICKS, "t": 0.0},
                }
                self.begin(int(index))
        return self._shown(), reward.astype(np.float32), ended, infos

    def close(self) -> None:
        """End the threads."""
        self._pool.close()

    def get_attr(self, name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002
        """Answer what SB3 asks for: how it is rendered (not at all)."""
        return [None] * self.num_envs

    def set_attr(self, name: str, value: Any, indices: Any = None) -> None:
        """Refuse."""
        raise NotImplementedError

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse."""
        raise NotImplementedError

    def env_is_wrapped(self, kind: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        """Say that nothing wraps these."""
        return [False] * self.num_envs


class Progress(BaseCallback):
    """Says now and then how far it is and saves that, and ends when the time is over."""

    def __init__(self, out: Path, seconds: float) -> None:
        super().__init__()
        self._out, self._seconds, self._start = out, seconds, time.monotonic()
        self._rollouts = 0

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts % LOOK or not self.model.ep_info_buffer:
            return
        spent = time.monotonic() - self._start
        mean = np.mean([each["r"] for each in self.model.ep_info_buffer])
        print(f"{self.num_timesteps} steps, {spent:.0f} s, return {mean:.0f}", flush=True)
        save(self.model, self._out)

    def _on_step(self) -> bool:
        return time.monotonic() - self._start < self._seconds


def save(model: Any, out: Path) -> None:
    """Leave `planner.zip` and its statistics in `out`."""
    model.save(out / "planner.zip", exclude=["ep_info_buffer"])
    model.get_vec_normalize_env().save(str(out / "vecnormalize.pkl"))


def train(
    out: Path, *, steps: int, seed: int, envs: int, threads: int, seconds: float = np.inf
) -> None:
    """Train for `steps` environment steps, or `seconds`; see `save` for what is left in `out`."""
    torch.set_num_threads(threads)
    made = VecNormalize(Cheetahs(envs, threads, seed), gamma=0.98)
    model = PPO(
        "MultiInputPolicy",
        made,
        n_steps=64,
        batch_size=64 * envs // 8,
        n_epochs=8,
        gamma=0.98,
        gae_lambda=0.92,
        # A class of SB3's, not a lambda: a save would carry the lambda's file path.
        learning_rate=LinearSchedule(5e-4, 0.0, 1.0),
        policy_kwargs={"net_arch": {"pi": [128, 128], "vf": [128, 128]}, "log_std_init": -1.0},
        seed=seed,
        device="cpu",
    )
    model.learn(steps, callback=Progress(out, seconds))
    save(model, out)
    made.close()


def main(given: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/cheetah-planner"))
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=np.inf, help="end earlier than that")
    options = parser.parse_args(given)
    options.out.mkdir(parents=True, exist_ok=True)
    train(
        options.out,
        steps=options.steps,
        seed=options.seed,
        envs=options.envs,
        threads=options.threads,
        seconds=options.seconds,
    )


if __name__ == "__main__":
    main()
