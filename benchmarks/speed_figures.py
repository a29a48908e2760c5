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


def _rate(work: Callable[[], int]) -> float:
    """Return how much is done in a second."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        done += work()
    return done / (time.perf_counter() - began)


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


def labels(planner: str, env: str) -> dict[str, float]:
    """Labels a second from one process, and bare steps of the environment."""
    import gymnasium

    from agentkd.distillation import CollectionOptions, open_task
    from agentkd.executors.native import compile_native

    task = open_task(env, planner)
    options = CollectionOptions()
    collector = task.collector(options, 0)
    executor: Any = task.executor("mlp:64,64", 0)
    executor = compile_native(executor) or executor
    bare = gymnasium.make(env)
    bare.reset(seed=0)
    actions = [bare.action_space.sample() for _ in range(64)]

    def ours() -> int:
        for _ in range(10):
            collector.step(executor, 0.1)
        return 10 * options.environments

    def plain() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = bare.step(action)
            if terminated or truncated:
                bare.reset()
        return len(actions)

    return _in_turns(ours, plain)


FIGURES: dict[str, Callable[[str, str], dict[str, float]]] = {
    "step-64": lambda _, __: step((64, 64)),
    "step-256": lambda _, __: step((256, 256)),
    "labels": labels,
}

if __name__ == "__main__":
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    sys.stdout.write(json.dumps(FIGURES[sys.argv[1]](*sys.argv[2:4])) + "\n")
