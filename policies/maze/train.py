"""Make the executor beside this file: `python -m policies.maze.train`.

Players go where the planner says, and every now and then some ticks where chance says, so that
states off the way are labelled, too. Each state is learnt with goals of two random ages. Seeds are
far from those that anything is measured on.

Two minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from agentkd.deploy.bundle import write_bundle
from agentkd.distillation import aged_labels
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime.goals import conditioned
from agentkd.spec import env_spec
from agentkd.types import Categorical
from envs import maze_rules as rules
from envs.maze import Maze
from policies.maze import SEES, Thinker

_PLAYERS, _FIRST = 32, 1_000_000
_ASTRAY, _LONGEST = 0.2, 8
"""How often a player begins to go astray, and for how many ticks at most."""
_DRAWS = 2
_PARTS, _TICKS = 100, 100


class Players:
    """Players in many mazes, whose states are labelled tick by tick."""

    def __init__(self, seed: int) -> None:
        """Begin an episode for each."""
        self._random = np.random.default_rng(seed)
        self._envs = [Maze() for _ in range(_PLAYERS)]
        first = _FIRST * (1 + seed)
        resets = (env.reset(seed=first + index) for index, env in enumerate(self._envs))
        self._obs = np.stack([obs for obs, _ in resets])
        self._starts = np.ones(_PLAYERS, bool)
        self._astray = np.zeros(_PLAYERS, int)
        self._chosen = np.zeros(_PLAYERS, int)
        self._planner = Thinker()

    def take(self, ticks: int) -> tuple[np.ndarray, ...]:
        """Return observations, goals, logits and starts, each (players, ticks, …)."""
        rows = []
        for _ in range(ticks):
            moves, goals = self._planner.answers(self._obs)
            rows.append((self._obs.copy(), goals, moves.logits, self._starts.copy()))
            self._step(moves.logits.argmax(axis=1))
        return tuple(np.stack(each, axis=1) for each in zip(*rows, strict=True))

    def _step(self, actions: np.ndarray) -> None:
        begin = (self._astray == 0) & (self._random.random(_PLAYERS) < _ASTRAY)
        self._astray[begin] = self._random.integers(1, _LONGEST + 1, begin.sum())
        self._chosen[begin] = self._random.integers(len(rules.MOVES), size=begin.sum())
        actions = np.where(self._astray > 0, self._chosen, actions)
        self._astray = np.maximum(self._astray - 1, 0)
        for index, env in enumerate(self._envs):
            obs, _, over, cut, _ = env.step(int(actions[index]))
            self._starts[index] = over or cut
            self._obs[index] = env.reset()[0] if over or cut else obs


def train(
    architecture: str,
    *,
    labels: int,
    steps: int,
    seed: int,
    told: Callable[[float, str], object] = lambda *_: None,
) -> Executor:
    """Make an executor that follows the planner's goals; `told` is how far it is, 0 to 1."""
    players, ticks = Players(seed), labels // _PLAYERS
    parts = []
    for begin in range(0, ticks, _TICKS):
        told(0.6 * begin / ticks, "asking the planner")
        parts.append(players.take(min(_TICKS, ticks - begin)))
    # Each player's ticks one after another.
    columns = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    obs, goals, logits, starts = (each.reshape(-1, *each.shape[2:]) for each in columns)
    inputs, answers = aged_labels(
        obs, goals, Categorical(logits), Thinker.goals, starts=starts, draws=_DRAWS, seed=seed
    )
    spec = conditioned(env_spec(Maze()), Thinker.goals, SEES)
    distiller = Distiller(initial(architecture, spec, seed=seed), DistillerOptions(seed=seed))
    distiller.add(inputs, answers)
    for part in range(_PARTS):
        told(0.6 + 0.4 * part / _PARTS, "learning from its answers")
        distiller.schedule(part / _PARTS)
        for _ in range(steps // _PARTS):
            distiller.step()
    return distiller.freeze()


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--labels", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    how = {"labels": options.labels, "steps": options.steps, "seed": options.seed}
    executor = train("mlp:128,128", **how)
    facts = {"env": "envs.maze:agentkd/Maze-v0", "planner": "policies.maze:planner", **how}
    write_bundle(options.out / "executor.akd", executor, facts)


if __name__ == "__main__":
    main()
