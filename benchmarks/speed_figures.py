"""One figure of speed, as a program: `python speed_figures.py FIGURE PLANNER ENV`, JSON out.

It runs in any tree of this project that is on PYTHONPATH, so that commits can be compared. Each
figure comes with a baseline that the tree has no part in, measured in turns with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

_TURNS = 5
_SECONDS = 0.6
"""How often each of the two is measured, and for how long."""
_EPISODES, _TICKS = 4, 1000
"""Episodes that are stepped bare, and how long they are."""


def _rate(work: Callable[[], int]) -> float:
    """Return how much is done in a second of this process."""
    done, began = 0, time.process_time()
    while time.process_time() - began < _SECONDS:
        done += work()
    return done / (time.process_time() - began)


def _in_turns(ours: Callable[[], int], baseline: Callable[[], int]) -> dict[str, float]:
    for each in (ours, baseline):
        each()
    pairs = [(_rate(ours), _rate(baseline)) for _ in range(_TURNS)]
    value, other = (float(np.median(each)) for each in zip(*pairs, strict=True))
    ratio = float(np.median([mine / theirs for mine, theirs in pairs]))
    return {"value": value, "baseline": other, "ratio": ratio}


def step(widths: tuple[int, ...]) -> dict[str, float]:
    """Gradient steps a second at batch 512, and those of a plain NumPy loop (SGD)."""
    from agentkd import initial
    from agentkd.distillation import Distiller, DistillerOptions
    from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
    from agentkd.types import SquashedGaussian

    spec = Spec(
        ObsSpec((Part("", "box", (17,), "float32"),)), BoxSpec((-1.0,) * 6, (1.0,) * 6, (6,))
    )
    random = np.random.default_rng(0)
    obs = random.standard_normal((100_000, 17)).astype(np.float32)
    mean = (obs[:, :6] / 2).astype(np.float32)
    distiller = Distiller(initial(f"mlp:{','.join(map(str, widths))}", spec), DistillerOptions())
    distiller.add(obs, SquashedGaussian(mean, mean))
    sizes = (17, *widths, 6)
    weights = [(random.standard_normal(pair) / 10).astype(np.float32) for pair in pairwise(sizes)]
    biases = [np.zeros(each, np.float32) for each in sizes[1:]]

    def ours() -> int:
        for _ in range(10):
            distiller.step()
        return 10

    def plain() -> int:
        for _ in range(10):
            drawn = random.integers(0, len(obs), 512)
            x, layers = obs[drawn], []
            for weight, bias in zip(weights, biases, strict=True):
                layers.append(x)
                x = x @ weight + bias
                if weight is not weights[-1]:
                    x = np.maximum(x, 0)
            delta = (x - mean[drawn]) / 256
            for index in reversed(range(len(weights))):
                gradient, shift = layers[index].T @ delta, delta.sum(0)
                if index:
                    delta = (delta @ weights[index].T) * (layers[index] > 0)
                weights[index] -= 1e-4 * gradient
                biases[index] -= 1e-4 * shift
        return 10

    return _in_turns(ours, plain)


def labels(planner: str, env: str, *, same: bool = False) -> dict[str, float]:
    """Labels a second from one process, through its ring into memory, and bare steps.

    The bare environment is stepped with random actions, or with the `same` actions: physics takes
    longer where a robot runs than where it twitches.
    """
    import gymnasium

    from agentkd.distillation import open_task
    from agentkd.distillation.buffer import LabelBuffer
    from agentkd.runtime.workers.channels import LabelRing

    task = open_task(env, planner)
    ring, buffer = LabelRing(task.spec), LabelBuffer()
    collected = _source(task, 0.1)

    def ours() -> int:
        done = 0
        for batch in collected.take():
            ring.push(*batch)
            for each in ring.take():
                buffer.add(*each)
            done += len(batch.obs)
        return done

    bare = gymnasium.make(env)
    random = [bare.action_space.sample() for _ in range(_TICKS)]
    episodes = _driven(task) if same else [(0, random)]

    def plain() -> int:
        done = 0
        for seed, actions in episodes:
            bare.reset(seed=seed)
            for action in actions:
                _, _, terminated, truncated, _ = bare.step(action)
                done += 1
                if terminated or truncated:
                    break
        return done

    return _in_turns(ours, plain)


def _source(task: Any, seconds: float, make: Any = None) -> Any:
    """Collect while the planner drives a tenth of the ticks and an untrained executor the rest."""
    from agentkd.distillation import CollectionOptions, sources

    options = CollectionOptions()
    # Trees of before November 2026 collect a tick at a time.
    more = {"ticks": sources.longest(16)} if hasattr(sources, "longest") else {}
    executor = task.executor("mlp:64,64", 0)
    found = sources.LocalSource(task.collector(options, 0, make), executor, seconds, **more)
    found.update(executor, 0.1)
    return found


def _driven(task: Any) -> list[tuple[Any, list[Any]]]:
    """Return how some episodes were driven: their seeds and actions."""
    from agentkd import environments

    driven: list[_Heard] = []

    def make() -> Any:
        driven.append(_Heard(environments.make(task.env)))
        return driven[-1]

    heard = _source(task, 0.0, make)
    for _ in range(2 * _TICKS):
        heard.take()
        if all(len(each.actions) >= _TICKS for each in driven):
            break
    return [(each.seed, each.actions[:_TICKS]) for each in driven[:_EPISODES]]


class _Heard:
    """An environment that remembers with which seed it began and what was done then."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.seed: int | None = None
        self.actions: list[Any] = []
        self._first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **options: Any) -> Any:
        self._first, self.seed = self.seed is None, self.seed or options.get("seed")
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        if self._first:
            self.actions.append(np.array(action) if np.ndim(action) else action)
        return self.env.step(action)


FIGURES: dict[str, Callable[[str, str], dict[str, float]]] = {
    "step-64": lambda _, __: step((64, 64)),
    "step-256": lambda _, __: step((256, 256)),
    "labels": labels,
    "labels-same": lambda planner, env: labels(planner, env, same=True),
}

if __name__ == "__main__":
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    sys.stdout.write(json.dumps(FIGURES[sys.argv[1]](*sys.argv[2:4])) + "\n")
