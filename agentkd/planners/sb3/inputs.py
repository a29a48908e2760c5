"""From flat observations to the features with which an SB3 policy starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import SpecError
from agentkd.planners.sb3.network import NatureCnn, Taker
from agentkd.planners.sb3.policy import Description
from agentkd.planners.sb3.vecnormalize import Normaliser
from agentkd.spec import ObsSpec, Part
from agentkd.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One part of the observation, as SB3's extractors treat it.

    Attributes:
        columns: Where its numbers lie in the flat observation, an image's channels first.
        shape: Its shape then.
        scale: What it is multiplied with.
        cnn: The convolutions it goes through, else it is flat.
        start: For one choice, the number of the first. SB3 one-hots the number itself, so that its
            columns are further right by as much.
    """

    columns: NDArray[np.intp]
    shape: tuple[int, ...]
    scale: float
    cnn: NatureCnn | None
    start: int = 0

    @property
    def plain(self) -> bool:
        """Whether its numbers are taken as they are."""
        return self.scale == 1.0 and self.cnn is None and not self.start

    def __call__(self, obs: Floats) -> Floats:
        """Map flat observations to this part's features, (batch, features)."""
        x = obs[:, self.columns]
        if self.start:
            x = _moved(x, self.start)
        if self.scale != 1.0:
            x = x * np.float32(self.scale)
        return x if self.cnn is None else self.cnn(x.reshape(len(x), *self.shape))


def _moved(one_hot: Floats, start: int) -> Floats:
    """Move the columns of one-hot vectors to where SB3 has them."""
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

    Without features the policy takes the observation flat, as it is. `size` counts the features.
    """

    features: tuple[Feature, ...]
    normaliser: Normaliser | None
    size: int

    def __call__(self, obs: Floats) -> Floats:
        """Map flat observations, (batch, size), to features."""
        if self.normaliser is not None:
            obs = self.normaliser(obs)
        if not self.features:
            return obs
        return np.concatenate([feature(obs) for feature in self.features], axis=1)


def _described(spec: ObsSpec) -> str:
    texts = []
    for part in spec.parts:
        name = f"{part.name!r}: " if part.name else ""
        shape = f"of {part.sizes}" if part.sizes else f"of shape {part.shape}"
        start = f" from {part.start} on" if part.sizes and part.start else ""
        texts.append(f"{name}{part.kind} {shape}{start}")
    return ", ".join(texts)


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
    about: Description, given: ObsSpec, normaliser: Normaliser | None, taker: Taker, prefix: str
) -> Inputs:
    """Find how the environment's flat observations become the policy's features.

    `prefix` is how the names of the features extractor's weights begin.

    Raises:
        SpecError: If the observations differ.
        LoadError: If the extractor's weights are not those of NatureCNN.
    """
    saved = about.obs
    flat = saved.layout == "single" and saved.parts[0].kind == "box"
    if flat and saved.parts[0].shape == (given.size,):
        # The environment was flattened for training; flat is how they come here.
        return Inputs((), normaliser, given.size)
    named, places, start = {}, {}, 0
    for part in given.parts:
        named[part.name] = part
        places[part.name] = np.arange(start, start + part.size)
        start += part.size
    features, size = [], 0
    for part in saved.parts:
        turn = _turned(part, named[part.name]) if part.name in named else None
        if turn is None or saved.layout != given.layout:
            raise _mismatch(saved, given, about.where)
        columns = places[part.name]
        if turn:
            columns = columns.reshape(named[part.name].shape).transpose(2, 0, 1).ravel()
        at = f"{prefix}extractors.{part.name}." if part.name else prefix
        cnn = taker.cnn(at, part.shape) if taker.names(f"{at}cnn.") else None
        scale = 1.0 / 255.0 if part.name in about.images else 1.0
        features.append(Feature(columns, part.shape, scale, cnn, part.start))
        size += part.size if cnn is None else cnn.linear.width(0)
    if len(features) < len(given.parts):
        raise _mismatch(saved, given, about.where)
    columns = np.concatenate([feature.columns for feature in features])
    if np.array_equal(columns, np.arange(given.size)) and all(each.plain for each in features):
        return Inputs((), normaliser, given.size)
    return Inputs(tuple(features), normaliser, size)
