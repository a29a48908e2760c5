"""Structured pruning: hidden units go, and the executor really becomes smaller."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from agentkd.errors import ConfigError, check_range
from agentkd.executors.architecture import Architecture, initial, parse
from agentkd.executors.arithmetic import activate
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation
from agentkd.types import Floats

Dense = tuple[Floats, Floats]


def dense_layers(executor: Executor) -> tuple[Architecture, list[Dense]]:
    """Take an executor of dense layers apart: weights (out, in) and biases (out,).

    Raises:
        ConfigError: If it is made of other layers.
    """
    shape = parse(executor.architecture)
    if shape.kind != "mlp":
        raise ConfigError(
            f"An executor {executor.architecture!r} is not a stack of dense layers, as is "
            "needed here. Use an mlp."
        )
    inputs = executor.spec.obs.size
    vector = executor.vector()[2 * inputs :]
    layers: list[Dense] = []
    for width in shape.hidden:
        weight, bias, vector = np.split(vector, [width * inputs, width * (inputs + 1)])
        layers.append((weight.reshape(width, inputs), bias))
        inputs = width
    out = len(vector) // (inputs + 1)
    weight, bias = np.split(vector, [out * inputs])
    return shape, [*layers, (weight.reshape(out, inputs), bias)]


def assembled(executor: Executor, activation: Activation, layers: list[Dense]) -> Executor:
    """Put dense layers behind the normaliser of an executor, with its head."""
    widths = tuple(len(bias) for _, bias in layers[:-1])
    shape = Architecture("mlp", widths, activation)
    sketch = initial(str(shape), executor.spec, squashed=executor.head == "squashed")
    numbers = [executor.mean, executor.scale]
    for weight, bias in layers:
        numbers += [weight.ravel(), bias]
    vector = np.concatenate(numbers).astype(np.float32)
    return replace(sketch.with_vector(vector, executor.version), clip=executor.clip)


def prune(executor: Executor, obs: Floats, share: float) -> Executor:
    """Remove the hidden units that matter least.

    A unit matters by how much it moves the layer that follows: the deviation of its activation over
    `obs` times the norm of its outgoing weights. Its mean goes into the biases that follow, so that
    a unit which never moves is removed without any change.

    Args:
        executor: An executor of dense layers.
        obs: Observations that it meets, (n, obs).
        share: Of each hidden layer's units, 0 to 1; at least one stays.

    Raises:
        ConfigError: If there is nothing to remove, or the share is invalid.
    """
    check_range("share", share, above=0, below=1)
    shape, layers = dense_layers(executor)
    if not shape.hidden or not len(obs):
        raise ConfigError(
            f"{executor.architecture!r} with {len(obs)} observations: nothing to remove."
        )
    x = np.clip((obs - executor.mean) * executor.scale, -executor.clip, executor.clip)
    for index, width in enumerate(shape.hidden):
        weight, bias = layers[index]
        x = activate(shape.activation, x @ weight.T + bias)
        after, after_bias = layers[index + 1]
        matter = x.std(axis=0) * np.linalg.norm(after, axis=0)
        count = max(1, math.ceil(width * (1 - share)))
        # In their order, so that equal units stay where they are.
        stay = np.sort(np.argsort(-matter, kind="stable")[:count])
        gone = np.setdiff1d(np.arange(width), stay)
        after_bias = after_bias + after[:, gone] @ x[:, gone].mean(axis=0)
        layers[index] = weight[stay], bias[stay]
        layers[index + 1] = after[:, stay], after_bias
        x = x[:, stay]
    return assembled(executor, shape.activation, layers)
