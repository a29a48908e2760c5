"""Make the executors beside this file: `python -m policies.freeway.train`.

The boards are drawn, and none is a published one. On each a player wanders about, who goes wherever
there is no car a turn from now, mostly up; the exact search labels every position he is in. So the
labels cover what can happen rather than what one player does. Soon every second player does what
the executor has learnt to do so far, so that the errors on its own way are labelled, too (Ross et
al. 2011, DAgger). One executor sees the forecast; the other, larger, the cars alone.

Six minutes on one core for the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate
from agentkd.spec import env_spec
from agentkd.types import Floats
from envs import freeway_rules as rules
from envs.freeway import BEST, Freeway, Layout
from policies.freeway import planner

_WANDERING = np.array([0.6, 0.25, 0.15])
"""How often a player goes up, stays and goes down, where he can."""
_LONGEST = 40
_BATCH = 256
_FOLLOWED = 2_000
"""Steps after which players follow a newer executor."""


class Players:
    """Positions of players who wander, and of some who follow the executor.

    Neither walks into a car.
    """

    def __init__(self, layout: Layout, seed: int) -> None:
        """Take a layout of the observation."""
        self._env = Freeway("any", layout)
        self._forecast = layout == "forecast"
        self._env.reset(seed=seed + 1_000_000)
        self._random = np.random.default_rng(seed)
        self._seen: list[Floats] = []
        self._executor: Executor | None = None
        self._boards = 0

    def follow(self, executor: Executor) -> None:
        """Let every second player do what this one says from now on."""
        self._executor = executor

    def take(self, count: int) -> Floats:
        """Give what is observed in so many positions, (count, obs)."""
        while len(self._seen) < count:
            self._play()
        found, self._seen = self._seen[:count], self._seen[count:]
        return np.stack(found)

    def _play(self) -> None:
        _, info = self._env.reset()
        position = rules.begin(rules.drawn(info["game"]))
        self._boards += 1
        led = self._executor if self._boards % 2 else None
        for turn in range(_LONGEST):
            obs = rules.observe(position, turn, forecast=self._forecast)
            self._seen.append(obs)
            after = [rules.move(position, action) for action in range(rules.ACTIONS)]
            free = np.array([not crashed for _, crashed in after])
            if led is None:
                # Who only wanders does not arrive, and is seen in more places.
                free &= np.array([moved.row > 0 for moved, _ in after])
            if not free.any():
                return
            if led is None:
                weights = _WANDERING * free
                action = int(self._random.choice(3, p=weights / weights.sum()))
            else:
                scores = led.outputs(obs[None])[0]
                action = int(np.argmax(np.where(free, scores, -np.inf)))
            position, _ = after[action]
            if position.row == 0:
                return


def train(layout: Layout, executor: str, labels: int, steps: int, seed: int) -> Executor:
    """Distil the exact search into an executor."""
    torch.set_num_threads(1)
    spec = env_spec(Freeway("any", layout))
    search = planner(spec).policy.at(1)  # type: ignore[union-attr]
    learning = DistillerOptions(seed=seed, capacity=labels)
    distiller = Distiller(initial(executor, spec, seed=seed), learning)
    players = Players(layout, seed)
    made = 0
    for step in range(steps):
        # Labels come in the first half, learning goes on in the second.
        while made < labels and made < 2 * labels * (step + 1) / steps:
            obs = players.take(_BATCH)
            distiller.add(obs, search(obs))
            made += _BATCH
        distiller.schedule(step / steps)
        distiller.step()
        if step % _FOLLOWED == _FOLLOWED - 1:
            players.follow(distiller.freeze(version=0))
    return distiller.freeze(version=1)


def measure(executor: Executor, layout: Layout) -> dict[str, list[float]]:
    """Score the published games, and 200 others of each difficulty."""
    suffix = "" if layout == "forecast" else "Cars"
    scores = {}
    for difficulty in ("Easy", "Medium", "Hard"):
        env = f"envs.freeway:agentkd/Freeway{difficulty}{suffix}-v0"
        scores[difficulty.lower()] = [
            round(float(np.mean(evaluate(env, executor, episodes=n, seed=at).returns)), 2)
            for n, at in ((8, 0), (200, 10_000))
        ]
    return scores


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/freeway"))
    parser.add_argument("--layout", choices=["forecast", "cars"], default="forecast")
    parser.add_argument("--executor", default="")
    parser.add_argument("--labels", type=int, default=800_000)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    layout: Layout = arguments.layout
    name = "executor" if layout == "forecast" else "cars"
    executor = arguments.executor or ("mlp:128,128" if layout == "forecast" else "mlp:192,192")
    chosen = train(layout, executor, arguments.labels, arguments.steps, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    suffix = "" if layout == "forecast" else "Cars"
    origin = {
        "env": f"envs.freeway:agentkd/Freeway{suffix}-v0",
        "planner": {"refs": ["policies.freeway:planner"], "name": "exact search"},
        "labels": arguments.labels,
        "seed": arguments.seed,
    }
    write_bundle(arguments.out / f"{name}.akd", chosen, origin)
    for difficulty, (published, others) in measure(chosen, layout).items():
        print(f"{difficulty:7} published {published / BEST:.3f}  others {others / BEST:.3f}")


if __name__ == "__main__":
    main()
