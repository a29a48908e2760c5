"""Labels on disk: a folder with a manifest and parts that are written one by one.

    manifest.json            what they are, where they come from, and the parts' SHA-256
    part-00000.safetensors   obs, dist, reward, episode, ended: one row a label
    part-00001.safetensors   …

The manifest is replaced whole after each part, so whatever ends the writing, what it
names is there. No more than a part is held in memory. `DatasetWriter` writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, final, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from agentkd import dists
from agentkd import spec as specs
from agentkd.dists import Kind
from agentkd.errors import AgentkdError, LoadError
from agentkd.printable import logger
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats

log = logger(__name__)

FORMAT, SCHEMA = "agentkd-labels", 1
MANIFEST = "manifest.json"
_LARGEST = 1 << 30
"""Bytes of one part that are read at most."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Labels with what is known of their episodes; all arrays have one row for each.

    Attributes:
        obs: Observations, (n, obs).
        dist: The planner's answers.
        reward: What was paid for what was done there, (n,).
        episode: The number of the episode, (n,); the rows of one are in its order. A
            number never comes back once another row of its episode was left out.
        ended: How it went on: `GOES_ON`, `TERMINATED`, `TRUNCATED` of the collector.
    """

    obs: Floats
    dist: ActionDist
    reward: Floats
    episode: NDArray[np.int32]
    ended: NDArray[np.uint8]

    def __len__(self) -> int:
        """How many labels these are."""
        return len(self.obs)


@dataclass(frozen=True, slots=True)
class About:
    """Where labels come from.

    Attributes:
        env: The environment's name.
        spec: The environment's.
        planner: The planner's name, such as "TQC".
        refs: References to it.
        digest: The SHA-256 of its files, "" where there is none.
        parameters: How many trained numbers of it act; 0 if unknown.
        seed: Of resets and draws.
        planner_returns: What it got on the evaluation's seeds, or, where these were
            not measured, in the episodes themselves; () if unknown.
        random_returns: What random actions got on the same seeds.
        eval_seed: The first of these seeds.
        more: How they were collected, as JSON values.
    """

    env: str
    spec: Spec
    planner: str = ""
    refs: tuple[str, ...] = ()
    digest: str = ""
    parameters: int = 0
    seed: int = 0
    planner_returns: tuple[float, ...] = ()
    random_returns: tuple[float, ...] = ()
    eval_seed: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


class Dataset(Protocol):
    """Labels that lie somewhere, in parts that fit memory."""

    @property
    def about(self) -> About:
        """Where they come from."""
        ...

    @property
    def kind(self) -> Kind:
        """The kind of their distributions."""
        ...

    @property
    def labels(self) -> int:
        """How many there are."""
        ...

    @property
    def episodes(self) -> int:
        """How many episodes they are of."""
        ...

    @property
    def parts(self) -> int:
        """How many parts there are."""
        ...

    def part(self, index: int) -> Rows:
        """Read a part.

        Raises:
            LoadError: If it is damaged.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class FolderDataset:
    """What a `DatasetWriter` wrote. It is a `Dataset`.

    Attributes:
        folder: Where it lies.
        complete: Whether its writing came to an end; what is there is whole anyway.
        refused: Labels that were left out because they held NaN or infinity.
    """

    folder: Path
    about: About
    kind: Kind
    labels: int
    episodes: int
    complete: bool
    refused: int
    _entries: tuple[Mapping[str, Any], ...]

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return len(self._entries)

    def part(self, index: int) -> Rows:
        """Read a part, after checking every byte of it.

        Raises:
            LoadError: If it is damaged.
        """
        entry = self._entries[index]
        path = self.folder / entry["file"]
        remedy = "Record it anew, or remove that file: the others are read without it."
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise LoadError(
                    f"{path} is not what was written: its SHA-256 differs. {remedy}"
                )
            return self._rows(load_tensors(data))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise LoadError(f"{path} cannot be read: {error}. {remedy}") from error

    def _rows(self, tensors: Mapping[str, NDArray[Any]]) -> Rows:
        spec = self.about.spec
        obs, packed = tensors["obs"], tensors["dist"]
        wide = dists.width(self.kind, spec.action)
        if obs.shape[1:] != (spec.obs.size,) or packed.shape[1:] != (wide,):
            raise ValueError(f"labels of {obs.shape} and {packed.shape}")
        columns = tensors["reward"], tensors["episode"], tensors["ended"]
        if {len(each) for each in (packed, *columns)} != {len(obs)}:
            raise ValueError("columns of different lengths")
        return Rows(obs, dists.unpack(self.kind, packed, spec.action), *columns)


def read_dataset(folder: Path) -> FolderDataset:
    """Open what a `DatasetWriter` wrote; the parts are read one by one, later.

    A part that is missing is left out, with a warning in the log.

    Raises:
        LoadError: If there is no manifest, it is damaged, or it names no labels.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_bytes())
        found = data["format"], data["schema"]
        kind, entries = data["kind"], tuple(_present(folder, data["parts"]))
        dataset = FolderDataset(
            folder=folder,
            about=_about(data),
            kind=cast(Kind, kind),
            labels=sum(int(entry["labels"]) for entry in entries),
            episodes=int(data["episodes"]),
            complete=bool(data["complete"]),
            refused=int(data["refused"]),
            _entries=entries,
        )
    except LoadError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AgentkdError) as error:
        raise LoadError(
            f"{folder} holds no dataset: {error!r}. `agentkd record` writes one."
        ) from error
    if found != (FORMAT, SCHEMA):
        raise LoadError(
            f"{path} is a {found[0]!r} of schema {found[1]}; this agentkd reads "
            f"{FORMAT!r} of schema {SCHEMA}."
        )
    if not dataset.labels or kind not in get_args(Kind):
        raise LoadError(f"{folder} holds no labels. Record it anew.")
    return dataset


def _about(data: Mapping[str, Any]) -> About:
    planner, returns = data["planner"], data["returns"]
    return About(
        env=str(data["env"]),
        spec=specs.from_json(data["spec"]),
        planner=str(planner["name"]),
        refs=tuple(map(str, planner["refs"])),
        digest=str(planner["digest"]),
        parameters=int(planner["parameters"]),
        seed=int(data["seed"]),
        planner_returns=tuple(map(float, returns["planner"])),
        random_returns=tuple(map(float, returns["random"])),
        eval_seed=int(returns["eval_seed"]),
        more=dict(data["collection"]),
    )


def _present(
    folder: Path, entries: Sequence[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    for entry in entries:
        name = str(entry["file"])
        if Path(name).name != name or int(entry["bytes"]) > _LARGEST:
            raise LoadError(f"{folder / MANIFEST} names {name!r}: not a part of it.")
        if (folder / name).is_file():
            yield entry
        else:
            log.warning("%s is missing; it is left out.", folder / name)
