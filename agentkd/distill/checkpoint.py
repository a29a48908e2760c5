"""What a distillation leaves behind to go on later: tensors and labels, no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentkd.distill.distiller import Distiller
from agentkd.errors import AgentkdError, LoadError

_STATE = "distiller.pt"
_LABELS = "labels.npz"


class CheckpointError(AgentkdError):
    """A checkpoint that could not be written."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is kept beside the distiller's own state.

    Attributes:
        seconds: How long it has learnt.
    """

    seconds: float


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(fresh)
        fresh.replace(path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} could not be written: {error}. What was there before is whole."
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def save_checkpoint(folder: Path, distiller: Distiller, checkpoint: Checkpoint) -> None:
    """Leave the distiller's state and its labels in `folder`.

    Raises:
        CheckpointError: If the disk refuses; an earlier checkpoint stays as it was.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be made: {error}.") from error
    state = {
        **distiller.state(),
        "architecture": distiller.freeze().architecture,
        "seconds": checkpoint.seconds,
    }
    _whole(folder / _LABELS, distiller.buffer.save)
    _whole(folder / _STATE, lambda path: torch.save(state, path))


def load_checkpoint(folder: Path, distiller: Distiller) -> Checkpoint:
    """Bring a distiller to where `save_checkpoint` left it.

    Raises:
        LoadError: If there is no checkpoint, it is damaged, or of another executor.
    """
    path = folder / _STATE
    if not path.exists():
        raise LoadError(f"{folder} holds no checkpoint: {_STATE} is missing.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise LoadError(f"{path} is damaged: {error}") from error
    mine = distiller.freeze().architecture
    if state.get("architecture") != mine:
        raise LoadError(
            f"{path} is of an executor {state.get('architecture')!r}, not {mine!r}. "
            "Give the same --executor, or another folder."
        )
    distiller.restore(state)
    distiller.load_labels(folder / _LABELS)
    return Checkpoint(seconds=float(state["seconds"]))
