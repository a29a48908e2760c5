"""The executor file, `.akd`: a stored ZIP that proves itself before it runs.

It holds a manifest (what the executor is, for which environment, where it came from), the weights,
golden vectors: observations with the outputs that they gave where it was made, and, where its maker
gave some, kept labels. Every entry's SHA-256 is in the manifest, and the manifest's own stands in
the ZIP comment, so that a damaged file is refused before anything runs. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from safetensors.numpy import save as write_tensors

from agentkd import spec_json
from agentkd.deploy import contract as contracts
from agentkd.deploy import kept
from agentkd.deploy.container import pack, unpack
from agentkd.deploy.contract import Contract
from agentkd.deploy.vectors import answers, most_rows, vectors
from agentkd.errors import (
    BundleError,
    BundleReason,
    LoadError,
    SignatureError,
    TooLargeError,
    WriteError,
)
from agentkd.executors.architecture import check_layers, parse
from agentkd.executors.difference import actions_of, difference
from agentkd.executors.executor import About, Executor, Head
from agentkd.executors.layers import describe, rebuild
from agentkd.executors.layers import tensors as layer_tensors
from agentkd.executors.past import unrolled
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file, read_tensors, write_atomic
from agentkd.types import Floats, Labels

if TYPE_CHECKING:
    from agentkd.signing.store import Signed, Trusting

FORMAT = "agentkd.bundle"
SCHEMA = 2
_LARGEST = 256 * 1024 * 1024
_ENTRIES = {"golden.safetensors", "weights.safetensors"}
_SUBJECTS = {
    "layout": "The file",
    "manifest": "The manifest and the weights",
    "tensors": "Its tensors",
    "golden": "Its golden vectors",
}
_OPTIONAL = {f"{kept.ENTRY}.safetensors"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an executor file holds."""

    executor: Executor
    manifest: Mapping[str, Any]
    """Everything that is written about it; "provenance" is the maker's."""
    digest: str
    """SHA-256 of the whole file, in hexadecimal."""
    golden: Mapping[str, Any]
    """Observations "obs", the "outputs" and "actions" they gave where it was made, and "starts", 1
    where an episode begins and else 0."""
    contract: Contract
    labels: Labels | None = None
    """A sample of the labels that it was made from, None where it has none."""
    signed: Signed | None = None
    """What its signature says, None where none was checked: it counts as unsigned."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the executor came from, as its maker told."""
        found: Mapping[str, Any] = self.manifest.get("provenance", {})
        return found


def _tensors(executor: Executor) -> dict[str, Floats]:
    tensors = {"mean": executor.mean, "scale": executor.scale}
    for index, layer in enumerate(executor.layers):
        tensors |= layer_tensors(layer, f"layer.{index}.")
    return {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_bytes(
    executor: Executor,
    provenance: Mapping[str, Any],
    *,
    contract: Contract | None = None,
    golden: Sequence[Floats] = (),
    footprint: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
) -> bytes:
    """Write an executor as the bytes of a file; the same executor gives the same bytes.

    Args:
        executor: The executor.
        provenance: Where it came from, as JSON values.
        contract: What its numbers mean.
        golden: Observations of its own episodes, each (steps, obs); drawn ones come besides.
        footprint: What it takes, as JSON values.
        labels: A sample of the labels that it was made from (`agentkd.deploy.kept`).

    Raises:
        NumbersError: If a weight, a label, or an observation of an episode, is NaN or infinite.
        ConfigError: If the contract does not fit the executor.
        SpecError: If the labels do not fit it.
    """
    executor.check_finite()
    tensors = {"weights": _tensors(executor), "golden": vectors(executor, golden)}
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "architecture": executor.architecture,
        "spec": spec_json.to_json(executor.spec),
        "contract": contracts.to_json(contract or Contract(), executor),
        "clip": executor.clip,
        "layers": [describe(layer) for layer in executor.layers],
        "memory": executor.memory,
        "head": executor.head,
        "version": executor.version,
        "parameters": executor.parameters,
        "provenance": dict(provenance),
        "footprint": {"weights_bytes": 4 * len(executor.vector()), **(footprint or {})},
    }
    if labels is not None:
        manifest[kept.ENTRY], tensors[kept.ENTRY] = kept.lay_out(labels, unrolled(executor).spec)
    return _seal(manifest, tensors)


def with_footprint(bundle: Bundle, footprint: Mapping[str, Any]) -> bytes:
    """Write a bundle again, with what was measured of it and nothing else changed."""
    return _again(bundle, footprint={**bundle.manifest.get("footprint", {}), **footprint})


def _again(bundle: Bundle, **changed: Any) -> bytes:
    """Write a bundle again with other entries in its manifest."""
    manifest = {**bundle.manifest, **changed}
    tensors = {"weights": _tensors(bundle.executor), "golden": dict(bundle.golden)}
    if bundle.labels is not None:
        tensors[kept.ENTRY] = kept.lay_out(bundle.labels, unrolled(bundle.executor).spec)[1]
    return _seal(manifest, tensors)


def _seal(manifest: Mapping[str, Any], tensors: Mapping[str, dict[str, Any]]) -> bytes:
    """Write manifest and tensors as a file, with the sums of all of it."""
    entries = {f"{name}.safetensors": write_tensors(held) for name, held in tensors.items()}
    sums = {name: _sha(data) for name, data in entries.items()}
    text = _canonical({**manifest, "entries": sums})
    return pack({"manifest.json": text, **entries}, _sha(text))


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    """The one way to write a manifest: sorted, indented by one, ASCII, no NaN."""
    return json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False).encode()


def write_bundle(
    path: str | Path,
    executor: Executor,
    provenance: Mapping[str, Any] | None = None,
    *,
    contract: Contract | None = None,
    golden: Sequence[Floats] = (),
    footprint: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
) -> Bundle:
    """Write an executor file whole or not at all, and read it back.

    The arguments are those of `to_bytes`.

    Raises:
        BundleError: If the file could not be written; one that was there stays.
        ConfigError: If the contract does not fit the executor.
        NumbersError: If a weight, a label, or an observation of an episode, is NaN or infinite.
        SpecError: If the labels do not fit the executor.
    """
    told: dict[str, Any] = {"contract": contract, "footprint": footprint}
    data = to_bytes(executor, provenance or {}, golden=golden, labels=labels, **told)
    return replace_bundle(path, data)


def replace_bundle(path: str | Path, data: bytes) -> Bundle:
    """Put the bytes of an executor file in place, whole or not at all, and read them.

    Raises:
        BundleError: If they could not be written; a file that was there stays.
    """
    read: list[Bundle] = []

    def write(fresh: Path) -> None:
        fresh.write_bytes(data)
        read.append(read_bundle(fresh))

    try:
        write_atomic(path, write)
    except WriteError as error:
        raise BundleError(str(error), "unwritten") from error
    return read[0]


def read_bundle(path: str | Path, *, trust: Trusting | None = None) -> Bundle:
    """Read an executor file, after checking every byte of it.

    Args:
        path: The file.
        trust: A `root.json`, or a `TrustStore`: the file is refused without a valid signature, in
            the proof that lies beside it.

    Raises:
        BundleError: If it is missing, damaged, of another format, not signed as `trust` demands, or
            gives other outputs or actions here than where it was made. Its `reason` says which in
            one word.
    """
    target = Path(path)
    try:
        data = read_file(target, _LARGEST)
    except TooLargeError as error:
        raise BundleError(str(error), "large") from error
    except LoadError as error:
        raise BundleError(str(error), "unreadable") from error
    signed = None if trust is None else _checked(data, target, trust)
    try:
        return from_bytes(data, signed)
    except BundleError as error:
        raise BundleError(f"{target}: {error}", error.reason) from error


def _checked(data: bytes, path: Path, trust: Trusting) -> Signed:
    """Check the signature of a file's bytes, before anything of them is read."""
    from agentkd.signing.proof import read_proof
    from agentkd.signing.store import trust_store

    try:
        return trust_store(trust).check(data, read_proof(path), path)
    except SignatureError as error:
        raise BundleError(str(error), "signature") from error


def load(path: str | Path, *, native: bool = True, trust: Trusting | None = None) -> Executor:
    """Load an executor from its file (.akd), ready to act.

    It is compiled with `native`; without a compiler it runs in NumPy. With `trust`, a `root.json`
    or a `TrustStore`, a file without a valid signature is refused.

    Raises:
        BundleError: As `read_bundle`.
    """
    executor = read_bundle(path, trust=trust).executor
    return executor.compile() if native else executor


def save(
    executor: Executor, path: str | Path, provenance: Mapping[str, Any] | None = None
) -> Bundle:
    """Write an executor file with what the executor keeps about itself; see `Executor.save`.

    Raises:
        BundleError: If the provenance does not fit into a file.
    """
    about, bundle = executor.about, own_bundle(executor)
    known = {**about.provenance, **(provenance or {})}
    try:
        if bundle is not None:
            return replace_bundle(path, _again(bundle, provenance=known))
        return write_bundle(path, executor, known, contract=about.contract, labels=about.labels)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path} could not be written: {error}.", "unwritten") from error


def own_bundle(executor: Executor) -> Bundle | None:
    """Return the file that an executor came of, None if it has changed since."""
    bundle: Bundle | None = executor.about.bundle
    if bundle is None:
        return None
    names = ("mean", "scale", "layers", "clip", "head", "spec", "version", "architecture")
    same = all(getattr(executor, name) is getattr(bundle.executor, name) for name in names)
    return bundle if same else None


def from_bytes(data: bytes, signed: Signed | None = None) -> Bundle:
    """Read the bytes of an executor file, after checking every one of them.

    `signed` is what their signature says, if it was checked.

    Raises:
        BundleError: As `read_bundle`.
    """
    if len(data) > _LARGEST:
        raise BundleError(f"{len(data)} bytes; at most {_LARGEST} are read.", "large")
    with _because("layout"):
        manifest, entries = _open(data)
    with _because("tensors"):
        held = {name.partition(".")[0]: read_tensors(each) for name, each in entries.items()}
    with _because("manifest"):
        executor = _assemble(manifest, held["weights"])
        contract = Contract()
        if "contract" in manifest:
            contract = contracts.from_json(manifest["contract"], executor)
    golden, labels = held["golden"], None
    with _because("golden"):
        _prove(executor, golden)
    if kept.ENTRY in manifest or kept.ENTRY in held:
        with _because("tensors"):
            about = manifest.get(kept.ENTRY)
            labels = kept.read(about, held.get(kept.ENTRY, {}), unrolled(executor).spec)
    # What it learns live is measured on its labels, however it came to an agent.
    told = About(manifest.get("provenance", {}), contract, labels)
    executor = replace(executor, about=told)
    bundle = Bundle(executor, manifest, _sha(data), golden, contract, labels, signed)
    # The executor knows its file, and so whether that was signed, wherever it goes.
    known = replace(executor, about=replace(told, bundle=bundle))
    return replace(bundle, executor=known)


@contextmanager
def _because(reason: BundleReason) -> Iterator[None]:
    """Turn every exception of the block into a `BundleError` of this reason."""
    try:
        with loading(_SUBJECTS[reason], keep=(BundleError,)):
            yield
    except BundleError:
        raise
    except LoadError as error:
        raise BundleError(str(error), reason) from error.__cause__ or error


def _prove(executor: Executor, golden: dict[str, Any]) -> None:
    """Run the golden vectors; fill in what old files do not have."""
    obs, wanted = golden["obs"], golden["outputs"]
    rows = len(obs)
    if not 1 <= rows <= 2 * most_rows(executor):
        raise LoadError(f"{rows} rows, and 1 to {2 * most_rows(executor)} are run")
    starts = golden.setdefault("starts", np.ones(rows, np.float32))
    taken = golden.setdefault("actions", actions_of(executor, _floats(wanted)))
    if set(golden) != {"obs", "outputs", "starts", "actions"}:
        raise LoadError(f"they are {sorted(golden)}")
    if not all(np.isfinite(each).all() for each in golden.values()):
        raise LoadError("a number is NaN or infinite")
    # Weights that overflow give other numbers, which is said once, below.
    with np.errstate(over="ignore", invalid="ignore"):
        got = answers(executor, _floats(obs), _floats(starts))
        worst, text = difference(executor, got, actions_of(executor, got), _floats(wanted), taken)
    if text:
        raise BundleError(f"Its golden vectors differ here by {worst:.2g}: {text}.", "golden")


def _floats(array: Any) -> Floats:
    if array.dtype != np.float32:
        raise LoadError(f"an array of {array.dtype}, float32 needed")
    return cast(Floats, array)


def _open(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Find manifest and entries, and check every byte before any is used."""
    entries, comment = unpack(data)
    if "manifest.json" not in entries:
        raise BundleError(f"It holds {sorted(entries)}, and no manifest.json.", "layout")
    text = entries["manifest.json"]
    if comment != _sha(text):
        raise BundleError("The manifest is not the one that was written.", "checksum")
    with _because("manifest"):
        manifest, sums = _read_manifest(text)
    held = {name: each for name, each in entries.items() if name != "manifest.json"}
    if set(sums) != set(held) or set(held) - _OPTIONAL != _ENTRIES:
        raise BundleError(f"It holds {sorted(held)} instead of {sorted(_ENTRIES)}.", "layout")
    for name, entry in held.items():
        if _sha(entry) != sums[name]:
            raise BundleError(f"{name} is not what was written: its SHA-256 differs.", "checksum")
    # These entries are all there is: any other byte in the file is damage.
    if pack(entries, comment) != data:
        raise BundleError("The file is not laid out as it was written.", "layout")
    return manifest, held


def _read_manifest(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse the manifest; give it and the entries' sums."""
    manifest = parse_json(text, "The manifest")
    fields = Fields(manifest, "The manifest")
    kind, schema = fields.text("format"), fields.whole("schema")
    if kind != FORMAT or schema != SCHEMA:
        raise BundleError(
            f"It is a {kind!r:.40} of schema {schema}; this agentkd reads {FORMAT!r} "
            f"of schema {SCHEMA}.",
            "schema",
        )
    sums = fields.fields("entries")
    _check_what_is_told(fields)
    if _canonical(manifest) != text:
        raise BundleError("The manifest is not written as manifests are.")
    return manifest, {name: sums.text(name) for name in manifest["entries"]}


def _check_what_is_told(fields: Fields) -> None:
    """Check the types of what other commands use and reports print."""
    provenance = fields.fields("provenance", {})
    if isinstance(provenance.get("planner", None), Mapping):
        planner = provenance.fields("planner")
        planner.text("name", "")
        planner.texts("refs", ())
    footprint = fields.fields("footprint", {})
    footprint.whole("weights_bytes", 0)
    for core in footprint.objects("cores", ()):
        for name in ("label", "form"):
            core.text(name)
        for name in ("flash", "ram", "stack"):
            core.whole(name)
        if core.get("instructions", None) is not None:
            core.whole("instructions")


def _assemble(manifest: Mapping[str, Any], tensors: Mapping[str, Floats]) -> Executor:
    fields = Fields(manifest, "The manifest")
    layers = tuple(
        rebuild(description, f"layer.{i}.", tensors)
        for i, description in enumerate(fields.objects("layers"))
    )
    architecture = parse(fields.text("architecture"))
    executor = Executor(
        architecture=str(architecture),
        spec=spec_json.from_json(manifest["spec"]),
        mean=tensors["mean"],
        scale=tensors["scale"],
        clip=fields.number("clip"),
        layers=layers,
        head=cast(Head, fields.choice("head", get_args(Head))),
        version=fields.whole("version"),
    )
    check_layers(architecture, layers)
    if set(_tensors(executor)) != set(tensors):
        raise BundleError(f"It holds the tensors {sorted(tensors)[:8]}.", "tensors")
    for name in ("memory", "parameters"):
        if fields.whole(name, getattr(executor, name)) != getattr(executor, name):
            raise BundleError(f"{name} is not {getattr(executor, name)}.")
    if not np.isfinite(executor.vector()).all():
        raise BundleError("A weight is NaN or infinite.", "tensors")
    return executor
