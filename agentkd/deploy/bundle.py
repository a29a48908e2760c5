"""The executor file, `.akd`: a stored ZIP that proves itself before it runs.

It holds a manifest (what the executor is, for which environment, where it came from),
the weights, and golden vectors: observations with the outputs that they gave where it
was made. Every entry's SHA-256 is in the manifest, and the manifest's own stands in the
ZIP comment, so that a damaged file is refused before anything runs. Needs no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from agentkd import spec as specs
from agentkd.errors import AgentkdError, BundleError, NumbersError
from agentkd.executors.description import describe, rebuild
from agentkd.executors.frozen import Frozen, Head
from agentkd.executors.layers import tensors as layer_tensors
from agentkd.types import Floats

FORMAT = "agentkd.bundle"
SCHEMA = 2
_GOLDEN = 64
_GOLDEN_TICKS = 1024
_LARGEST = 256 * 1024 * 1024
_DATE = (1980, 1, 1, 0, 0, 0)
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an executor file holds.

    Attributes:
        frozen: The executor.
        manifest: Everything that is written about it; "provenance" is the maker's.
        digest: SHA-256 of the whole file, in hexadecimal.
        golden: Observations "obs" and the "outputs" they gave where it was made.
    """

    frozen: Frozen
    manifest: Mapping[str, Any]
    digest: str
    golden: Mapping[str, Floats]


def _tensors(frozen: Frozen) -> dict[str, Floats]:
    tensors = {"mean": frozen.mean, "scale": frozen.scale}
    for index, layer in enumerate(frozen.layers):
        tensors |= layer_tensors(layer, f"layer.{index}.")
    return {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}


def probes(frozen: Frozen, count: int, seed: int = 0) -> Floats:
    """Random observations, (count, obs), spread as the normaliser says they are."""
    random = np.random.default_rng(seed)
    probe = random.standard_normal((count, frozen.spec.obs.size)).astype(np.float32)
    spread = np.where(frozen.scale == 0, np.float32(1.0), frozen.scale)
    return (frozen.mean + probe / spread).astype(np.float32)


def _golden(frozen: Frozen) -> dict[str, Floats]:
    """Golden vectors; with a memory they are one sequence that begins with none."""
    obs = probes(frozen, _GOLDEN_TICKS if frozen.memory else _GOLDEN)
    return {"obs": obs, "outputs": answers(frozen, obs).astype(np.float32)}


def answers(frozen: Frozen, obs: Floats) -> Floats:
    """The last layer's numbers, (rows, out); with a memory, the rows are a sequence."""
    return frozen.follow(obs) if frozen.memory else frozen.outputs(obs)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_bytes(frozen: Frozen, provenance: Mapping[str, Any]) -> bytes:
    """Write an executor as the bytes of a file; the same executor gives the same bytes.

    Args:
        frozen: The executor.
        provenance: Where it came from, as JSON values.

    Raises:
        NumbersError: If a weight is NaN or infinite.
    """
    if not np.isfinite(frozen.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights is not written.")
    entries = {
        "weights.safetensors": write_tensors(_tensors(frozen)),
        "golden.safetensors": write_tensors(_golden(frozen)),
    }
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "architecture": frozen.architecture,
        "spec": specs.to_json(frozen.spec),
        "clip": frozen.clip,
        "layers": [describe(layer) for layer in frozen.layers],
        "memory": frozen.memory,
        "head": frozen.head,
        "version": frozen.version,
        "parameters": frozen.parameters,
        "entries": {name: _sha(data) for name, data in entries.items()},
        "provenance": dict(provenance),
    }
    text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False).encode()
    return _zip(text, entries)


def _zip(manifest: bytes, entries: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {"manifest.json": manifest, **entries}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)
        archive.comment = _sha(manifest).encode()
    return out.getvalue()


def write_bundle(
    path: str | Path, frozen: Frozen, provenance: Mapping[str, Any] | None = None
) -> Bundle:
    """Write an executor file whole or not at all, and read it back.

    Raises:
        BundleError: If the file could not be written; one that was there stays.
        NumbersError: If a weight is NaN or infinite.
    """
    target = Path(path)
    data = to_bytes(frozen, provenance or {})
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        bundle = read_bundle(fresh)
        fresh.replace(target)
    except OSError as error:
        raise BundleError(
            f"{target} could not be written: {error.strerror or error}."
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
    return bundle


def read_bundle(path: str | Path) -> Bundle:
    """Read an executor file, after checking every byte of it.

    Raises:
        BundleError: If it is missing, damaged, of another format, or gives other
            outputs here than where it was made.
    """
    target = Path(path)
    try:
        data = target.read_bytes()
    except OSError as error:
        raise BundleError(f"{target}: {error.strerror or error}.") from error
    try:
        return from_bytes(data)
    except BundleError as error:
        raise BundleError(f"{target}: {error}") from error


def from_bytes(data: bytes) -> Bundle:
    """Read the bytes of an executor file, after checking every one of them.

    Raises:
        BundleError: As `read_bundle`.
    """
    if not data:
        raise BundleError("The file is empty.")
    if len(data) > _LARGEST:
        raise BundleError(f"{len(data)} bytes; at most {_LARGEST} are read.")
    manifest, entries = _open(data)
    frozen = _assemble(manifest, _load(entries["weights.safetensors"]))
    golden = _load(entries["golden.safetensors"])
    apart = np.abs(answers(frozen, golden["obs"]) - golden["outputs"])
    worst = float(np.max(apart / (1.0 + np.abs(golden["outputs"]))))
    if not worst <= _TOLERANCE:
        raise BundleError(f"Its golden vectors differ here by {worst:.2g}.")
    return Bundle(frozen, manifest, _sha(data), golden)


def _open(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if "manifest.json" not in names:
                raise BundleError(f"It holds {names}, and no manifest.json.")
            if any(info.file_size > _LARGEST for info in archive.infolist()):
                raise BundleError("An entry of it is too large.")
            entries = {name: archive.read(name) for name in names}
            comment = archive.comment
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, RuntimeError) as error:
        raise BundleError(f"No executor file, or a damaged one: {error}.") from error
    except NotImplementedError as error:
        raise BundleError(f"Compressed in a way that is not read: {error}.") from error
    text = entries.pop("manifest.json")
    if comment != _sha(text).encode():
        raise BundleError("The manifest is not the one that was written.")
    try:
        manifest: dict[str, Any] = json.loads(text)
        kind, schema = manifest["format"], manifest["schema"]
        sums = dict(manifest["entries"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"The manifest cannot be read: {error!r}.") from error
    if kind != FORMAT or schema != SCHEMA:
        raise BundleError(
            f"It is a {kind!r} of schema {schema}; this agentkd reads {FORMAT!r} of "
            f"schema {SCHEMA}."
        )
    if set(sums) != set(entries):
        raise BundleError(f"It holds {sorted(entries)} instead of {sorted(sums)}.")
    for name, entry in entries.items():
        if _sha(entry) != sums[name]:
            raise BundleError(f"{name} is not what was written: its SHA-256 differs.")
    # These entries are all there is: any other byte in the file is damage.
    if _zip(text, entries) != data:
        raise BundleError("The file is not laid out as it was written; it is damaged.")
    return manifest, entries


def _load(data: bytes) -> dict[str, Floats]:
    try:
        return read_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"Its tensors cannot be read: {error}.") from error


def _known(name: Any, kinds: Any) -> str:
    if name not in get_args(kinds):
        raise BundleError(f"{name!r} is not one of {', '.join(get_args(kinds))}.")
    return str(name)


def _assemble(manifest: Mapping[str, Any], tensors: Mapping[str, Floats]) -> Frozen:
    try:
        head = _known(manifest["head"], Head)
        layers = tuple(
            rebuild(description, f"layer.{i}.", tensors)
            for i, description in enumerate(manifest["layers"])
        )
        return Frozen(
            architecture=str(manifest["architecture"]),
            spec=specs.from_json(manifest["spec"]),
            mean=tensors["mean"],
            scale=tensors["scale"],
            clip=float(manifest["clip"]),
            layers=layers,
            head=cast(Head, head),
            version=int(manifest["version"]),
        )
    except BundleError:
        raise
    except (AgentkdError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"The manifest and the weights disagree: {error}") from error
