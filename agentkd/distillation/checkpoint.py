"""Checkpoints of a distillation: tensors and labels, no code.

The newest lies in the folder, the one before it in the folder `before`. Each file is written under
another name first, so that a kill or a full disk at any moment leaves a whole checkpoint.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from agentkd.archives import load_tensors
from agentkd.distillation.distiller import Distiller
from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.fields import Fields
from agentkd.files import loading, read_file, write_atomic, write_files
from agentkd.printable import logger

log = logger(__name__)

_STATE = "distiller.pt"
_LABELS = "labels.npz"
_LARGEST = 1 << 32
"""Bytes of state that are read at most."""
_BEFORE = "before"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is kept beside the distiller's own state.

    Attributes:
        planner: The planner's digest, "" where there is none.
        seconds: How long it has learnt.
    """

    planner: str = ""
    seconds: float = 0.0


def save_checkpoint(folder: Path, distiller: Distiller, checkpoint: Checkpoint) -> None:
    """Write the distiller's state and its labels to `folder`.

    Raises:
        WriteError: If the disk refuses; an earlier checkpoint stays as it was.
    """
    state = {**distiller.state(), "made_of": _made_of(distiller), **asdict(checkpoint)}
    try:
        for name in (_LABELS, _STATE):
            if (folder / name).exists():
                _keep(folder / name, folder / _BEFORE / name)
        write_files(
            {
                folder / _LABELS: distiller.buffer.save,
                folder / _STATE: lambda path: torch.save(state, path),
            },
            hint="Make room; --resume goes on from there.",
        )
    except RuntimeError as error:  # torch's, on a full disk
        raise WriteError(
            f"{folder} could not be written: {error}. The checkpoint before is whole."
        ) from error


def _keep(path: Path, place: Path) -> None:
    """Give a file a second place, as a link where the file system has them."""

    def link(fresh: Path) -> None:
        try:
            fresh.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, fresh)

    write_atomic(place, link)


def _made_of(distiller: Distiller) -> str:
    """What must be the same for weights to mean the same."""
    executor = distiller.freeze()
    return f"{executor.architecture}, {executor.head}, {executor.spec}"


def go_on(folder: Path | None, distiller: Distiller, expected: Checkpoint) -> float:
    """Bring a distiller to where an earlier run ended or was killed; return its seconds.

    A run that was killed before its first checkpoint is begun anew.

    Raises:
        ConfigError: If there is no folder.
        LoadError: As `load_checkpoint`.
    """
    if folder is None:
        raise ConfigError("resume needs the checkpoint's folder.")
    if not any((place / _STATE).exists() for place in (folder, folder / _BEFORE)):
        log.warning("%s holds no checkpoint yet: learning begins anew.", folder)
        return 0.0
    return load_checkpoint(folder, distiller, expected).seconds


def load_checkpoint(
    folder: Path, distiller: Distiller, expected: Checkpoint | None = None
) -> Checkpoint:
    """Bring a distiller to where `save_checkpoint` left it.

    Where the newest checkpoint is damaged or half written, the one before is used. The distiller
    is one of the same executor, without labels; `expected` has to be of the same planner, if both
    know theirs.

    Raises:
        LoadError: If there is no checkpoint, it is damaged, or of another executor, environment or
            planner.
    """
    try:
        return _load(folder, distiller, expected)
    except LoadError as error:
        try:
            found = _load(folder / _BEFORE, distiller, expected)
        except LoadError:
            raise error from None
        log.warning("%s The checkpoint before it is used.", error)
        return found


def _load(folder: Path, distiller: Distiller, expected: Checkpoint | None) -> Checkpoint:
    path = folder / _STATE
    if not path.exists():
        raise LoadError(f"{folder} holds no checkpoint: {_STATE} is missing.")
    state = load_tensors(read_file(path, _LARGEST), str(path))
    fields = Fields(state, str(path))
    mine = _made_of(distiller)
    made = fields.text("made_of")
    if made != mine:
        raise LoadError(
            f"{path} is of an executor {made:.400}; this one is {mine}. "
            "Give the same --executor and environment, or another folder."
        )
    planner = expected.planner if expected is not None else ""
    found, seconds = fields.text("planner"), fields.number("seconds")
    if planner and found and found != planner:
        raise LoadError(
            f"{path} was learnt from another planner, of digest {found[:12]} instead "
            f"of {planner[:12]}. Give the same --planner, or another folder."
        )
    if seconds < 0:
        raise LoadError(f"{path} was learnt for {seconds} s.")
    with loading(path):
        distiller.restore(state)
    distiller.load_labels(folder / _LABELS)
    return Checkpoint(found, seconds)
