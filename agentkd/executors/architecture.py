"""What an executor is made of, written as one word.

mlp:64,64           dense layers; "linear" has none
mlp:64,64,tanh      with another activation than relu
cnn:16x8/4,32x4/2,128   convolutions CHANNELSxKERNEL/STRIDE, then dense layers
gru:32  gru:64,32   a gated recurrent unit, after dense layers or at once
lstm:32             long short-term memory, likewise
attention:16/2/1    WIDTH/HEADS/BLOCKS of a Transformer over the observation's parts
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, cast, final, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, SpecError, check_choice, did_you_mean
from agentkd.executors.executor import MOST_LAYERS, MOST_PARAMETERS, About, Executor, head_for
from agentkd.executors.layers import (
    Activation,
    Attention,
    Conv,
    Dense,
    Gru,
    Layer,
    Lstm,
    Norm,
    Past,
    Pool,
    Stack,
    Tokens,
    kind,
    sizes,
    width,
)
from agentkd.sizes import is_whole
from agentkd.spec import ObsSpec, Part, Spec
from agentkd.types import Floats
from agentkd.views import Seeing, View, alone, parse_view, see, words_of

CLIP = 10.0
"""Normalised observations stay within ±10 standard deviations, as in SB3."""
_WIDEST = 65536
_MOST_KERNEL = 999
_MOST_TOKENS = 64
_WITHIN = 2.0**0.5
_STACKED = ("mlp", "cnn")
"""Kinds that a stack may come before."""
_KINDS = ["mlp", "linear", "cnn", "gru", "lstm", "attention"]
_CONV = re.compile(r"(\d{1,5})x(\d{1,3})(?:/(\d{1,3}))?", re.ASCII)
_TRANSFORMER = re.compile(r"([1-9]\d{0,4})/([1-9]\d{0,4})/([1-9]\d{0,4})", re.ASCII)
_WIDTH = re.compile(r"\d{1,5}", re.ASCII)
_EXAMPLES = "Write mlp:64,64, cnn:16x8/4,32x4/2,128, gru:32, lstm:32 or attention:16/2/1."


@dataclass(frozen=True, slots=True)
class Architecture:
    """What an executor is made of; `str` writes it as it is read.

    Convolutions (channels, kernel, stride) come first, then dense layers of the widths `hidden`,
    the last of which is a unit's with a memory for "gru" and "lstm". "attention" has blocks of one
    width instead, with dense pairs twice as wide inside.
    """

    kind: Literal["mlp", "cnn", "gru", "lstm", "attention"]
    hidden: tuple[int, ...]
    activation: Activation = "relu"
    convolutions: tuple[tuple[int, int, int], ...] = ()
    heads: int = 1
    blocks: int = 1

    def __post_init__(self) -> None:
        heads = (self.heads,) if self.kind == "attention" else ()
        widths = (*(each[0] for each in self.convolutions), *self.hidden, *heads)
        if not all(is_whole(wide, 1, _WIDEST) for wide in widths):
            raise ConfigError(f"Widths of {widths!r:.80}; each is 1 to {_WIDEST}.")
        if len(widths) >= MOST_LAYERS:
            raise ConfigError(f"{len(widths)} layers; {MOST_LAYERS - 1} at most.")
        check_choice("activation", self.activation, get_args(Activation))
        for each in self.convolutions:
            if not all(is_whole(n, 1, _MOST_KERNEL) for n in each[1:]):
                raise ConfigError(
                    f"A convolution of {each}: kernel and stride are 1 to {_MOST_KERNEL}."
                )
        if not is_whole(self.blocks, 1, MOST_LAYERS - 3):
            raise ConfigError(
                f"{self.blocks} blocks of attention; 1 to {MOST_LAYERS - 3} are read."
            )
        if heads and self.hidden[0] % self.heads:
            raise ConfigError(
                f"attention: a width of {self.hidden[0]} cannot be shared by {self.heads} heads."
            )

    def __str__(self) -> str:
        if self.kind == "attention":
            return f"attention:{self.hidden[0]}/{self.heads}/{self.blocks}"
        words = [
            f"{channels}x{kernel}" + (f"/{stride}" if stride > 1 else "")
            for channels, kernel, stride in self.convolutions
        ]
        words += map(str, self.hidden)
        if not words:
            return "linear"
        return f"{self.kind}:" + ",".join(
            [*words, *([] if self.activation == "relu" else [self.activation])]
        )


def parse(architecture: str) -> Architecture:
    """Read an architecture, such as "mlp:64,64" or "gru:32".

    Raises:
        ConfigError: If the kind, a width or the activation is unknown.
    """
    text = architecture.strip().lower()
    if text == "linear":
        return Architecture("mlp", ())
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"No executor {architecture!r}.{did_you_mean(kind, _KINDS)} {_EXAMPLES}")
    words = [word.strip() for word in rest.split(",") if word.strip()]
    if kind == "attention":
        found = _TRANSFORMER.fullmatch(words[0]) if len(words) == 1 else None
        if found is None:
            raise ConfigError(
                f"{architecture!r} needs WIDTH/HEADS/BLOCKS, such as attention:16/2/1."
            )
        wide, heads, blocks = map(int, found.groups())
        return Architecture("attention", (wide,), heads=heads, blocks=blocks)
    activation: Activation = "relu"
    if words and words[-1][0].isalpha():
        name = words.pop()
        check_choice("activation", name, get_args(Activation))
        activation = cast(Activation, name)
    convolutions = []
    while kind == "cnn" and words and "x" in words[0]:
        convolutions.append(_convolution(architecture, words.pop(0)))
    widths = tuple(int(word) if _WIDTH.fullmatch(word) else 0 for word in words)
    if not all(1 <= width <= _WIDEST for width in widths):
        raise ConfigError(f"{architecture!r} needs widths from 1 to {_WIDEST}. {_EXAMPLES}")
    if kind == "linear" or not (convolutions if kind == "cnn" else widths):
        raise ConfigError(f"{architecture!r} does not say how large. {_EXAMPLES}")
    return Architecture(cast(Any, kind), widths, activation, tuple(convolutions))


def _convolution(architecture: str, word: str) -> tuple[int, int, int]:
    found = _CONV.fullmatch(word)
    numbers = [int(each or 1) for each in found.groups()] if found else [0]
    if min(numbers) < 1:
        raise ConfigError(
            f"{word!r} in {architecture!r} is not a convolution: CHANNELSxKERNEL/STRIDE, "
            "such as 16x8/4."
        )
    channels, kernel, stride = numbers
    return channels, kernel, stride


def initial(
    architecture: str, spec: Spec, *, seed: int = 0, squashed: bool = True, sees: Seeing = None
) -> Executor:
    """Make an untrained executor.

    Weights are orthogonal (Saxe et al. 2014, gain √2 within, 0.01 at the end), so that it starts
    near indifference. With `squashed`, actions in a bounded box end in tanh, else in a clip.
    `sees` is what it sees of the observation, as `agentkd.views` reads it.

    Raises:
        ConfigError: If it does not suit the observation.
    """
    made_of, view = parse(architecture), parse_view(sees, spec.obs)
    spec = see(spec, view)
    draws, obs = _Draws(seed), alone(spec.obs)
    layers: list[Layer] = []
    if view.delay or view.actions:
        past = _past(made_of, spec, view)
        spec = replace(spec, obs=replace(spec.obs, taken=past.width))
        # What is behind it takes a row of numbers.
        obs = ObsSpec((Part("", "box", (sizes(past)[1],), "float32"),))
        layers = [past, *_body(made_of, obs, draws, 1)]
    elif view.stack > 1:
        if made_of.kind not in _STACKED:
            raise ConfigError(f"stack:{view.stack} is for mlp, linear and cnn, not for {made_of}.")
        layers = [Stack(view.stack, obs.size), *_body(made_of, obs, draws, view.stack)]
    else:
        layers = _body(made_of, obs, draws, 1)
    before = sizes(layers[-1])[1] if layers else obs.size
    layers.append(_dense(before, dists.action_size(spec.action), "none", 0.01, draws))
    return Executor(
        architecture=str(made_of),
        spec=spec,
        mean=np.zeros(spec.obs.size, np.float32),
        scale=np.ones(spec.obs.size, np.float32),
        clip=CLIP,
        layers=tuple(layers),
        head=head_for(spec, squashed=squashed),
    )


def _past(made_of: Architecture, spec: Spec, view: View) -> Past:
    """Return the layer that holds old observations and past actions.

    Raises:
        ConfigError: If the architecture cannot be behind it.
    """
    if made_of.kind != "mlp":
        word = f"delay:{view.delay}" if view.delay else f"actions:{view.actions}"
        raise ConfigError(f"{word} is for mlp and linear, not for {made_of}. Take mlp:64,64.")
    width = dists.action_size(spec.action)
    return Past(spec.obs.size, view.stack, view.delay, width, view.actions)


def past_of(executor: Executor) -> View:
    """Return of how much of the past an executor sees, as a view of everything."""
    match executor.layers[0]:
        case Stack(count, _):
            return View(stack=count)
        case Past(_, count, lag, _, actions):
            return View(stack=count, delay=lag, actions=actions)
    return View()


def for_late_sensors(executor: Executor) -> Executor:
    """Return an executor with a delay for a robot whose observations are that late by themselves.

    What was learnt where observations are of the present holds them back by `delay:D`. Where they
    come D ticks late already, they must not be held back again; the actions are still needed.

    Raises:
        ConfigError: If the executor has no delay.
    """
    first = executor.layers[0]
    if not isinstance(first, Past) or not first.lag:
        raise ConfigError(
            f"{executor.architecture} has no delay to leave out; it sees "
            f"{','.join(view_of(executor)) or 'everything'}."
        )
    about = About(executor.about.provenance, executor.about.contract)
    layers = (replace(first, lag=0), *executor.layers[1:])
    return replace(executor, layers=layers, about=about)


def view_of(executor: Executor) -> list[str]:
    """Return what an executor sees in the words of `agentkd.views`; [] for everything."""
    return words_of(executor.spec.obs, past_of(executor))


def _body(made_of: Architecture, obs: ObsSpec, draws: _Draws, count: int) -> list[Layer]:
    """All layers but the last, behind a stack of `count` observations."""
    match made_of.kind:
        case "cnn":
            return _cnn(made_of, obs, draws, count)
        case "attention":
            return _blocks(made_of, obs, draws)
        case "mlp":
            return _chain(count * obs.size, made_of.hidden, made_of.activation, draws)
        case "gru" | "lstm":
            *hidden, wide = made_of.hidden
            layers = _chain(obs.size, hidden, made_of.activation, draws)
            return [*layers, _recurrent(made_of.kind, (obs.size, *hidden)[-1], wide, draws)]


def _chain(
    inputs: int, hidden: Sequence[int], activation: Activation, draws: _Draws
) -> list[Layer]:
    widths = [inputs, *hidden]
    return [_dense(before, out, activation, _WITHIN, draws) for before, out in pairwise(widths)]


def _dense(inputs: int, out: int, activation: Activation, gain: float, draws: _Draws) -> Dense:
    weight = draws.orthogonal(out, inputs) * np.float32(gain)
    return Dense(weight, np.zeros(out, np.float32), activation)


def image_shape(obs: ObsSpec) -> tuple[tuple[int, int, int], bool]:
    """Height, width and channels of an image, and whether its channels come first.

    The axis that is shorter at the ends is taken for the channels', as SB3 does.

    Raises:
        ConfigError: If the observation is not an image.
    """
    shape = obs.parts[0].shape
    if len(obs.parts) > 1 or obs.parts[0].sizes or len(shape) not in (2, 3):
        parts = {part.name or "it": part.shape for part in obs.parts}
        raise ConfigError(
            "A cnn needs one image, of shape (height, width), with channels first or "
            f"last; the observation is {parts}. Take mlp:64,64."
        )
    if len(shape) == 2:
        return (shape[0], shape[1], 1), False
    if shape[0] <= shape[2]:
        return (shape[1], shape[2], shape[0]), True
    return (shape[0], shape[1], shape[2]), False


def _cnn(made_of: Architecture, obs: ObsSpec, draws: _Draws, count: int) -> list[Layer]:
    shape, first = image_shape(obs)
    if count > 1:
        if shape[2] > 1 and not first:
            raise ConfigError(
                f"stack:{count} for {made_of}: the channels of images of shape "
                f"{obs.parts[0].shape} come last, and those of a stack lie one after another. "
                "Show grey images, or channels first."
            )
        shape, first = (*shape[:2], count * shape[2]), True
    layers: list[Any] = []
    for out, kernel, stride in made_of.convolutions:
        if kernel > min(shape[:2]):
            raise ConfigError(
                f"{made_of}: a kernel of {kernel} does not fit an image of {shape[0]} x {shape[1]}."
            )
        flat = draws.orthogonal(out, kernel * kernel * shape[2]) * np.float32(_WITHIN)
        weight = flat.reshape(out, kernel, kernel, shape[2])
        bias = np.zeros(out, np.float32)
        layers.append(Conv(weight, bias, made_of.activation, stride, shape, first))
        shape, first = (*layers[-1].grid, out), False
    return layers + _chain(math.prod(shape), made_of.hidden, made_of.activation, draws)


def _recurrent(kind: str, inputs: int, wide: int, draws: _Draws) -> Gru | Lstm:
    gates = 3 if kind == "gru" else 4
    given, kept = (
        Dense(
            np.concatenate([draws.orthogonal(wide, size) for _ in range(gates)]),
            np.zeros(gates * wide, np.float32),
        )
        for size in (inputs, wide)
    )
    if kind == "gru":
        return Gru(given, kept)
    # What is remembered stays by default (Jozefowicz et al. 2015).
    given.bias[wide : 2 * wide] = 1.0
    return Lstm(given, kept)


def token_shape(obs: ObsSpec) -> tuple[int, int]:
    """How many tokens an observation is cut into, and how many numbers each has.

    The rows of a stack of frames; else single numbers, or equal runs of them where there are more
    than 64.

    Raises:
        ConfigError: If it cannot be cut into equal pieces.
    """
    shape = obs.parts[0].shape
    stacked = len(obs.parts) == 1 and not obs.parts[0].sizes and len(shape) == 2
    if stacked and 1 < shape[0] <= _MOST_TOKENS:
        return shape[0], shape[1]
    for tokens in range(min(obs.size, _MOST_TOKENS), 1, -1):
        if obs.size % tokens == 0:
            return tokens, obs.size // tokens
    raise ConfigError(
        f"An observation of {obs.size} numbers cannot be cut into 2 to {_MOST_TOKENS} "
        "equal tokens for attention. Stack frames, or take mlp:64,64."
    )


def _blocks(made_of: Architecture, obs: ObsSpec, draws: _Draws) -> list[Layer]:
    tokens, piece = token_shape(obs)
    (width,) = made_of.hidden
    weight = [draws.orthogonal(width, piece) for _ in range(tokens)]
    place = 0.02 * draws.random.standard_normal((tokens, width))
    layers: list[Layer] = [Tokens(np.stack(weight), place.astype(np.float32))]
    # Residuals grow with the number of sums into them (Radford et al. 2019, 2.3).
    back = (2 * made_of.blocks) ** -0.5
    layers += [
        Attention(
            tokens=tokens,
            heads=made_of.heads,
            norm=_norm(width),
            qkv=_dense(width, 3 * width, "none", 1.0, draws),
            out=_dense(width, width, "none", back, draws),
            norm_after=_norm(width),
            up=_dense(width, 2 * width, "relu", _WITHIN, draws),
            down=_dense(2 * width, width, "none", back, draws),
        )
        for _ in range(made_of.blocks)
    ]
    return [*layers, Pool(tokens, _norm(width))]


def _norm(width: int) -> Norm:
    return Norm(np.ones(width, np.float32), np.zeros(width, np.float32))


def check_layers(made_of: Architecture, layers: Sequence[Layer]) -> None:
    """Make sure that layers are those that an architecture names, but for the last.

    Raises:
        SpecError: If they are others.
    """
    if isinstance(layers[0], Stack | Past) and made_of.kind in _STACKED:
        layers = layers[1:]
    kinds = ["dense"] * len(made_of.hidden)
    if made_of.kind in ("gru", "lstm"):
        kinds[-1] = made_of.kind
    wanted = [("conv", each[0]) for each in made_of.convolutions]
    wanted += zip(kinds, made_of.hidden, strict=True)
    if made_of.kind == "attention":
        kinds = ["tokens", *["attention"] * made_of.blocks, "pool"]
        wanted = [(each, made_of.hidden[0]) for each in kinds]
    found = [(kind(layer), width(layer)) for layer in layers[:-1]]
    if found != wanted or not isinstance(layers[-1], Dense):
        raise SpecError(f"{made_of} has the layers {wanted}; these are {found}.")


@final
class _Draws:
    """Draws initial weights, up to the parameters that an executor may have."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._left = MOST_PARAMETERS

    def orthogonal(self, out: int, inputs: int) -> Floats:
        """Draw a matrix, (out, inputs)."""
        self._left -= out * inputs
        if self._left < 0:
            raise ConfigError(
                f"More than {MOST_PARAMETERS:,} parameters: an executor is tiny. {_EXAMPLES}"
            )
        tall = self.random.standard_normal((max(out, inputs), min(out, inputs)))
        q, r = np.linalg.qr(tall)
        q = q * np.sign(np.diag(r))
        return (q if out >= inputs else q.T).astype(np.float32)
