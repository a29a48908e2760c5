"""Layers as JSON values beside their arrays, for files: what a shape does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from agentkd.errors import SpecError, did_you_mean
from agentkd.executors.frozen import Frozen
from agentkd.executors.layers import (
    Activation,
    Attention,
    Conv,
    Dense,
    Gru,
    Layer,
    Lstm,
    Norm,
    Pool,
    Tokens,
    kind,
    tensors,
)
from agentkd.types import Floats

_KINDS = ("dense", "conv", "tokens", "attention", "pool", "gru", "lstm")


def describe(layer: Layer) -> dict[str, Any]:
    """Write what a layer is, but for its arrays."""
    out: dict[str, Any] = {"kind": kind(layer)}
    match layer:
        case Dense():
            out["activation"] = layer.activation
        case Conv():
            out |= {
                "activation": layer.activation,
                "stride": layer.stride,
                "shape": list(layer.shape),
                "channels_first": layer.channels_first,
            }
        case Attention():
            out |= {"tokens": layer.tokens, "heads": layer.heads}
        case Pool():
            out["tokens"] = layer.tokens
    return out


def interchangeable(first: Frozen, second: Frozen) -> bool:
    """Return whether the numbers of one executor make sense in the other."""

    def form(frozen: Frozen) -> Any:
        layers = [
            (describe(layer), {k: v.shape for k, v in tensors(layer).items()})
            for layer in frozen.layers
        ]
        return frozen.spec, frozen.head, frozen.clip, layers

    return bool(form(first) == form(second))


def rebuild(
    description: Mapping[str, Any], prefix: str, tensors: Mapping[str, Floats]
) -> Layer:
    """Make a layer of its description and the arrays whose names begin with `prefix`.

    Raises:
        SpecError: If the kind or an activation is unknown.
        KeyError: If something is missing.
    """

    def array(name: str) -> Floats:
        return tensors[prefix + name]

    def dense(name: str, activation: Activation = "none") -> Dense:
        return Dense(array(f"{name}.weight"), array(f"{name}.bias"), activation)

    def norm(name: str) -> Norm:
        return Norm(array(f"{name}.gain"), array(f"{name}.bias"))

    match description["kind"]:
        case "dense":
            return Dense(array("weight"), array("bias"), _activation(description))
        case "conv":
            height, width, channels = map(int, description["shape"])
            return Conv(
                weight=array("weight"),
                bias=array("bias"),
                activation=_activation(description),
                stride=int(description["stride"]),
                shape=(height, width, channels),
                channels_first=bool(description["channels_first"]),
            )
        case "tokens":
            return Tokens(array("weight"), array("bias"))
        case "attention":
            return Attention(
                tokens=int(description["tokens"]),
                heads=int(description["heads"]),
                norm=norm("norm"),
                qkv=dense("qkv"),
                out=dense("out"),
                norm_after=norm("norm_after"),
                up=dense("up", "relu"),
                down=dense("down"),
            )
        case "pool":
            return Pool(int(description["tokens"]), norm("norm"))
        case "gru":
            return Gru(dense("inputs"), dense("hidden"))
        case "lstm":
            return Lstm(dense("inputs"), dense("hidden"))
        case other:
            hint = did_you_mean(str(other), _KINDS)
            raise SpecError(f"No layer of kind {other!r}.{hint}")


def _activation(description: Mapping[str, Any]) -> Activation:
    name = description["activation"]
    if name not in get_args(Activation):
        hint = did_you_mean(str(name), get_args(Activation))
        raise SpecError(f"No activation {name!r}.{hint}")
    return cast(Activation, name)
