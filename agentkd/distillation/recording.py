"""Records a planner's labels: environments are stepped, labels are written, nothing is learnt."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as write_tensors

from agentkd import dists, environments, spec_json
from agentkd.distillation.dataset import FORMAT, MANIFEST, SCHEMA, About
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task
from agentkd.errors import AgentkdError, ConfigError, SpecError, WriteError, check_range
from agentkd.executors.architecture import initial
from agentkd.files import write_atomic
from agentkd.interrupt import ctrl_c
from agentkd.types import AnyDist, Floats, Kind, Policy, RecurrentPolicy

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
        self._taken = False
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

    def add(
        self,
        obs: Floats,
        dist: AnyDist,
        reward: Floats,
        begins: NDArray[np.bool_],
        ended: NDArray[np.uint8],
        taken: Floats | None = None,
    ) -> None:
        """Take one tick of all environments, in the order in which they always come.

        A row that holds NaN or infinity is counted and left out; what follows in its environment
        has another episode number then. The columns are those of `dataset.Rows`; `begins` says
        where an episode begins, and `taken` comes always or never.

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
        self._taken = taken is not None
        if taken is not None:
            whole &= np.isfinite(taken).all(1)
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
            **({} if taken is None else {"taken": taken}),
        }
        # The row after one that is left out is no longer its episode's next tick.
        self._now[~whole] = -1
        kept = int(whole.sum())
        self.refused += len(obs) - kept
        self.labels += kept
        self._pending.append({name: each[whole] for name, each in columns.items()})
        self._waiting += kept
        if self._waiting >= self._part:
            self._flush(complete=False)

    def flush(self) -> None:
        """Write what waits as one more part; nothing if nothing waits.

        Raises:
            WriteError: If the disk refuses; what was written before is whole, what waited is lost.
        """
        if self._waiting:
            self._flush(complete=False)

    def _flush(self, *, complete: bool) -> None:
        """Write what waits as one more part, then a manifest that names it."""
        # What the disk refuses does not wait, as it would fill the memory.
        pending, self._pending = self._pending, []
        waiting, self._waiting = self._waiting, 0
        if waiting:
            tensors = {
                name: np.concatenate([each[name] for each in pending]) for name in pending[0]
            }
            for name in {"obs", "dist", "reward", "taken"} & set(tensors):
                tensors[name] = np.ascontiguousarray(tensors[name], np.float32)
            data = write_tensors(tensors)
            name = f"part-{len(self._written):05d}.safetensors"
            write_atomic(self._folder / name, data, hint=_HINT)
            self._written.append(
                {
                    "file": name,
                    "labels": waiting,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
            )
        text = json.dumps(self._manifest(complete), indent=1, sort_keys=True)
        write_atomic(self._folder / MANIFEST, text, hint=_HINT)

    def _manifest(self, complete: bool) -> dict[str, Any]:
        about = self._about
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "env": about.env,
            "spec": spec_json.to_json(about.spec),
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
            "labels": sum(part["labels"] for part in self._written),
            "refused": self.refused,
            "episodes": self.episodes,
            "complete": complete,
            "taken": self._taken,
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


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of recording.

    Attributes:
        labels: How many were kept.
        refused: How many held NaN or infinity and were left out.
        episodes: How many episodes they are of.
        seconds: How long it took.
        interrupted: Whether it was ended before its budget.
        fault: The failure of planner or environment that ended it; "" otherwise.
    """

    labels: int
    refused: int
    episodes: int
    seconds: float
    interrupted: bool
    fault: str


class _Restless(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces a share `chance` of the actions, 0 to 1, by random ones.

    The planner then labels states that it would not have come to by itself: Rusu et al. 2015,
    "Policy distillation", let 5 % of the actions be random.
    """

    def __init__(self, env: Any, chance: float, seed: int) -> None:
        super().__init__(env)
        self._chance = chance
        self.executed: Any = None
        self._random = np.random.default_rng(seed)
        env.action_space.seed(seed)

    def step(self, action: Any) -> Any:
        if self._random.random() < self._chance:
            action = self.env.action_space.sample()
        self.executed = action
        return self.env.step(action)


def record(
    task: Task,
    writer: DatasetWriter,
    *,
    labels: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    chance: float = 0.0,
    executor: Policy | RecurrentPolicy | None = None,
    collection: CollectionOptions | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> Recorded:
    """Write the planner's labels of the states that environments visit.

    Args:
        task: The planner labels, and drives by draws from its answers.
        writer: Where they go.
        labels: How many to record.
        seconds: How long to record.
        seed: For resets and draws.
        chance: The share of ticks at which a random action is done instead, 0 to 1.
        executor: Drives where the planner does not.
        collection: How the planner's share falls; without an executor it drives alone.
        watch: Called now and then, with the labels so far and labels a second.

    Returns:
        The result. Ctrl-C ends it early, and so does a planner or environment that fails after the
        first label; what was recorded until then is kept.

    Raises:
        ConfigError: If a number is invalid.
        WriteError: If the disk refuses; what was written before is whole.
        AgentkdError: If planner or environment fail before the first label.
    """
    check_recording(labels, seconds, chance)
    way = collection or CollectionOptions()
    begin = looked = time.monotonic()
    made = iter(np.random.default_rng([seed, 1]).integers(2**31, size=way.environments))

    restless: list[_Restless] = []

    def make() -> Any:
        one = environments.make(task.env)
        if not chance:
            return one
        restless.append(_Restless(one, chance, int(next(made))))
        return restless[-1]

    def over() -> bool:
        if labels is not None and writer.labels + writer.refused >= labels:
            return True
        return seconds is not None and time.monotonic() - begin >= seconds

    collector = task.collector(way, seed, make)
    collector.note_actions()
    # A linear executor drives where the planner's answer is not finite.
    driver = executor or initial("linear", task.spec)
    fault, interrupted = "", False
    try:
        with ctrl_c() as asked:
            while not interrupted and not over():
                share = way.share(writer.labels) if executor else 1.0
                tick = collector.step(driver, share)
                if restless:
                    collector.executed([each.executed for each in restless])
                row = tick.obs, tick.dist, tick.reward, tick.begins, tick.ended
                writer.add(*row, tick.taken)
                now = time.monotonic()
                if watch is not None and now - looked > 0.5:
                    looked = now
                    watch(writer.labels, writer.labels / (now - begin))
                interrupted = asked()
    except WriteError:
        raise
    except AgentkdError as error:
        if not writer.labels:
            raise
        fault, interrupted = f"{type(error).__name__}: {error}", True
    finally:
        collector.close()
    return Recorded(
        labels=writer.labels,
        refused=writer.refused,
        episodes=writer.episodes,
        seconds=time.monotonic() - begin,
        interrupted=interrupted,
        fault=fault,
    )


def check_recording(labels: int | None, seconds: float | None, chance: float) -> None:
    """Check the numbers of `record`.

    Raises:
        ConfigError: If one is invalid.
    """
    if labels is None and seconds is None:
        raise ConfigError("A recording needs an end: give labels or seconds.")
    check_range("labels", labels, above=0, whole=True)
    check_range("seconds", seconds, above=0)
    check_range("chance", chance, least=0, most=1)
