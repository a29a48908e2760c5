"""A distiller made from JSON values, for a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from agentkd import spec as specs
from agentkd.deploy.bundle import read_bundle
from agentkd.distill.distiller import Distiller, DistillerOptions
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial


def build(
    executor: str,
    spec: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    squashed: bool = True,
    batch: int = 256,
    learning_rate: float = 2e-3,
    capacity: int = 200_000,
) -> Distiller:
    """Make a distiller that learns for as long as it lives, at a constant rate.

    Args:
        executor: An architecture such as "mlp:64,64", or the path of an .akd file to go
            on from.
        spec: The environment, as `agentkd.spec.to_json` writes it; an .akd knows its.
        seed: For the weights of an architecture and for which labels are drawn.
        squashed: For bounded boxes, whether an architecture ends in tanh.
        batch: Labels in one gradient step.
        learning_rate: Of Adam.
        capacity: The most labels held in memory.
    """
    torch.set_num_threads(1)
    if executor.endswith(".akd"):
        frozen = read_bundle(executor).frozen
    else:
        assert spec is not None, "an architecture needs the environment's spec"
        frozen = initial(executor, specs.from_json(spec), seed=seed, squashed=squashed)
    if frozen.memory:
        raise ConfigError(
            f"{frozen.architecture} has a memory and learns from whole sequences: "
            "distil it with agentkd distill. In a live run take one without, such as "
            "mlp:64,64."
        )
    options = DistillerOptions(
        batch=batch, learning_rate=learning_rate, capacity=capacity, seed=seed
    )
    return Distiller(frozen, options)
