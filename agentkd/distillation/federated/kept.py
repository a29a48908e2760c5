"""What a server keeps on its disk at the end of each round, so that it can go on after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from agentkd.errors import ConfigError, LoadError
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file, write_atomic
from agentkd.types import Floats

_MOST_BYTES = 1 << 28
_HINT = "Name another file, or remove this one."


@dataclass(frozen=True, slots=True)
class Round:
    """What happened in a round.

    Attributes:
        number: Which one, from 1.
        replied: The clients whose replies counted.
        refused: Why the replies of others did not count, by client.
        sent: Bytes sent to clients.
        received: Bytes received from clients, refused ones counted in.
    """

    number: int
    replied: tuple[str, ...]
    refused: Mapping[str, str]
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Kept:
    """How far a server came.

    Attributes:
        run: The number that all requests of the run carry.
        numbers: What the strategy made of the last round: weights, or answers.
        vector: The shared executor's vector, from before these numbers went into it.
        rounds: What happened in the rounds that are over.
        told: The clients that know the public states.
        agreed: Whether the numbers come of replies.
    """

    run: int
    numbers: Floats
    vector: Floats
    rounds: tuple[Round, ...] = ()
    told: frozenset[str] = frozenset()
    agreed: bool = False


def write_kept(path: Path, kept: Kept, options: Mapping[str, Any]) -> None:
    """Write how far a server came, whole or not at all.

    Raises:
        WriteError: If the disk refuses.
    """
    record = {
        "options": dict(options),
        "run": kept.run,
        "told": sorted(kept.told),
        "agreed": kept.agreed,
        "rounds": [
            {
                "replied": list(each.replied),
                "refused": dict(each.refused),
                "sent": each.sent,
                "received": each.received,
            }
            for each in kept.rounds
        ],
    }
    arrays: dict[str, NDArray[Any]] = {
        "numbers": kept.numbers,
        "vector": kept.vector,
        "record": np.frombuffer(json.dumps(record).encode(), np.uint8),
    }
    write_atomic(path, write_arrays(arrays))


def read_kept(
    path: Path, options: Mapping[str, Any], shape: Sequence[int], size: int
) -> Kept | None:
    """Read how far a server came; None if there is no such file.

    Args:
        path: The file.
        options: Those of the run that is to go on.
        shape: Of the numbers.
        size: Of the executor's vector.

    Raises:
        ConfigError: If it is of a run with other options.
        LoadError: If it is damaged.
    """
    if not path.exists():
        return None
    with loading(path, keep=(ConfigError,)):
        found = read_arrays(read_file(path, _MOST_BYTES))
        if set(found) != {"numbers", "vector", "record"}:
            raise LoadError(f"it is not what a federated server keeps. {_HINT}")
        what = "The record"
        fields = Fields(parse_json(found["record"].tobytes(), what), what)
        before = fields.get("options")
        for name, value in options.items():
            if not isinstance(before, Mapping) or before.get(name) != value:
                old = before.get(name) if isinstance(before, Mapping) else None
                raise ConfigError(
                    f"{path} is of a run with {name}={old!r:.80}, and this one has "
                    f"{value!r:.80}. {_HINT}"
                )
        numbers, vector = found["numbers"], found["vector"]
        for name, array, wanted in (
            ("numbers", numbers, tuple(shape)),
            ("vector", vector, (size,)),
        ):
            fits = array.dtype == np.float32 and array.shape == wanted
            if not fits or not np.isfinite(array).all():
                raise LoadError(f"{name!r} is {array.dtype} of {array.shape}, not {wanted}")
        rounds = tuple(_round(n, each) for n, each in enumerate(fields.objects("rounds"), 1))
        return Kept(
            fields.whole("run"),
            numbers,
            vector,
            rounds,
            frozenset(fields.texts("told")),
            fields.flag("agreed"),
        )


def _round(number: int, fields: Fields) -> Round:
    refused = fields.get("refused")
    if not isinstance(refused, Mapping) or not all(isinstance(v, str) for v in refused.values()):
        raise LoadError("'refused' is not texts by client")
    return Round(
        number,
        tuple(fields.texts("replied")),
        dict(refused),
        fields.whole("sent"),
        fields.whole("received"),
    )
