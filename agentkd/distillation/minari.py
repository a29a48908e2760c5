"""Minari datasets as labels: recorded actions become points or smoothed choices.

What Minari 0.5 writes is read with h5py alone: `metadata.json` beside `main_data.hdf5`, in which
each group `episode_N` has `observations` (one more than there are steps), `actions`, `rewards`,
`terminations` and `truncations`. Nothing that a dataset names is imported, made or followed: no
environment, no link to another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.distillation.collector import GOES_ON, TERMINATED, TRUNCATED
from agentkd.distillation.dataset import About, Dataset, Rows
from agentkd.errors import LoadError, SpecError
from agentkd.extras import needing
from agentkd.fields import MOST_BYTES, Fields, parse_json
from agentkd.files import loading, read_file, regular
from agentkd.hdf5 import LARGEST, prove
from agentkd.planners.actions import from_actions
from agentkd.spec import (
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    Spec,
    action_spec,
    flatten,
    obs_spec,
)
from agentkd.types import Kind

METADATA, DATA = "metadata.json", "main_data.hdf5"
PREFIX = "minari:"
_PART = 65_536
_RATIO = 1000
_FLOOR = 1 << 20
"""How far compressed arrays may unpack."""
_KINDS: Mapping[type[Any], Kind] = {
    DiscreteSpec: "categorical",
    MultiDiscreteSpec: "multicategorical",
    MultiBinarySpec: "bernoulli",
    BoxSpec: "point",
}


def is_minari(path: Path) -> bool:
    """Whether a folder is one that Minari wrote."""
    return any((place / METADATA).is_file() for place in (path, path / "data"))


def local_path(name: str) -> Path:
    """Where Minari keeps a dataset of this id, such as "D4RL/door/human-v2"."""
    root = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    return Path(root).expanduser() / name.removeprefix(PREFIX)


def read_minari(path: Path, env: str = "", spec: Spec | None = None) -> Dataset:
    """Open a Minari dataset; its episodes are read later, some at a time.

    Args:
        path: Its folder, or the folder `data` in it.
        env: The environment's name; left out, the one that the dataset names.
        spec: The environment's, whose order of an observation's parts counts; left out, the
            dataset's.

    Raises:
        LoadError: If h5py or the dataset is missing, or it is damaged or not HDF5.
        SpecError: If its spaces are of a kind that has no fixed flat form.
    """
    folder = path if (path / METADATA).is_file() else path / "data"
    file = folder / DATA
    with needing("A Minari dataset"):
        h5py = import_module("h5py")
    with loading(f"{folder} holds no Minari dataset: it", keep=(SpecError,)):
        text = read_file(folder / METADATA, MOST_BYTES)
        data = parse_json(text, folder / METADATA, infinite=True)
        fields = Fields(data, METADATA)
        form = fields.text("data_format", "hdf5")
        if form == "hdf5":
            observation, action = (
                _space(parse_json(fields.text(name), name, infinite=True))
                for name in ("observation_space", "action_space")
            )
            spec = spec or Spec(obs_spec(observation), action_spec(action))
            prove(file)
            lengths, returns = _episodes(h5py, file)
    if form != "hdf5" or spec is None:
        raise LoadError(
            f"{folder} is in Minari's {form!r} format; only 'hdf5' is read. Convert it with Minari."
        )
    if not sum(lengths):
        raise LoadError(f"{folder} holds no steps.")
    named = _environment(data)
    about = About(
        env=env or named,
        spec=spec,
        planner=str(data.get("algorithm_name") or data.get("dataset_id", "unknown")),
        refs=(str(path),),
        planner_returns=tuple(returns),
        more={"minari": str(data.get("dataset_id", path.name)), "env": named},
    )
    jpeg = bool(data.get("jpeg_encoding", True))
    if jpeg and any(_is_image(each) for each in (observation, *_inside(observation))):
        raise LoadError(
            f"The images of {folder} are JPEGs, not what the policy saw. Write the "
            "dataset with jpeg_encoding=False."
        )
    groups = tuple(_grouped(lengths))
    return Dataset(
        about=about,
        kind=_KINDS[type(spec.action)],
        labels=sum(lengths),
        episodes=len(lengths),
        parts=len(groups),
        part=partial(_part, spec, file, lengths, groups),
        taken=True,
    )


def _part(
    spec: Spec, path: Path, lengths: Sequence[int], groups: Sequence[range], index: int
) -> Rows:
    """Read a group of episodes."""
    h5py = import_module("h5py")
    with loading(path), _opened(h5py, path) as file:
        pieces = [_episode(h5py, file, spec, i, lengths[i]) for i in groups[index]]
    columns = ("obs", "reward", "episode", "ended", "taken")
    joined = {name: np.concatenate([getattr(e, name) for e in pieces]) for name in columns}
    return Rows(dist=dists.stack([each.dist for each in pieces], spec.action), **joined)


def _episode(h5py: Any, file: Any, spec: Spec, index: int, count: int) -> Rows:
    group = file[f"episode_{index}"]

    def read(name: str, *parts: str) -> Any:
        return _array(h5py, group, name, count, parts)

    names = (part.name for part in spec.obs.parts)
    obs, actions = flatten(spec.obs, read("observations", *names)), read("actions")
    cut, over = (np.asarray(read(name), bool) for name in ("truncations", "terminations"))
    ended = np.where(over, TERMINATED, np.where(cut, TRUNCATED, GOES_ON))
    answers = from_actions(actions, count, spec.action)
    taken = np.zeros((count, dists.action_size(spec.action)), np.float32)
    if count > 1:
        taken[1:] = dists.coded(actions[:-1], spec.action)
    return Rows(
        obs,
        answers,
        np.asarray(read("rewards"), np.float32),
        np.full(count, index, np.int32),
        ended.astype(np.uint8),
        taken,
    )


def _array(h5py: Any, group: Any, name: str, count: int, parts: Sequence[str] = ()) -> Any:
    """Read the first `count` rows of an array, or of the parts of a dictionary or tuple."""
    outside = isinstance(group.get(name, getlink=True), h5py.ExternalLink)
    if outside:
        raise ValueError(f"{name} is a link to another file")
    found = group[name]
    if isinstance(found, h5py.Group):
        # No others: an array may lie in the file under thousands of names.
        known = [key for key in found if key.removeprefix("_index_") in parts]
        named = {key: _array(h5py, found, key, count) for key in known}
        if all(key.startswith("_index_") for key in named):
            return tuple(named[f"_index_{i}"] for i in range(len(named)))
        return named
    if found.external or found.is_virtual:
        raise ValueError(f"{name} lies in another file")
    stored = found.id.get_storage_size()
    most = _RATIO * stored + _FLOOR if stored and found.chunks else stored
    if found.dtype.kind not in "biuf" or found.nbytes > most:
        raise ValueError(
            f"{name} is {found.dtype} of shape {found.shape}, {stored} bytes are stored"
        )
    rows = found[:count]
    if len(rows) != count:
        raise ValueError(f"{name} has {len(rows)} rows instead of {count}")
    return rows


@contextmanager
def _opened(h5py: Any, path: Path) -> Iterator[Any]:
    """Open an HDF5 file through a stream that is known to be a regular file."""
    with regular(path, LARGEST) as stream, h5py.File(stream, "r") as file:
        yield file


def _episodes(h5py: Any, path: Path) -> tuple[list[int], list[float]]:
    """The lengths and the returns of all episodes, in their order."""
    lengths, returns, seen = [], [], set[int]()
    with _opened(h5py, path) as file:
        for index in range(len(file)):
            group = file[f"episode_{index}"]
            rewards = group["rewards"]
            place = h5py.h5o.get_info(rewards.id).addr
            if place in seen:
                raise ValueError(f"episode_{index} has the rewards of another episode")
            seen.add(place)
            count = int(rewards.shape[0])
            lengths.append(count)
            returns.append(float(np.sum(_array(h5py, group, "rewards", count))))
    return lengths, returns


def _grouped(lengths: Sequence[int]) -> Iterator[range]:
    """Episodes that follow one another, of some ten thousand steps together."""
    start = held = 0
    for index, length in enumerate(lengths):
        if held and held + length > _PART:
            yield range(start, index)
            start, held = index, 0
        held += length
    yield range(start, len(lengths))


def _environment(data: Mapping[str, Any]) -> str:
    """The environment's id that a dataset names, "" where it names none."""
    try:
        text = Fields(data, METADATA).text("env_spec")
        return Fields(parse_json(text, "env_spec"), "env_spec").text("id")
    except LoadError:
        return ""


def _space(data: Mapping[str, Any]) -> Any:
    """Make an object that `agentkd.spec` reads as the space it describes."""
    kind = str(data["type"])
    fields = {key: each for key, each in data.items() if key != "type"}
    if kind in ("Dict", "Tuple"):
        inside = fields.pop("subspaces")
        fields["spaces"] = (
            {str(key): _space(each) for key, each in inside.items()}
            if kind == "Dict"
            else [_space(each) for each in inside]
        )
    if kind == "Box":
        dtype = np.dtype(str(fields["dtype"]))
        if dtype.kind not in "biuf":
            raise SpecError(f"A Box of {dtype} is not of numbers.")
        for end in ("low", "high"):
            fields[end] = np.array(fields[end], dtype).reshape(fields["shape"])
        fields["dtype"] = dtype
    if kind == "MultiBinary":
        size = fields["n"]
        fields["shape"] = tuple(size) if isinstance(size, list) else (int(size),)
    return type(kind, (SimpleNamespace,), {})(**fields)


def _inside(space: Any) -> list[Any]:
    inner = getattr(space, "spaces", ())
    return list(inner.values() if isinstance(inner, dict) else inner)


def _is_image(space: Any) -> bool:
    """What Minari takes for an image and stores as a JPEG."""
    shape = getattr(space, "shape", ())
    return (
        type(space).__name__ == "Box"
        and len(shape) in (2, 3)
        and min(shape[:2]) >= 32
        and np.dtype(space.dtype) == np.uint8
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )
