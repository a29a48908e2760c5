"""What devices sent to a fleet's server: kept within limits, and drawn from to be labelled.

    FOLDER/knowledge/DEVICE.safetensors   its newest observations, and how hard they were
    FOLDER/knowledge/telemetry.json       the newest numbers of each device

A device may lie. It chooses states, and never what they are labelled with: that is the planner's.
So what is checked is that they fit the executor's observation, are finite and not beyond all
bounds; that no device gives more than its part; and that no number lies outside what other
devices have seen too.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from agentkd.deploy.bundle import Bundle, from_bytes
from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.files import read_file, read_tensors, write_atomic
from agentkd.fleet.notes import Note, read_note
from agentkd.fleet.office import FILES
from agentkd.transport.names import device_name
from agentkd.types import Floats
from agentkd.views import environment

FOLDER = "knowledge"
_EACH, _EACH_BYTES = 2048, 32 << 20
"""Observations of a device that are kept, and their bytes: the newest."""
_FAR = 1000.0
"""How far a number may be from the mean of what the executor was made from, in the largest of its
standard deviation, its mean, and 1."""
_LARGEST = 1 << 28
_MOST_BYTES = 1 << 30
"""Bytes that all devices together may fill."""
_SPECS = 8
_SUFFIX = ".safetensors"


@final
class Knowledge:
    """Keeps what devices send.

    Args:
        folder: The server's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder / FOLDER, folder / FILES
        self._bundles: OrderedDict[str, Bundle] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._news = False
        self.telemetry: dict[str, Mapping[str, float]] = {}
        """The newest numbers of each device."""

    def take(self, device: str, payload: bytes) -> int:
        """Keep a note; return how many observations it held.

        Raises:
            LoadError: If it is not one, does not fit the executor that it names, or there is no
                room for further devices.
            WriteError: If it cannot be written.
        """
        name, note = device_name(device), read_note(payload)
        if note.obs is None:
            self.telemetry[name], self._news = note.values, True
            return 0
        self._check(note)
        self._keep(name, note)
        return len(note.obs)

    def _check(self, note: Note) -> None:
        """Compare observations with the executor that they were hard for."""
        obs, bundle = note.obs, self._bundle(note.executor)
        assert obs is not None
        size = environment(bundle.executor.spec).obs.size
        if obs.shape[1] != size:
            raise LoadError(f"Observations of {obs.shape[1]} numbers; the executor's have {size}.")
        mean, scale = bundle.executor.mean, bundle.executor.scale
        if len(mean) != size:  # it sees a part of them
            mean, scale = np.zeros(size, np.float32), np.ones(size, np.float32)
        unit = np.maximum(np.maximum(1 / np.maximum(scale, 1e-12), np.abs(mean)), 1.0)
        far = np.abs(obs.astype(np.float64) - mean) / unit
        if far.max() > _FAR:
            raise LoadError(f"An observation lies {far.max():.3g} times too far off.")

    def _bundle(self, digest: str) -> Bundle:
        """Return an executor that this fleet has pushed."""
        if digest not in self._bundles:
            path = self._files / digest
            if not path.exists():
                raise LoadError(f"No executor {digest[:12]} was pushed to this fleet.")
            self._bundles[digest] = from_bytes(read_file(path, _LARGEST))
            while len(self._bundles) > _SPECS:
                self._bundles.popitem(last=False)
        return self._bundles[digest]

    def _keep(self, name: str, note: Note) -> None:
        path = self._folder / f"{name}{_SUFFIX}"
        assert note.obs is not None
        assert note.hardness is not None
        obs, hard = note.obs, note.hardness
        if path.exists():
            before = _read(path)
            if before[0].shape[1] == obs.shape[1]:
                obs, hard = np.concatenate([before[0], obs]), np.concatenate([before[1], hard])
        kept = max(1, min(_EACH, _EACH_BYTES // (4 * (obs.shape[1] + 1))))
        data = save({"obs": obs[-kept:], "hardness": hard[-kept:]})
        if not self._sizes and self._folder.is_dir():
            self._sizes = {
                each.name.removesuffix(_SUFFIX): each.stat().st_size
                for each in self._folder.glob(f"*{_SUFFIX}")
            }
        others = sum(self._sizes.values()) - self._sizes.get(name, 0)
        if others + len(data) > _MOST_BYTES:
            raise LoadError(
                f"{self._folder} has {others:,} bytes; at most {_MOST_BYTES:,} are kept. Label "
                "what is there, and remove it."
            )
        write_atomic(path, data)
        self._sizes[name] = len(data)

    def write_telemetry(self) -> None:
        """Write the newest numbers of each device, if there are new ones.

        Raises:
            WriteError: If they cannot be written.
        """
        if not self._news:
            return
        self._news = False
        told = json.dumps({name: dict(each) for name, each in sorted(self.telemetry.items())})
        write_atomic(self._folder / "telemetry.json", told + "\n")


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Observations to be labelled.

    Attributes:
        obs: (n, size).
        devices: By name, how many of them a device gave.
        outside: How many were left out, because a number of them lies outside what others saw.
    """

    obs: Floats
    devices: Mapping[str, int]
    outside: int


def gather(
    folder: str | Path, size: int, *, most: int = 20_000, share: float = 0.1, seed: int = 0
) -> Gathered:
    """Draw observations that devices sent, for a planner to label.

    No device gives more than `share` of them or, where fewer than 2 / `share` devices have some,
    than one part in half as many as have, rounded up: a third at most where five do. The
    extremes that so many devices saw alone are not believed: a row with a number outside of what
    the others saw is left out. Fewer than three devices cannot be compared.

    Args:
        folder: The server's folder.
        size: Numbers of an observation.
        most: How many to draw at most.
        share: The share of a device, and of the devices that may be wrong, 0 to 0.5.
        seed: Of the draw.

    Returns:
        The observations, in an order drawn at random.

    Raises:
        ConfigError: If a number is out of its range, or nothing is there or left.
        LoadError: If a file is damaged.
    """
    check_range("most", most, least=1, whole=True)
    check_range("share", share, above=0, most=0.5)
    place = Path(folder) / FOLDER
    found = {
        path.name.removesuffix(_SUFFIX): _read(path) for path in sorted(place.glob(f"*{_SUFFIX}"))
    }
    rows = {name: obs for name, (obs, _) in found.items() if obs.shape[1] == size}
    if not rows:
        raise ConfigError(
            f"{folder} holds no observations of {size} numbers. Devices send them if they are "
            "told to (--share observations) and the server takes them (serve --collect)."
        )
    low, high = _believed(list(rows.values()), share)
    kept = {name: obs[((obs >= low) & (obs <= high)).all(axis=1)] for name, obs in rows.items()}
    outside = sum(len(rows[name]) - len(kept[name]) for name in rows)
    counts = sorted((len(each) for each in kept.values() if len(each)), reverse=True)
    if not counts:
        raise ConfigError(
            f"Of {outside:,} observations of {len(rows)} devices none lies within what other "
            "devices saw. Let devices send for longer, or more devices."
        )
    # No device gives more than each of so many others did.
    cap = counts[min(math.ceil(1 / share), -(-len(counts) // 2)) - 1]
    while sum(min(each, cap) for each in counts) > most and cap > 1:
        cap -= 1
    random = np.random.default_rng(seed)
    drawn = {
        name: each[random.permutation(len(each))[:cap]] for name, each in kept.items() if len(each)
    }
    obs = np.concatenate(list(drawn.values()))
    obs = obs[random.permutation(len(obs))[:most]]
    return Gathered(obs, {name: len(each) for name, each in drawn.items()}, outside)


def _believed(rows: list[Floats], share: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return, for each number, the range that others than a share of the devices saw."""
    low = np.sort([each.min(axis=0) for each in rows], axis=0)
    high = np.sort([each.max(axis=0) for each in rows], axis=0)
    count = len(rows)
    wrong = max(1, int(share * count)) if count > 2 else 0
    return low[wrong], high[count - 1 - wrong]


def _read(path: Path) -> tuple[Floats, Floats]:
    tensors = read_tensors(read_file(path, _LARGEST))
    try:
        obs, hard = tensors["obs"], tensors["hardness"]
    except KeyError as error:
        raise LoadError(f"{path} lacks {error}. Remove it.") from error
    whole = obs.ndim == 2 and len(obs) > 0 and hard.shape == obs.shape[:1]
    numbers = obs.dtype == hard.dtype == np.float32
    if not (whole and numbers and np.isfinite(obs).all()):
        raise LoadError(f"{path} is not what a server wrote. Remove it.")
    return obs, hard
