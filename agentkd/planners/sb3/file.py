"""Reads a Stable-Baselines3 save without unpickling anything in it.

A save is a zip: `data`, a JSON object whose items are plain values, or readable descriptions beside
a pickle under ":serialized:"; and `policy.pth`, the weights. The pickles are left alone and the
weights are read as tensors only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.archives import NoZipError, check_tensor, load_tensors, opened_zip, read_entry
from agentkd.errors import LoadError, NumbersError
from agentkd.fields import parse_json
from agentkd.files import digest_of, loading, regular

Weights = Mapping[str, NDArray[np.float32]]

LIMIT_FILE = 16 * 2**30
"""Bytes that a save may have, with its optimiser's state."""
_COMPILED = re.compile(r"(^|\.)_orig_mod\.")
"""What torch.compile puts into the names of the weights of what it compiled."""
LIMIT_DATA = 256 * 2**20
"""Bytes of JSON that are read at most; a replay buffer is not in it."""
LIMIT_WEIGHTS = 4 * 2**30
"""Bytes of weights that are read at most."""


@dataclass(frozen=True, slots=True)
class Save:
    """What a save says about itself, and its weights; `data` is its JSON object."""

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


def weights_of(state: Mapping[str, Any], where: str, most: int = LIMIT_WEIGHTS) -> Weights:
    """Take a state dict's tensors as float32 arrays that share their memory.

    The names are those of the model before torch.compile. Together they may take `most` bytes.

    Raises:
        LoadError: If something in it is not a tensor of stored numbers.
        NumbersError: If a number is NaN or infinite.
    """
    import torch

    weights: dict[str, NDArray[np.float32]] = {}
    total = 0
    for name, tensor in state.items():
        at = f"{where}: {str(name)[:80]!r}"
        if not isinstance(tensor, torch.Tensor):
            raise LoadError(f"{at} is a {type(tensor).__name__}, not a tensor.")
        check_tensor(tensor, at)
        total += 4 * tensor.numel()
        if total > most:
            raise LoadError(f"{where}: weights of more than {most:,} bytes.")
        array = tensor.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(array).all():
            raise NumbersError(
                f"{at} holds NaN or infinity; the training diverged. Use an earlier checkpoint."
            )
        plain = _COMPILED.sub(r"\1", str(name))
        if plain in weights:
            raise LoadError(f"{where}: two arrays are named {plain!r}.")
        weights[plain] = array
    return weights


def read_save(path: Path) -> Save:
    """Read a Stable-Baselines3 save; nothing in it is run.

    Raises:
        LoadError: If it is missing, empty, damaged, too large or something else.
        UnsafeError: If its weights are more than tensors.
        NumbersError: If a weight is NaN or infinite.
    """
    with loading(path):
        if not path.exists():
            raise LoadError(f"No file {path}.")
    with regular(path, LIMIT_FILE) as stream:
        with loading(path):
            if not stream.read(1):
                raise LoadError(f"{path} is empty.")
        try:
            with opened_zip(stream, path) as file:
                names = file.namelist()
                if "data" not in names or "policy.pth" not in names:
                    raise _not_a_save(path, names)
                raw = read_entry(file, "data", LIMIT_DATA, path)
                tensors = read_entry(file, "policy.pth", LIMIT_WEIGHTS, path)
        except NoZipError as error:
            raise LoadError(
                f"{path} is not a known planner file, or was cut short: neither a save of "
                "Stable-Baselines3, which is a zip, nor a policy file such as .onnx or .pt. Copy "
                "it again, or save it again."
            ) from error
        with loading(path):
            stream.seek(0)
            digest = digest_of(stream)
    data = parse_json(raw, f"{path}: 'data'", limit=LIMIT_DATA, infinite=True)
    if not isinstance(data, dict):
        raise LoadError(f"{path}: 'data' is not a JSON object.")
    state = load_tensors(tensors, f"{path}: 'policy.pth'")
    if not isinstance(state, dict):
        raise LoadError(f"{path}: 'policy.pth' holds a {type(state).__name__}.")
    with loading(path, keep=(NumbersError,)):
        return Save(path, digest, data, weights_of(state, str(path), most=4 * len(tensors)))
