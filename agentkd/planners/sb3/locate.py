"""Finds saves and their VecNormalize statistics, as people lay them out.

Saves are told by their contents, whatever their suffix. Statistics are told by their name or their
first bytes, and belong to a save by their name or by their folder.
"""

from __future__ import annotations

import base64
import binascii
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentkd.archives import opened_zip
from agentkd.errors import LoadError
from agentkd.files import loading, read_file, regular
from agentkd.planners.sb3 import safe_pickle as inert
from agentkd.planners.sb3.file import LIMIT_FILE
from agentkd.planners.sb3.vecnormalize import LIMIT
from agentkd.printable import printable

SAVES = ("planner.zip", "best_model.zip", "model.zip")
"""Of several saves in a folder the first of these is meant."""
_SAVE, _EXECUTOR = {"data", "policy.pth"}, {"manifest.json", "weights.safetensors"}
_SUFFIXES = ("", ".pkl", ".pickle", ".p")
_CUSTOMARY = re.compile(r"vec[_-]?norm", re.IGNORECASE)
_FIRST_BYTES, _CLASS = 512, b"vec_normalize"
_SAYS_STATISTICS = re.compile(
    "vecnormali[sz]e|vecnorm|vecenv|vec|venv|env|normali[sz]e|normalized|normalizer|normalization"
    "|norm|obs|rms|stats|statistics"
)
_CHECKPOINT = re.compile(r"_\d+_steps$")


def kind_of(path: Path) -> Literal["save", "executor"] | None:
    """Say what a file is by its entries; None if it is neither."""
    with loading(path):
        if not path.is_file():
            return None
    try:
        with regular(path, LIMIT_FILE) as stream, opened_zip(stream, path) as file:
            names = set(file.namelist())
    except LoadError:
        return None
    if names >= _SAVE:
        return "save"
    return "executor" if names >= _EXECUTOR else None


def find_save(path: Path) -> Path:
    """Find the save that a path means: the save, with or without its suffix, or that of a folder.

    Of several in a folder, it is the one with a customary name.

    Raises:
        LoadError: If there is none, or there are several.
    """
    zipped = Path(f"{path}.zip")
    if not path.is_dir():
        return zipped if not path.exists() and zipped.is_file() else path
    named = (path / name for name in SAVES)
    first = next((save for save in named if save.is_file()), None)
    saves = [first] if first is not None else _saves(path)
    if not saves and zipped.is_file():
        return zipped  # rl-baselines3-zoo has ENV.zip beside a folder ENV.
    if not saves:
        raise LoadError(f"No .zip in {path}; it should hold the SB3 save.")
    if len(saves) > 1:
        names = ", ".join(save.name for save in saves[:6])
        raise LoadError(f"{path} holds {len(saves)} saves ({names}); name one.")
    return saves[0]


def _saves(folder: Path) -> list[Path]:
    """List the saves in a folder, with zips that may be damaged ones."""

    def may_be(path: Path) -> bool:
        if path.suffix != ".zip":
            return kind_of(path) == "save"
        return kind_of(path) == "save" or not zipfile.is_zipfile(path)

    return sorted(each for each in folder.iterdir() if each.is_file() and may_be(each))


@dataclass(frozen=True, slots=True)
class Beside:
    """The statistics near a save.

    Attributes:
        own: The file that belongs to it, None if there is none.
        unclear: Others in its folder that belong to no other save there.
        near: All others in its folder, the folders in it and the one above.
        late: Whether `own` is not of the same step of the training.
    """

    own: Path | None
    unclear: tuple[Path, ...] = ()
    near: tuple[Path, ...] = ()
    late: bool = False


def find_statistics(save: Path) -> Beside:
    """Find the VecNormalize statistics that belong to a save.

    They have its name, or lie in a folder of its name (ENV/vecnormalize.pkl of rl-baselines3-zoo),
    or have a customary name and lie beside it (vecnormalize.pkl, vec_normalize.pkl), or lie in the
    one folder of an environment beside it.

    Raises:
        LoadError: If several belong to it alike and differ.
    """
    if kind_of(save) != "save":
        return Beside(None)
    name = re.sub(r"\.(zip|pkl|pickle|p)$", "", save.name)
    words, folder = _words(name), save.parent
    named = {path: _words(path.stem) for path in _statistics(folder)}
    theirs = [_words(each.stem) for each in folder.glob("*.zip") if each != save]
    folders = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    inside = {each: _statistics(each) for each in folders}
    claims: list[list[Path]] = [
        [path for path, known in named.items() if known == words],
        _statistics(folder / name),
        [
            path
            for path, known in named.items()
            if known and set(known) <= set(words) and known not in theirs
        ],
        [path for path, known in named.items() if not known],
    ]
    if save.name in SAVES or _CHECKPOINT.search(name):
        of_environments = (inside[each] for each in folders if _of_the_zoo(each))
        claims.append([path for paths in of_environments for path in paths])
    found = next((claim for claim in claims if claim), [])
    if len({read_file(path, LIMIT) for path in found}) > 1:
        raise LoadError(
            f"Several statistics may belong to {save}: {listed(found)}. Say which "
            "(vecnormalize=…, --vecnormalize)."
        )
    deeper = [path for paths in inside.values() for path in paths]
    near = [*named, *deeper, *_statistics(folder / "..")]
    step = _CHECKPOINT.search(name)
    return Beside(
        own=found[0] if found else None,
        unclear=tuple(p for p in named if p not in found and named[p] not in theirs),
        near=tuple(path for path in near if path not in found),
        late=bool(found and step and step[0].strip("_") not in found[0].stem),
    )


def _of_the_zoo(folder: Path) -> bool:
    """Whether a folder is one that rl-baselines3-zoo makes beside its saves."""
    return Path(f"{folder}.zip").is_file() or (folder / "config.yml").is_file()


def _statistics(folder: Path) -> list[Path]:
    """List the files of statistics in a folder."""
    try:
        files = [each for each in folder.iterdir() if each.is_file()]
    except OSError:
        return []
    known = (each for each in files if each.suffix.lower() in _SUFFIXES)
    return sorted(filter(_is_statistics, known))


def _is_statistics(path: Path) -> bool:
    if _CUSTOMARY.search(path.name):
        return kind_of(path) is None
    try:
        with regular(path, LIMIT) as stream, loading(path):
            return _CLASS in stream.read(_FIRST_BYTES)
    except LoadError:
        return False


def _words(stem: str) -> tuple[str, ...]:
    """The words of a name, without those that only say that it holds statistics."""
    words = re.split(r"[_\- ]+", stem.lower())
    return tuple(word for word in words if word and not _SAYS_STATISTICS.fullmatch(word))


Told = Literal["yes", "probably", "no", "unknown"]
"""What a save tells of whether its policy saw normalised observations."""


def saw_normalised(data: Mapping[str, Any]) -> Told:
    """Say whether a save's policy saw observations other than the environment's.

    SB3 saves the last observation as the policy saw it, and one as it was before. The latter is
    there behind VecNormalize only, which may have normalised nothing but rewards; off-policy
    algorithms have one always, and without VecNormalize it is that of the tick before.
    """
    seen, original = data.get("_last_obs"), data.get("_last_original_obs")
    if seen is None or "_last_original_obs" not in data:
        return "unknown"
    if original is None:
        return "no"
    pair = last_observations(data)
    if pair is None:
        return "unknown"
    last, raw = pair
    if np.array_equal(last, raw, equal_nan=True):
        return "no"
    if "buffer_size" not in data:
        return "yes"
    # From one tick to the next most numbers keep their magnitude; normalised ones are clipped, at
    # 10 if nothing else was said.
    size = np.maximum(np.maximum(np.abs(last), np.abs(raw)), 1e-6)
    far = np.median(np.abs(last - raw) / size) > _FAR
    # Where an episode begins they do not, but raw numbers are small there.
    begun = np.abs(last).max() <= 1.0 and np.abs(raw).max() <= _LARGE
    normal = far and np.abs(last).max() <= _CLIP and not begun
    return "probably" if normal else "unknown"


_FAR, _CLIP, _LARGE = 0.5, 10.0, 20.0


def last_observations(data: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Read the last observation as the policy saw it, and the unnormalised one, flat.

    None where the save lacks one, or they cannot be read.
    """
    pickles: Any = (data.get("_last_obs"), data.get("_last_original_obs"))
    try:
        last, raw = (
            _numbers(inert.read(base64.b64decode(each[":serialized:"]))) for each in pickles
        )
    except (LoadError, KeyError, TypeError, ValueError, binascii.Error):
        return None
    return (last, raw) if last.shape == raw.shape else None


def _numbers(observation: Any) -> Any:
    """Lay an observation out flat."""
    if isinstance(observation, Mapping):
        parts = [np.ravel(observation[key]) for key in sorted(observation)]
        return np.concatenate(parts).astype(np.float64)
    return np.ravel(observation).astype(np.float64)


def listed(paths: Iterable[Path]) -> str:
    """Name some files for a message."""
    return ", ".join(printable(str(path)) for path in islice(paths, 4))
