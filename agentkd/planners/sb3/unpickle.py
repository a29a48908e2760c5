"""Loads a Stable-Baselines3 save the way SB3 does, which runs whatever code it holds.

Only reached where the caller allowed unpickling by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentkd.archives import opened_zip, read_entry
from agentkd.errors import LoadError
from agentkd.fields import parse_json
from agentkd.files import digest_of, loading, regular
from agentkd.planners.sb3.file import LIMIT_DATA, LIMIT_FILE
from agentkd.planners.sb3.policy import algorithm_of_options, known_algorithm
from agentkd.refs import working_directory_on_path


def unpickle(path: Path, algorithm: str | None) -> tuple[Any, str]:
    """Load a save with SB3's own `load`.

    Args:
        path: The save.
        algorithm: Its algorithm; left out, its options tell.

    Returns:
        The model and the file's SHA-256.

    Raises:
        LoadError: If SB3 cannot load it.
    """
    import sb3_contrib
    import stable_baselines3

    working_directory_on_path()
    with regular(path, LIMIT_FILE) as stream, loading(path):
        digest = digest_of(stream)
        if algorithm is None:
            with opened_zip(stream, path) as file:
                raw = read_entry(file, "data", LIMIT_DATA, path)
            data = parse_json(raw, path, limit=LIMIT_DATA, infinite=True)
            algorithm = algorithm_of_options(data, {})
    if algorithm is None:
        raise LoadError(f"{path} does not tell its algorithm; say which it is (algorithm='PPO').")
    name = known_algorithm(algorithm)
    kind = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    try:
        return kind.load(path, device="cpu"), digest
    except Exception as error:  # the file's own code may raise anything
        raise LoadError(f"{path} could not be unpickled: {error!r}.") from error
