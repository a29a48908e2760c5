"""What an executor is made of, written as one word: "mlp:64,64" or "mlp:64,64,tanh"."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.frozen import Activation, Frozen, Layer, head_for
from agentkd.spec import Spec
from agentkd.types import Floats

CLIP = 10.0
"""Normalised observations stay within ±10 standard deviations, as in SB3."""
_WIDEST = 65536


@dataclass(frozen=True, slots=True)
class Mlp:
    """Dense layers of these widths, with one activation between them."""

    hidden: tuple[int, ...]
    activation: Activation = "relu"

    def __str__(self) -> str:
        """Write it as it is read."""
        tail = "" if self.activation == "relu" else f",{self.activation}"
        return "mlp:" + ",".join(map(str, self.hidden)) + tail


def parse(architecture: str) -> Mlp:
    """Read "mlp:64,64" or "mlp:64,64,tanh"; "linear" is an MLP with no hidden layer.

    Raises:
        ConfigError: If the kind, a width or the activation is unknown.
    """
    text = architecture.strip().lower()
    if text == "linear":
        return Mlp(())
    kind, _, rest = text.partition(":")
    if kind != "mlp":
        raise ConfigError(
            f"No executor {architecture!r}.{did_you_mean(kind, ['mlp', 'linear'])} "
            "Write mlp:64,64 for two hidden layers of 64."
        )
    words = [word.strip() for word in rest.split(",") if word.strip()]
    activation: Activation = "relu"
    if words and not words[-1].lstrip("-").isdigit():
        name = words.pop()
        if name not in get_args(Activation):
            hint = did_you_mean(name, get_args(Activation))
            raise ConfigError(f"No activation {name!r} in {architecture!r}.{hint}")
        activation = cast(Activation, name)
    widths = [int(word) if word.isdigit() else 0 for word in words]
    if not widths or not all(1 <= width <= _WIDEST for width in widths):
        raise ConfigError(
            f"{architecture!r} needs widths from 1 to {_WIDEST}, such as mlp:64,64."
        )
    return Mlp(tuple(widths), activation)


def initial(
    architecture: str, spec: Spec, *, seed: int = 0, squashed: bool = True
) -> Frozen:
    """Make an untrained executor.

    Weights are orthogonal (Saxe et al. 2014, gain √2 within, 0.01 at the end), so that
    it starts near indifference.

    Args:
        architecture: Such as "mlp:64,64".
        spec: The environment it is for.
        seed: For the weights.
        squashed: For bounded boxes, end in tanh rather than in a clip.
    """
    mlp = parse(architecture)
    random = np.random.default_rng(seed)
    widths = [spec.obs.size, *mlp.hidden, dists.action_size(spec.action)]
    layers = []
    for index, (inputs, out) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        weight = _orthogonal(out, inputs, random) * (0.01 if last else np.sqrt(2.0))
        activation: Activation = "none" if last else mlp.activation
        layers.append(
            Layer(weight.astype(np.float32), np.zeros(out, np.float32), activation)
        )
    return Frozen(
        architecture=str(mlp) if mlp.hidden else "linear",
        spec=spec,
        mean=np.zeros(spec.obs.size, np.float32),
        scale=np.ones(spec.obs.size, np.float32),
        clip=CLIP,
        layers=tuple(layers),
        head=head_for(spec, squashed=squashed),
    )


def _orthogonal(out: int, inputs: int, random: np.random.Generator) -> Floats:
    tall = random.standard_normal((max(out, inputs), min(out, inputs)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return (q if out >= inputs else q.T).astype(np.float32)
