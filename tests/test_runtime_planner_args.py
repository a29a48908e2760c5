"""What a policy file does not tell is told to an agent, too."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError
from agentkd.planners import load_planner
from agentkd.runtime import Agent, Runtime

SKRL = Path(__file__).parent / "data" / "policies" / "skrl2_plain.pt"
TOLD = {"activation": "relu"}


def spec() -> Any:
    """That of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_planner(str(SKRL), args=TOLD).spec


class World:
    """Numbers of noise for as long as anyone asks."""

    def __init__(self, size: int) -> None:
        self._size, self._draw = size, np.random.default_rng(0)

    def reset(self, **_: Any) -> Any:
        """Begin."""
        return self._draw.standard_normal(self._size).astype(np.float32), {}

    def step(self, _: Any) -> Any:
        """Go on."""
        return self.reset()[0], 0.0, False, False, {}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_policy_file_gets_its_arguments() -> None:
    """The planner is loaded as `load_planner(args=…)` loads it; without them it is not."""
    known = spec()

    async def labels(**how: Any) -> int:
        runtime = Runtime("mlp:4", known, planner=SKRL, clock="virtual", planner_latency=1, **how)
        async with runtime:
            async for _ in runtime.run(World(known.obs.size), ticks=12, seed=0):
                pass
            return int(runtime.agent.metrics()["labels_total"])

    assert asyncio.run(labels(planner_args=TOLD)) > 0
    with pytest.raises(ConfigError, match="activation=elu"):
        asyncio.run(labels())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"planner": str(SKRL), "planner_args": "activation=relu"}, "give a dictionary"),
        ({"planner_args": TOLD}, "planner that is named"),
        ({"planner": str(SKRL), "planner_args": {"sigma": np.zeros(2)}}, "as JSON"),
    ],
)
def test_arguments_that_cannot_be_are_refused(how: dict[str, Any], words: str) -> None:
    """At once, in the agent's own process."""
    with pytest.raises(ConfigError, match=words):
        Agent("mlp:4", spec(), **how)
