"""Labels on disk: a folder with a manifest and parts that are written one by one.

    manifest.json            what they are, where they come from, and the parts' SHA-256
    part-00000.safetensors   obs, dist, reward, episode, ended, taken: one row a label
    part-00001.safetensors   …

The manifest is replaced whole after each part, so whatever ends the writing, what it names is
there. No more than a part is held in memory. `DatasetWriter` writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists, spec_json
from agentkd.dists import KINDS
from agentkd.errors import LoadError
from agentkd.fields import MOST_BYTES, Fields, parse_json
from agentkd.files import loading, read_file, read_tensors
from agentkd.printable import logger
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Kind

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
        reward: The reward for the action taken there, (n,).
        episode: The number of the episode, (n,); the rows of one are in its order. A number never
            comes back once another row of its episode was left out.
        ended: How it went on: `GOES_ON`, `TERMINATED`, `TRUNCATED` of the collector.
        taken: The action that was executed at the tick before, (n, numbers), as
            `agentkd.dists.coded` writes it; None where that is not known.
    """

    obs: Floats
    dist: ActionDist
    reward: Floats
    episode: NDArray[np.int32]
    ended: NDArray[np.uint8]
    taken: Floats | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def seen(self, index: NDArray[np.int64], *, taken: bool) -> Floats:
        """Return observations, with the actions before them if `taken`."""
        if not taken or self.taken is None:
            return self.obs[index]
        return np.concatenate([self.obs[index], self.taken[index]], axis=1)


@dataclass(frozen=True, slots=True)
class About:
    """Where labels come from.

    Attributes:
        planner: The planner's name, such as "TQC".
        refs: References to it.
        digest: The SHA-256 of its files, "" where there is none.
        parameters: How many trained numbers of it act; 0 if unknown.
        seed: Of resets and draws.
        planner_returns: Its returns on the evaluation's seeds, or, where these were not measured,
            in the episodes themselves; () if unknown.
        random_returns: Those of random actions on the same seeds.
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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labels in parts that fit memory; `labels`, `episodes` and `parts` are counts.

    Attributes:
        part: Reads a part by its number; raises LoadError if it is damaged.
        complete: Whether its writing came to an end; what is there is whole anyway.
        refused: Labels that were left out because they held NaN or infinity.
        taken: Whether it says which actions were executed.
    """

    about: About
    kind: Kind
    labels: int
    episodes: int
    parts: int
    part: Callable[[int], Rows]
    complete: bool = True
    refused: int = 0
    taken: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    labels: int
    sha256: str


def _read(kind: Kind, spec: Spec, taken: bool, entries: Sequence[_Part], index: int) -> Rows:
    """Read a part, after checking every byte of it."""
    try:
        return _rows(kind, spec, taken, entries[index])
    except LoadError as error:
        raise LoadError(
            f"{error} Record it anew, or remove that file: the others are read without it."
        ) from error


def _rows(kind: Kind, spec: Spec, taken: bool, entry: _Part) -> Rows:
    data = read_file(entry.path, _LARGEST)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise LoadError(f"{entry.path} is not what was written: its SHA-256 differs.")
    count = entry.labels
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "obs": (np.float32, (count, spec.obs.size)),
        "dist": (np.float32, (count, dists.width(kind, spec.action))),
        "reward": (np.float32, (count,)),
        "episode": (np.int32, (count,)),
        "ended": (np.uint8, (count,)),
    }
    if taken:
        shapes["taken"] = np.float32, (count, dists.action_size(spec.action))
    with loading(entry.path):
        tensors = read_tensors(data)
        columns: dict[str, Any] = {name: tensors[name] for name in shapes}
        for name, (dtype, shape) in shapes.items():
            found = columns[name]
            if found.shape != shape or found.dtype != dtype:
                raise LoadError(f"{name} is {found.dtype} of {found.shape}, not {shape}")
        columns["dist"] = dists.unpack(kind, columns["dist"], spec.action)
        return Rows(**columns)


def read_dataset(folder: Path) -> Dataset:
    """Open what a `DatasetWriter` wrote; the parts are read one by one, later.

    A part that is missing is left out, with a warning in the log.

    Raises:
        LoadError: If there is no manifest, it is damaged, or it names no labels.
    """
    path = folder / MANIFEST
    try:
        text = read_file(path, MOST_BYTES)
        fields = Fields(parse_json(text, path, infinite=True), str(path))
        found = fields.text("format"), fields.whole("schema")
        kind = cast(Kind, fields.choice("kind", KINDS))
        with loading(path):
            entries = tuple(_present(folder, fields))
            about = _about(fields)
            dists.check_kind(kind, about.spec.action)
    except LoadError as error:
        raise LoadError(
            f"{folder} holds no dataset: {error} `agentkd record` writes one."
        ) from error
    if found != (FORMAT, SCHEMA):
        raise LoadError(
            f"{path} is a {found[0]!r} of schema {found[1]}; this agentkd reads "
            f"{FORMAT!r} of schema {SCHEMA}."
        )
    if not entries:
        raise LoadError(f"{folder} holds no labels. Record it anew.")
    taken = fields.flag("taken", False)
    return Dataset(
        about=about,
        kind=kind,
        labels=sum(entry.labels for entry in entries),
        episodes=fields.whole("episodes"),
        parts=len(entries),
        part=partial(_read, kind, about.spec, taken, entries),
        complete=fields.flag("complete"),
        refused=fields.whole("refused"),
        taken=taken,
    )


def _about(fields: Fields) -> About:
    planner, returns = fields.fields("planner"), fields.fields("returns")
    return About(
        env=fields.text("env"),
        spec=spec_json.from_json(fields.get("spec")),
        planner=planner.text("name"),
        refs=planner.texts("refs"),
        digest=planner.text("digest"),
        parameters=planner.whole("parameters"),
        seed=fields.whole("seed", least=-(2**63)),
        planner_returns=returns.numbers("planner"),
        random_returns=returns.numbers("random"),
        eval_seed=returns.whole("eval_seed", least=-(2**63)),
        more=dict(fields.get("collection")),
    )


def _present(folder: Path, fields: Fields) -> Iterator[_Part]:
    """Give the parts that are there."""
    for entry in fields.objects("parts"):
        name, size = entry.text("file"), entry.whole("bytes", most=_LARGEST)
        # A label has more than one byte.
        labels = entry.whole("labels", least=1, most=size)
        part = _Part(folder / name, labels, entry.text("sha256"))
        if Path(name).name != name:
            raise LoadError(f"{folder / MANIFEST} names {name!r}: not a part of it.")
        if part.path.is_file():
            yield part
        else:
            log.warning("%s is missing; it is left out.", part.path)
