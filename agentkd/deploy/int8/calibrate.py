"""Observations to calibrate integers with: from an executor's file, or from another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from agentkd.archives import opened_zip, read_array
from agentkd.deploy.bundle import Bundle
from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.int8.reference import Quantised
from agentkd.deploy.vectors import beginnings, vectors
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.executor import Executor
from agentkd.files import loading, regular
from agentkd.types import Floats

_LARGEST = 1 << 31
"""Bytes of observations that are read at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Observations of episodes."""

    obs: Floats
    """One after another, (n, obs)."""
    starts: Floats
    """1 where an episode begins, else 0, (n,)."""
    said: str
    """Where they come from, in words."""


def held(bundle: Bundle) -> Seen | None:
    """Those of its own episodes that an executor's file was proved by; None without.

    The drawn ones beside them are taken too: they lie where an executor seldom goes.
    """
    obs = np.asarray(bundle.golden["obs"], np.float32)
    if np.array_equal(obs, vectors(bundle.executor)["obs"]):
        return None
    starts = np.asarray(bundle.golden["starts"], np.float32)
    return Seen(obs, starts, f"{len(obs)} observations of the file's own")


def integer_form(bundle: Bundle, seen: Seen | None = None) -> Quantised:
    """The integer form of an executor's file: the one that is exported.

    It is calibrated with what was seen, by default with what the file holds of its own episodes,
    else with observations that are drawn.

    Raises:
        SpecError: If it has a layer without an integer form.
    """
    chosen = seen or held(bundle)
    return quantise(bundle.executor, *((chosen.obs, chosen.starts) if chosen else ()))


def read(path: Path, executor: Executor) -> Seen:
    """Read observations from a .npy file, (n, obs), or "obs" and "starts" of a .npz.

    Without "starts" they are one episode.

    Raises:
        ConfigError: If the file cannot be read, or they do not fit the executor.
    """
    try:
        with regular(path, _LARGEST) as stream, loading(path):
            obs, starts = _arrays(stream)
    except LoadError as error:
        raise ConfigError(
            f"{path} holds no observations: {error} Save them by numpy.save, (n, obs)."
        ) from error
    begins = beginnings([obs]) if starts is None else starts
    size = executor.spec.obs.size
    if obs.ndim != 2 or obs.shape[1] != size or begins.shape != (len(obs),):
        raise ConfigError(
            f"{path} holds observations of shape {obs.shape} and {begins.shape} "
            f"starts; (n, {size}) and (n,) were expected."
        )
    return Seen(obs, begins, f"{len(obs)} observations of {path}")


def _arrays(stream: IO[bytes]) -> tuple[Floats, Floats | None]:
    """Read observations, and starts where they are told."""
    zipped = stream.read(2) == b"PK"
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if not zipped:
        return np.atleast_1d(read_array(stream, size)).astype(np.float32), None
    with opened_zip(stream, "it") as file:
        found = {}
        for name in file.namelist():
            with file.open(name) as entry:
                found[name] = read_array(entry, file.getinfo(name).file_size)
    starts = found.get("starts.npy")
    obs = np.atleast_1d(found["obs.npy"]).astype(np.float32)
    return obs, None if starts is None else starts.astype(np.float32)


def episodes(pieces: list[Floats]) -> Seen:
    """Put episodes, each (steps, obs), one after another."""
    obs = np.concatenate(pieces).astype(np.float32)
    return Seen(obs, beginnings(pieces), f"{len(obs)} observations of {len(pieces)} episodes")
