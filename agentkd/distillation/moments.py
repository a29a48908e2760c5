"""Moments of observations, for the normaliser."""

from __future__ import annotations

import numpy as np

from agentkd.executors.executor import Executor
from agentkd.executors.layers import image
from agentkd.types import Floats

_CHUNK = 65536
_LEAST_STD = 1e-2
_IMAGES = 1024
"""So many, evenly among all, say enough."""


def normaliser(executor: Executor, obs: Floats) -> tuple[Floats, Floats]:
    """Return the mean and scale that fit an executor to observations (n, obs), (obs,) each."""
    shape = image(executor.layers)
    if shape is None:
        mean, std = moments(obs)
    else:
        # Each image has thousands of pixels for one mean and deviation.
        few = obs[:: -(-len(obs) // _IMAGES)]
        mean, std = by_channel(shape, *moments(few))
    # A number that never moved yet keeps its own unit instead of a huge one.
    scale = np.where(std < _LEAST_STD, 1.0, 1.0 / np.maximum(std, _LEAST_STD))
    return mean, scale.astype(np.float32)


def is_neutral(executor: Executor) -> bool:
    """Whether no labels have set an executor's normaliser yet."""
    return not executor.mean.any() and bool((executor.scale == 1).all())


def moments(obs: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of observations (n, obs), (obs,) each.

    They are taken in pieces, so that no copy of all observations is made.
    """
    count = len(obs)
    pieces = range(0, count, _CHUNK)
    mean = sum(obs[i : i + _CHUNK].sum(axis=0, dtype=np.float64) for i in pieces) / count
    square = sum(
        np.square(obs[i : i + _CHUNK] - mean).sum(axis=0, dtype=np.float64) for i in pieces
    )
    std = np.sqrt(square / count)
    return np.asarray(mean, np.float32), np.asarray(std, np.float32)


def by_channel(
    shape: tuple[int, int, int, bool], mean: Floats, std: Floats
) -> tuple[Floats, Floats]:
    """Let the pixels of a channel share one mean and one deviation.

    `shape` is height, width, channels, and whether channels come first.
    """
    height, width, channels, first = shape
    laid = (channels, height * width) if first else (height * width, channels)
    pixels = 1 if first else 0
    means, stds = mean.reshape(laid), std.reshape(laid)
    shared = means.mean(axis=pixels, keepdims=True)
    square = (stds**2 + (means - shared) ** 2).mean(axis=pixels, keepdims=True)
    whole = np.broadcast_to(shared, laid), np.broadcast_to(np.sqrt(square), laid)
    return whole[0].reshape(-1).copy(), whole[1].reshape(-1).copy()
