"""Executors of every kind there is, for the tests of what is exported."""

from __future__ import annotations

import numpy as np

from agentkd.executors.architecture import initial
from agentkd.executors.frozen import Frozen
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
CASES: list[tuple[str, ActionSpec]] = [
    ("mlp:64,64", DiscreteSpec(4)),
    ("mlp:17,tanh", DiscreteSpec(5, 2)),
    ("mlp:5", DiscreteSpec(3, -1)),
    ("mlp:100,silu", MultiDiscreteSpec((2, 3))),
    ("mlp:3,5,elu", MultiBinarySpec(5)),
    ("mlp:64,64,tanh", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    ("linear", BoxSpec((-1.0,) * 4, (1.0,) * 4, (2, 2))),
    ("mlp:9,elu", BoxSpec((-np.inf,), (0.5,), (1,))),
]
NAMES = [f"{architecture} {type(action).__name__}" for architecture, action in CASES]


def lively(architecture: str, action: ActionSpec, seed: int = 2) -> Frozen:
    """Make an executor with a normaliser, whose outputs are not all near zero."""
    frozen = initial(architecture, Spec(OBS, action), seed=1)
    random = np.random.default_rng(seed)
    vector = frozen.vector()
    vector += 0.3 * random.standard_normal(vector.shape).astype(np.float32)
    return frozen.with_vector(vector, 1)
