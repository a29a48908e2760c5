"""Layers as JSON values beside their arrays, for files: what a shape does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from agentkd.errors import SpecError, did_you_mean
from agentkd.executors.architecture import Architecture, Cnn, Mlp, Recurrent, Transformer
from agentkd.executors.executor import Executor
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
from agentkd.fields import Fields
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


def interchangeable(first: Executor, second: Executor) -> bool:
    """Return whether the numbers of one executor make sense in the other."""

    def form(executor: Executor) -> Any:
        layers = [
            (describe(layer), {k: v.shape for k, v in tensors(layer).items()})
            for layer in executor.layers
        ]
        return executor.spec, executor.head, executor.clip, layers

    return bool(form(first) == form(second))


def rebuild(fields: Fields, prefix: str, tensors: Mapping[str, Floats]) -> Layer:
    """Make a layer of its description and the arrays whose names begin with `prefix`.

    Raises:
        SpecError: If the kind is unknown.
        LoadError: If a field is missing or of another type.
        KeyError: If an array is missing.
    """

    def array(name: str) -> Floats:
        return tensors[prefix + name]

    def dense(name: str, activation: Activation = "none") -> Dense:
        return Dense(array(f"{name}.weight"), array(f"{name}.bias"), activation)

    def norm(name: str) -> Norm:
        return Norm(array(f"{name}.gain"), array(f"{name}.bias"))

    match fields.text("kind"):
        case "dense":
            return Dense(array("weight"), array("bias"), _activation(fields))
        case "conv":
            height, width, channels = fields.wholes("shape", least=1)
            return Conv(
                weight=array("weight"),
                bias=array("bias"),
                activation=_activation(fields),
                stride=fields.whole("stride", least=1),
                shape=(height, width, channels),
                channels_first=fields.flag("channels_first"),
            )
        case "tokens":
            return Tokens(array("weight"), array("bias"))
        case "attention":
            return Attention(
                tokens=fields.whole("tokens", least=1),
                heads=fields.whole("heads", least=1),
                norm=norm("norm"),
                qkv=dense("qkv"),
                out=dense("out"),
                norm_after=norm("norm_after"),
                up=dense("up", "relu"),
                down=dense("down"),
            )
        case "pool":
            return Pool(fields.whole("tokens", least=1), norm("norm"))
        case "gru":
            return Gru(dense("inputs"), dense("hidden"))
        case "lstm":
            return Lstm(dense("inputs"), dense("hidden"))
        case other:
            hint = did_you_mean(str(other), _KINDS)
            raise SpecError(f"No layer of kind {other!r}.{hint}")


def _activation(fields: Fields) -> Activation:
    return cast(Activation, fields.choice("activation", get_args(Activation)))


def check_layers(made_of: Architecture, layers: Sequence[Layer]) -> None:
    """Make sure that layers are those that an architecture names, but for the last.

    Raises:
        SpecError: If they are others.
    """
    found = [_outline(layer) for layer in layers[:-1]]
    match made_of:
        case Transformer():
            blocks = [("attention", made_of.width)] * made_of.blocks
            wanted = [("tokens", made_of.width), *blocks, ("pool", made_of.width)]
        case Cnn():
            dense = [("dense", width) for width in made_of.hidden]
            wanted = [("conv", each[0]) for each in made_of.convolutions] + dense
        case Recurrent():
            dense = [("dense", width) for width in made_of.hidden]
            wanted = [*dense, (made_of.kind, made_of.width)]
        case Mlp():
            wanted = [("dense", width) for width in made_of.hidden]
    if found != wanted or not isinstance(layers[-1], Dense):
        raise SpecError(f"{made_of} has the layers {wanted}; these are {found}.")


def _outline(layer: Layer) -> tuple[str, int]:
    """A layer's kind and width."""
    match layer:
        case Dense() | Conv():
            width = len(layer.bias)
        case Tokens():
            width = layer.weight.shape[1]
        case Attention() | Pool():
            width = len(layer.norm.gain)
        case Gru() | Lstm():
            width = layer.hidden.weight.shape[1]
    return kind(layer), width
