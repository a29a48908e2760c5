"""Tells policy files apart by their contents, whatever their names are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from agentkd.archives import NoZipError, opened_zip
from agentkd.errors import LoadError
from agentkd.files import loading, regular
from agentkd.protobuf import is_onnx

Kind = Literal[
    "torchscript", "torch", "torch-legacy", "onnx", "hdf5", "safetensors", "flax", "pickle", "lfs"
]

LIMIT = 4 * 2**30
"""Bytes of a policy file that are read at most, with its optimiser's state."""
_LOOK = 1 << 16
_HDF5 = b"\x89HDF\r\n\x1a\n"
_LEGACY = re.compile(rb"\x80.\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", re.DOTALL)
"""How torch.save began before version 1.6: a pickle of its magic number."""
_CHECKPOINTS = (
    ("", r"model_(\d+)\.pt"),
    ("checkpoints", r"best_agent()\.pt"),
    ("checkpoints", r"agent_(\d+)\.pt"),
    ("nn", r"(?!last_)[^/]+()\.pth"),  # beside those of every few episodes
    ("", r"[^/]+()\.(onnx|pt|pth|h5|hdf5|cleanrl_model)"),
)
"""Where the libraries leave checkpoints in a run's folder, and their numbers."""


def contents_of(path: Path) -> Kind | None:
    """Say what a policy file is by its contents; None if it is no policy file that is known."""
    with regular(path, LIMIT) as stream, loading(path):
        head = stream.read(_LOOK)
        if head[:2] == b"PK":
            try:
                with opened_zip(stream, path) as file:
                    # A save of SB3's that was cut short ends in a whole file of torch.save.
                    if min((each.header_offset for each in file.infolist()), default=1):
                        return None
                    return _zipped(set(file.namelist()))
            except NoZipError:
                if not re.search(rb"/(data|constants)\.pkl", head):
                    return None
                raise
        if head.startswith(_HDF5):
            return "hdf5"
        if head.startswith(b"version https://git-lfs"):
            return "lfs"
        if _LEGACY.match(head):
            return "torch-legacy"
        if is_onnx(head):
            return "onnx"
        if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
            return "safetensors"
        if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return "pickle"
        # A map of a few text keys, or a list of them, as flax.serialization writes.
        if re.match(rb"[\x81-\x9f]{1,2}([\x81-\x9f]|[\xa1-\xbf])", head) and b"kernel" in head:
            return "flax"
        return None


def _zipped(names: set[str]) -> Kind | None:
    inner = {name.partition("/")[2].casefold() for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    return "torch" if {"data.pkl", "version"} <= inner else None


def checkpoint_in(folder: Path) -> Path | None:
    """Find the policy file that a run's folder means: the one of the last iteration.

    Raises:
        LoadError: If there are several that no number orders.
    """
    for place, pattern in _CHECKPOINTS:
        inside = folder / place
        files = [each for each in inside.iterdir() if each.is_file()] if inside.is_dir() else []
        found = [(match, each) for each in files if (match := re.fullmatch(pattern, each.name))]
        if not found:
            continue
        if all(match[1] for match, _ in found):
            return max(found, key=lambda pair: int(pair[0][1]))[1]
        if len(found) > 1:
            names = ", ".join(sorted(each.name for _, each in found)[:6])
            raise LoadError(f"{inside} holds {len(found)} policy files ({names}); name one.")
        return found[0][1]
    return None


REFUSED = {
    "lfs": (
        "a pointer of Git LFS, not the file that it stands for. Fetch that: git lfs pull, or "
        "agentkd pull for a repository of the Hugging Face Hub."
    ),
    "safetensors": (
        "a safetensors file: weights without the network they belong to. For a LeRobot policy, "
        "serve it from its own environment (agentkd serve) and give ws://host:port; else export "
        "it as ONNX."
    ),
    "flax": (
        "the weights of a flax network, without the network. Export it as ONNX, or write a "
        "function planner(spec) that calls it, and give module:planner."
    ),
    "pickle": (
        "a pickle, which would run whatever code it holds, so it was not read. Export the policy "
        "as ONNX or TorchScript, or write a function planner(spec) and give module:planner."
    ),
}
"""What is known and not read, with what to do."""
