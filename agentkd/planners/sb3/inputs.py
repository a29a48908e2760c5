"""From flat observations to the features with which an SB3 policy starts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from agentkd.errors import SpecError
from agentkd.planners.sb3.network import NatureCnn
from agentkd.planners.sb3.vecnormalize import Normaliser
from agentkd.planners.sb3.weights import Taker
from agentkd.spec import ObsSpec, Part
from agentkd.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One part of the observation, as SB3's extractors treat it.

    Attributes:
        span: Its columns in the flat observation.
        shape: Its shape there.
        turn: Whether its channels come last and have to come first.
        scale: What it is multiplied with.
        cnn: The convolutions it goes through, else it is flattened.
        start: For one choice, the number of the first. SB3 one-hots the number itself, so that its
            columns are further right by as much.
    """

    span: slice
    shape: tuple[int, ...]
    turn: bool
    scale: float
    cnn: NatureCnn | None
    start: int = 0

    @property
    def plain(self) -> bool:
        """Whether its numbers are taken as they are."""
        changed = self.turn or self.scale != 1.0 or self.cnn is not None or self.start
        return not changed

    def __call__(self, obs: Floats) -> Floats:
        """Map flat observations to this part's features, (batch, features)."""
        x = obs[:, self.span]
        if self.plain:
            return x
        if self.start:
            return _moved(x, self.start)
        x = x.reshape(len(x), *self.shape)
        if self.turn:
            x = x.transpose(0, 3, 1, 2)
        if self.scale != 1.0:
            x = x * np.float32(self.scale)
        return x.reshape(len(x), -1) if self.cnn is None else self.cnn(x)


def _moved(one_hot: Floats, start: int) -> Floats:
    """Move the columns of one-hot vectors to where SB3 has them.

    Raises:
        SpecError: If a number has no column there.
    """
    n = one_hot.shape[1]
    moved = np.zeros((len(one_hot), n), np.float32)
    columns = np.arange(n) + start
    there = (columns >= 0) & (columns < n)
    if one_hot[:, ~there].any():
        raise SpecError(
            f"The observation holds a choice of Discrete({n}, start={start}) beyond 0 "
            f"to {n - 1}, which SB3 cannot take: it does not subtract the start."
        )
    moved[:, columns[there]] = one_hot[:, there]
    return moved


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """All features side by side, from raw flat observations.

    Attributes:
        features: The parts, in the order in which the policy takes them.
        normaliser: What comes first, where there is one.
        size: How many features there are.
    """

    features: tuple[Feature, ...]
    normaliser: Normaliser | None
    size: int

    def __call__(self, obs: Floats) -> Floats:
        """Map flat observations, (batch, size), to features."""
        if self.normaliser is not None:
            obs = self.normaliser(obs)
        if len(self.features) == 1:
            return self.features[0](obs)
        return np.concatenate([feature(obs) for feature in self.features], axis=1)


def _describe(part: Part) -> str:
    name = f"{part.name!r}: " if part.name else ""
    if part.sizes:
        start = f" from {part.start} on" if part.start else ""
        return f"{name}{part.kind} of {part.sizes}{start}"
    return f"{name}{part.kind} of shape {part.shape}"


def _described(spec: ObsSpec) -> str:
    return ", ".join(map(_describe, spec.parts))


def _turned(saved: Part, given: Part) -> bool | None:
    """Whether `given` has its channels last and `saved` first; None if they differ."""
    facts = ((part.kind, part.sizes, part.start) for part in (saved, given))
    if len(set(facts)) > 1:
        return None
    if saved.shape == given.shape:
        return False
    # SB3 puts the channels of bytes first, and only of bytes.
    image = len(given.shape) == 3 and "uint8" in (saved.dtype, given.dtype)
    last = image and saved.shape == given.shape[-1:] + given.shape[:-1]
    return True if last else None


def _mismatch(saved: ObsSpec, given: ObsSpec, where: str) -> SpecError:
    hint = ""
    if len(saved.parts) == 1 and saved.size != given.size:
        times = saved.size / max(given.size, 1)
        if times == int(times) and times > 1:
            hint = f" It may have seen {int(times)} frames stacked."
        elif saved.size == given.size + 1:
            hint = " It may have seen the time as one more number."
    return SpecError(
        f"{where} takes observations with {_described(saved)}; the environment gives "
        f"{_described(given)}.{hint} Use the environment, and the wrappers, that it "
        "was trained with."
    )


def read_inputs(
    saved: ObsSpec,
    given: ObsSpec,
    images: frozenset[str],
    normaliser: Normaliser | None,
    taker: Taker,
    prefix: str,
    where: str,
) -> Inputs:
    """Find how the environment's flat observations become the policy's features.

    Args:
        saved: The observation as the policy takes it.
        given: The observation as the environment gives it.
        images: The parts that are divided by 255.
        normaliser: What the flat observations go through first.
        taker: The policy's weights.
        prefix: How the names of the features extractor's weights begin.
        where: What the policy comes from, for messages.

    Raises:
        SpecError: If the observations differ.
        LoadError: If the extractor's weights are not those of NatureCNN.
    """
    starts, start = {}, 0
    for part in given.parts:
        starts[part.name] = start
        start += part.size
    flat = saved.layout == "single" and saved.parts[0].kind == "box"
    if flat and saved.parts[0].shape == (given.size,):
        # The environment was flattened for training; flat is how they come here.
        whole = Feature(slice(0, given.size), (given.size,), False, 1.0, None)
        return Inputs((whole,), normaliser, given.size)
    if saved.layout != given.layout:
        raise _mismatch(saved, given, where)
    features, size = [], 0
    named = {part.name: part for part in given.parts}
    for part in saved.parts:
        turn = _turned(part, named[part.name]) if part.name in named else None
        if turn is None:
            raise _mismatch(saved, given, where)
        span = slice(starts[part.name], starts[part.name] + part.size)
        at = f"{prefix}extractors.{part.name}." if part.name else prefix
        cnn = taker.cnn(at, part.shape) if taker.names(f"{at}cnn.") else None
        scale = 1.0 / 255.0 if part.name in images else 1.0
        shape = named[part.name].shape or (prod(part.sizes),)
        features.append(Feature(span, shape, turn, scale, cnn, part.start))
        size += part.size if cnn is None else len(cnn.linear.weight)
    if len(features) < len(given.parts):
        raise _mismatch(saved, given, where)
    in_order = [feature.span.start for feature in features] == sorted(starts.values())
    if in_order and all(feature.plain for feature in features):
        whole = Feature(slice(0, given.size), (given.size,), False, 1.0, None)
        return Inputs((whole,), normaliser, given.size)
    return Inputs(tuple(features), normaliser, size)
