"""Writes labels to disk, part by part, so that what ends the writing loses nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as write_tensors

from agentkd import dists
from agentkd import spec as specs
from agentkd.distillation.dataset import FORMAT, MANIFEST, SCHEMA, About
from agentkd.errors import ConfigError, SpecError, WriteError
from agentkd.files import write_atomic
from agentkd.types import AnyDist, Floats, Kind

_PART = 65_536
"""Labels in a part: some megabytes, unless observations are images."""
_MOST_BYTES = 64 << 20
_HINT = (
    "The labels written before are whole and can be distilled from. Make room, or name "
    "another folder."
)


@final
class DatasetWriter:
    """Writes labels part by part. Use it in a `with` statement, which ends the last.

    Args:
        folder: An empty folder, or one to be made.
        about: Where the labels come from.
        part: Labels in a part, at most.

    Raises:
        ConfigError: If the folder holds a dataset already.
        WriteError: If the disk refuses; what was written before is whole.
    """

    def __init__(self, folder: Path, about: About, part: int = _PART) -> None:
        """Make the folder."""
        if (folder / MANIFEST).exists():
            raise ConfigError(f"{folder} holds a dataset already. Name another folder.")
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.labels = 0
        self.refused = 0
        self.episodes = 0
        self._folder, self._about = folder, about
        row = 4 * (about.spec.obs.size + 2 * dists.action_size(about.spec.action) + 3)
        self._part = max(1, min(part, _MOST_BYTES // row))
        self._kind: Kind | None = None
        self._pending: list[dict[str, NDArray[Any]]] = []
        self._waiting = 0
        self._written: list[dict[str, Any]] = []
        self._now: NDArray[np.int32] = np.empty(0, np.int32)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what waits; the dataset is complete if nothing went wrong."""
        # Where the disk has refused already, the first refusal is what is told.
        if kind is None or not issubclass(kind, WriteError):
            self._flush(complete=kind is None)

    @property
    def written(self) -> int:
        """How many labels are safe on the disk."""
        return sum(int(part["labels"]) for part in self._written)

    def add(
        self,
        obs: Floats,
        dist: AnyDist,
        reward: Floats,
        begins: NDArray[np.bool_],
        ended: NDArray[np.uint8],
    ) -> None:
        """Take one tick of all environments, in the order in which they always come.

        A row that holds NaN or infinity is counted and left out; what follows in its environment
        has another episode number then.

        Args:
            obs: Observations, (environments, obs).
            dist: The planner's answers.
            reward: What was paid for what was done there.
            begins: Where an episode begins.
            ended: How it went on.

        Raises:
            SpecError: If kind or shapes differ from the environment's or the first's.
            WriteError: If the disk refuses; what was written before is whole.
        """
        kind = dists.kind_of(dist)
        self._kind = self._kind or kind
        packed = dists.pack(dist)
        spec = self._about.spec
        shapes = (len(obs), spec.obs.size), (len(obs), dists.width(kind, spec.action))
        if kind != self._kind or (obs.shape, packed.shape) != shapes:
            raise SpecError(
                f"{kind} labels of {obs.shape} and {packed.shape} do not fit the "
                f"{self._kind} ones here, of {shapes[0]} and {shapes[1]}."
            )
        if len(self._now) != len(obs):
            self._now = np.full(len(obs), -1, np.int32)
        whole = np.isfinite(obs).all(1) & np.isfinite(packed).all(1)
        whole &= np.isfinite(reward)
        fresh = whole & (begins | (self._now < 0))
        count = int(fresh.sum())
        self._now[fresh] = np.arange(self.episodes, self.episodes + count)
        self.episodes += count
        columns: dict[str, NDArray[Any]] = {
            "obs": obs,
            "dist": packed,
            "reward": reward,
            "episode": self._now.copy(),
            "ended": ended,
        }
        # Whatever follows a row that is left out is no longer its episode's next tick.
        self._now[~whole] = -1
        self.refused += int((~whole).sum())
        self.labels += int(whole.sum())
        self._pending.append({name: each[whole] for name, each in columns.items()})
        self._waiting += int(whole.sum())
        if self._waiting >= self._part:
            self._flush(complete=False)

    def _flush(self, *, complete: bool) -> None:
        """Write what waits as one more part, then a manifest that names it."""
        if self._waiting:
            tensors = {
                name: np.concatenate([each[name] for each in self._pending])
                for name in self._pending[0]
            }
            for name in ("obs", "dist", "reward"):
                tensors[name] = np.ascontiguousarray(tensors[name], np.float32)
            data = write_tensors(tensors)
            name = f"part-{len(self._written):05d}.safetensors"
            write_atomic(self._folder / name, data, hint=_HINT)
            self._written.append(
                {
                    "file": name,
                    "labels": self._waiting,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
            )
            self._pending, self._waiting = [], 0
        text = json.dumps(self._manifest(complete), indent=1, sort_keys=True)
        write_atomic(self._folder / MANIFEST, text, hint=_HINT)

    def _manifest(self, complete: bool) -> dict[str, Any]:
        about = self._about
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "env": about.env,
            "spec": specs.to_json(about.spec),
            "kind": self._kind,
            "planner": {
                "name": about.planner,
                "refs": list(about.refs),
                "digest": about.digest,
                "parameters": about.parameters,
            },
            "seed": about.seed,
            "returns": {
                "planner": list(about.planner_returns),
                "random": list(about.random_returns),
                "eval_seed": about.eval_seed,
            },
            "collection": dict(about.more),
            "labels": self.written,
            "refused": self.refused,
            "episodes": self.episodes,
            "complete": complete,
            "parts": self._written,
        }


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path} could not be written: {error.strerror or error}. {_HINT}"
        ) from error


def clear_dataset(folder: Path) -> None:
    """Remove a dataset from a folder, its manifest first; other files stay.

    Raises:
        WriteError: If the disk refuses.
    """
    with _writing(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        for part in folder.glob("part-?????.safetensors"):
            part.unlink()
