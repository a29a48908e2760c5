"""Reads a Stable-Baselines3 save without unpickling anything in it.

A save is a zip: `data`, a JSON object whose items are plain values, or readable
descriptions beside a pickle under ":serialized:"; and `policy.pth`, the weights. The
pickles are left alone and the weights are read as tensors only.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import LoadError, NumbersError, UnsafeError

Weights = Mapping[str, NDArray[np.float32]]

_COMPILED = re.compile(r"(^|\.)_orig_mod\.")
"""What torch.compile puts into the names of the weights of what it compiled."""
LIMIT_DATA = 256 * 2**20
"""Bytes of JSON that are read at most; a replay buffer is not in it."""
LIMIT_WEIGHTS = 4 * 2**30
"""Bytes of weights that are read at most."""


@dataclass(frozen=True, slots=True)
class Save:
    """What a save says about itself, and its weights.

    Attributes:
        path: Where it lies.
        digest: The SHA-256 of the file.
        data: The JSON object.
        weights: The policy's arrays by name.
    """

    path: Path
    digest: str
    data: Mapping[str, Any]
    weights: Weights

    @property
    def module(self) -> str:
        """The module of the policy's class, "" when it is not told."""
        return str(_fields(self.data.get("policy_class")).get("__module__", ""))

    @property
    def policy_class(self) -> str:
        """The name of the policy's class, "" when it is not told."""
        fields = _fields(self.data.get("policy_class"))
        names = [str(fields.get("__init__", "")), *map(str, fields.values())]
        found = (re.match(r"<function (\w+)\.", name) for name in names)
        return next((match[1] for match in found if match), "")

    @property
    def policy_kwargs(self) -> Mapping[str, Any]:
        """The policy's options; a class among them is its textual form."""
        return _fields(self.data.get("policy_kwargs"))


def _fields(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        return {}
    return {key: value for key, value in item.items() if key != ":serialized:"}


def _entry(file: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    size = file.getinfo(name).file_size
    if size > limit:
        raise LoadError(
            f"{path}: {name!r} would take {size:,} bytes; at most {limit:,} are read."
        )
    with file.open(name) as entry:
        return entry.read(limit + 1)


def _not_a_save(path: Path, names: list[str]) -> LoadError:
    if {"parameters", "parameter_list"} <= set(names):
        what = "a save of the older, TensorFlow-based stable-baselines"
    elif any(name.endswith("data.pkl") for name in names):
        what = "a file of torch.save, or a save of SB3 that was cut short"
    else:
        what = f"a zip with {', '.join(map(repr, names[:6])) or 'nothing'} in it"
    return LoadError(
        f"{path} is {what}. A Stable-Baselines3 save holds 'data' and 'policy.pth'; "
        "write one with model.save(path), or give a Python object, module:attribute."
    )


def weights_of(state: Mapping[str, Any], where: str) -> Weights:
    """Take a state dict's tensors as float32 arrays that share their memory.

    The names are those of the model before torch.compile.

    Args:
        state: Tensors by name.
        where: What they come from, for messages.

    Raises:
        LoadError: If something in it is no tensor of numbers.
        NumbersError: If a number is NaN or infinite.
    """
    import torch

    weights: dict[str, NDArray[np.float32]] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise LoadError(
                f"{where}: {name!r} is a {type(tensor).__name__}, not a tensor."
            )
        if not (tensor.is_floating_point() or tensor.dtype == torch.int64):
            raise LoadError(f"{where}: {name!r} holds {tensor.dtype}, not numbers.")
        array = tensor.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(array).all():
            raise NumbersError(
                f"{where}: {name!r} holds NaN or infinity; the training diverged. "
                "Use an earlier checkpoint."
            )
        plain = _COMPILED.sub(r"\1", str(name))
        if plain in weights:
            raise LoadError(f"{where}: two arrays are named {plain!r}.")
        weights[plain] = array
    return weights


def _read_weights(raw: bytes, path: Path) -> Weights:
    import io

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of old versions of torch
            state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0][:300]
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise UnsafeError(
                f"{path}: 'policy.pth' holds more than tensors, so it was not read: "
                f"{reason}"
            ) from error
        raise LoadError(f"{path}: 'policy.pth' is damaged: {reason}") from error
    except Exception as error:  # torch raises nearly anything for a damaged file
        raise LoadError(f"{path}: 'policy.pth' is damaged: {error!r}.") from error
    if not isinstance(state, dict):
        raise LoadError(f"{path}: 'policy.pth' holds a {type(state).__name__}.")
    return weights_of(state, str(path))


def read_save(path: Path) -> Save:
    """Read a Stable-Baselines3 save; nothing in it is run.

    Raises:
        LoadError: If it is missing, empty, damaged, too large or something else.
        UnsafeError: If its weights are more than tensors.
        NumbersError: If a weight is NaN or infinite.
    """
    if not path.is_file():
        raise LoadError(f"No file {path}.")
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty.")
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            if "data" not in names or "policy.pth" not in names:
                raise _not_a_save(path, names)
            raw = _entry(file, "data", LIMIT_DATA, path)
            tensors = _entry(file, "policy.pth", LIMIT_WEIGHTS, path)
    except zipfile.BadZipFile as error:
        raise LoadError(
            f"{path} is not a zip, or was cut short ({error}). An SB3 save is a zip; "
            "copy it again, or save the model again with model.save(path)."
        ) from error
    except (EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise LoadError(f"{path} cannot be read: {error}.") from error
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: 'data' is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise LoadError(f"{path}: 'data' is not a JSON object.")
    return Save(path, digest, data, _read_weights(tensors, path))
