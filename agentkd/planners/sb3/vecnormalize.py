"""VecNormalize statistics: what an SB3 agent saw instead of the raw observation.

SB3 keeps them beside the model, pickled. They are read inertly: nothing is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import LoadError, NumbersError, SpecError
from agentkd.files import loading, read_file
from agentkd.planners.sb3 import safe_pickle as inert
from agentkd.spec import ObsSpec
from agentkd.types import Floats

Doubles = NDArray[np.float64]
LIMIT = 256 * 2**20
"""Bytes of statistics that are read at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """The mean and variance of each normalised part of the observation, by the part's name.

    The name is "" for the whole. What is normalised stays within [-clip, clip]; `epsilon` is added
    to the variance, and `digest` is the SHA-256 of the file, "" without one.
    """

    parts: Mapping[str, tuple[Doubles, Doubles]]
    clip: float
    epsilon: float
    digest: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """clip((obs - mean) / deviation), on flat observations (batch, size)."""

    mean: Doubles
    deviation: Doubles
    clip: Doubles | float

    def __call__(self, obs: Floats) -> Floats:
        """Normalise in double precision, as SB3 does; give float32."""
        with np.errstate(over="ignore"):  # clipped at once
            scaled = (obs - self.mean) / self.deviation
        np.minimum(scaled, self.clip, out=scaled)
        return np.maximum(scaled, -self.clip, out=scaled).astype(np.float32)


def _get(found: Any, name: str, default: Any = None) -> Any:
    fields = found.state if isinstance(found, inert.Record) else vars(found)
    return fields.get(name, default)


def _array(value: Any, where: str) -> Doubles:
    # Lists in lists, each of which holds another twice, would never end.
    if not isinstance(value, (np.ndarray, np.number, int, float)):
        raise LoadError(f"{where}: statistics that are a {type(value).__name__}.")
    return np.asarray(value, np.float64)


def _moments(rms: Any, where: str) -> tuple[Doubles, Doubles]:
    mean, var = (_array(_get(rms, n), where) for n in ("mean", "var"))
    if mean.shape != var.shape:
        raise LoadError(f"{where}: mean {mean.shape} and variance {var.shape} differ.")
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise NumbersError(f"{where}: statistics with NaN, infinity or below 0.")
    return mean, var


def statistics_of(found: Any, where: str, digest: str = "") -> Statistics | None:
    """Take the statistics from a VecNormalize or its inert record; None if it is for rewards only.

    Raises:
        LoadError: If it is something else.
        NumbersError: If a number is NaN or infinite.
    """
    if type(found).__name__ != "VecNormalize":
        raise LoadError(
            f"{where} holds a {type(found).__name__}, not VecNormalize statistics. "
            "Write them with vec_env.save(path)."
        )
    if not _get(found, "norm_obs", default=True):
        return None
    rms = _get(found, "obs_rms")
    if isinstance(rms, dict):
        keys = _get(found, "norm_obs_keys") or list(rms)
        if not all(isinstance(key, str) and key in rms for key in keys):
            raise LoadError(f"{where}: its parts do not have the names that it says.")
        parts = {str(key): _moments(rms[key], where) for key in keys}
    elif rms is None:
        raise LoadError(f"{where} holds no statistics of observations.")
    else:
        parts = {"": _moments(rms, where)}
    clip, epsilon = (float(_get(found, n)) for n in ("clip_obs", "epsilon"))
    least = min(float(var.min(initial=np.inf)) for _, var in parts.values())
    if not (clip > 0 and 0 <= epsilon < np.inf and least + epsilon > 0):
        raise NumbersError(
            f"{where}: a clip of {clip} and an epsilon of {epsilon} for variances from {least} on."
        )
    return Statistics(parts, clip, epsilon, digest)


def _unpickled(raw: bytes, path: Path) -> Any:
    import pickle

    try:
        return pickle.loads(raw)  # noqa: S301 only where the caller allowed it by name
    except Exception as error:  # the file's own code may raise anything
        raise LoadError(f"{path} could not be unpickled: {error!r}.") from error


def read_statistics(path: Path, *, allow_pickle: bool = False) -> Statistics | None:
    """Read what `VecNormalize.save` wrote; None if it normalises rewards only.

    With `allow_pickle`, what cannot be read otherwise is unpickled, which runs whatever code it
    holds.

    Raises:
        LoadError: If it is missing, damaged or something else.
        UnsafeError: If it could only be read by running its code.
        NumbersError: If a number is NaN or infinite.
    """
    raw = read_file(path, LIMIT)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        found = inert.read(raw)
    except LoadError as error:
        if not allow_pickle:
            raise type(error)(f"{path}: {error}") from error
        found = _unpickled(raw, path)
    with loading(path, keep=(NumbersError,)):
        return statistics_of(found, str(path), digest)


def _laid_out(values: Doubles, shape: tuple[int, ...], size: int, name: str) -> Doubles:
    """Bring a part's statistics to the environment's layout, flat."""
    channels_first = (shape[-1:] + shape[:-1]) if len(shape) == 3 else None
    if values.shape != shape and values.shape == channels_first:
        return values.transpose(1, 2, 0).ravel()
    if values.shape not in (shape, (size,)):
        what = f"the observation's part {name!r}" if name else "the observation"
        raise SpecError(
            f"The VecNormalize statistics have shape {values.shape}, {what} has "
            f"{shape or size}. They belong to another environment."
        )
    return values.ravel()


def normaliser(statistics: Statistics, spec: ObsSpec) -> Normaliser:
    """Make the function that normalises flat observations; the statistics have to fit them."""
    known = {part.name for part in spec.parts} if spec.layout == "dict" else {""}
    unknown = sorted(set(statistics.parts) - known)
    if unknown and list(statistics.parts) != [""]:
        raise SpecError(
            f"The VecNormalize statistics are of {unknown}; the observation has "
            f"{sorted(known)}. They belong to another environment."
        )
    mean, var = np.zeros(spec.size), np.ones(spec.size)
    clip = np.full(spec.size, np.inf)
    if "" in statistics.parts:
        shape = spec.parts[0].shape if len(spec.parts) == 1 else (spec.size,)
        spans = {"": (0, shape, spec.size)}
    else:
        spans, start = {}, 0
        for part in spec.parts:
            spans[part.name] = (start, part.shape, part.size)
            start += part.size
    for name, moments in statistics.parts.items():
        start, shape, size = spans[name]
        span = slice(start, start + size)
        mean[span], var[span] = (_laid_out(m, shape, size, name) for m in moments)
        var[span] += statistics.epsilon
        clip[span] = statistics.clip
    whole = bool((clip == statistics.clip).all())
    return Normaliser(mean, np.sqrt(var), statistics.clip if whole else clip)
