"""Executors of every kind there is, for the tests of what is exported."""

from __future__ import annotations

import numpy as np

from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)

OBS = ObsSpec((Part("", "box", (7,), "float32"),))
FIRST = ObsSpec((Part("", "box", (2, 9, 8), "float32"),))
LAST = ObsSpec((Part("", "box", (7, 6, 3), "uint8"),))
CASES: list[tuple[str, ActionSpec]] = [
    ("mlp:64,64", DiscreteSpec(4)),
    ("mlp:17,tanh", DiscreteSpec(5, 2)),
    ("mlp:5", DiscreteSpec(3, -1)),
    ("mlp:100,silu", MultiDiscreteSpec((2, 3))),
    ("mlp:3,5,elu", MultiBinarySpec(5)),
    ("mlp:64,64,tanh", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    ("linear", BoxSpec((-1.0,) * 4, (1.0,) * 4, (2, 2))),
    ("mlp:9,elu", BoxSpec((-np.inf,), (0.5,), (1,))),
    ("gru:6", DiscreteSpec(3)),
    ("gru:8,5,tanh", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    ("lstm:5", MultiDiscreteSpec((2, 3))),
    ("attention:8/2/2", DiscreteSpec(4)),
    ("cnn:4x3/2,5x2,9", DiscreteSpec(3)),
    ("cnn:6x2/2,tanh", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    ("mlp:8,tanh stack:3", DiscreteSpec(4)),
    ("cnn:4x3/2,9 stack:3", DiscreteSpec(3)),
    ("mlp:9 0:3,5,stack:2", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    ("mlp:9,tanh 0:3,stack:2,delay:2", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    ("linear delay:1", DiscreteSpec(3, 1)),
    ("mlp:5 actions:2", MultiDiscreteSpec((2, 3))),
]
NAMES = [f"{architecture} {type(action).__name__}" for architecture, action in CASES]


def lively(architecture: str, action: ActionSpec, seed: int = 2) -> Executor:
    """Make an executor with a normaliser, whose outputs are not all near zero.

    What it sees may stand behind its architecture.
    """
    obs = OBS
    architecture, *sees = architecture.split()
    if architecture.startswith("cnn"):
        obs = LAST if "tanh" in architecture else FIRST
    executor = initial(architecture, Spec(obs, action), seed=1, sees=sees[0] if sees else None)
    random = np.random.default_rng(seed)
    vector = executor.vector()
    vector += 0.3 * random.standard_normal(vector.shape).astype(np.float32)
    executor = executor.with_vector(vector, 1)
    if obs is FIRST:
        # One mean and scale a channel, as the distiller gives images.
        mean, scale = executor.mean, executor.scale
        for half in (slice(0, 72), slice(72, 144)):
            mean[half], scale[half] = mean[half][0], scale[half][0]
    return executor
