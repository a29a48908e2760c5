"""What an executor can be exported to, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agentkd.deploy.akx import to_akx
from agentkd.deploy.bundle import Bundle, from_bytes, own_bundle, to_bytes
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.contracts.files import tool, write_contract
from agentkd.deploy.contracts.mjlab import write as metadata
from agentkd.deploy.int8.calibrate import Seen, integer_form
from agentkd.deploy.int8.emit import emit_c_int8
from agentkd.deploy.interface import HEADER_MARK, header_of
from agentkd.deploy.wasm.emit import LOADER_MARK, emit_wasm, loader_of
from agentkd.errors import ConfigError, check_choice
from agentkd.executors.executor import Executor
from agentkd.extras import needing
from agentkd.files import write_files

_CONTRACTED = "rsl-rl"
"""The flavour that the tools read whose contracts are written."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a target."""

    flavour: str | None = None
    """The conventions to follow, where the target has several; by default plain, and with a
    contract rsl-rl."""
    name: str = "executor"
    """Begins every name, where the target has names."""
    opset: int | None = None
    """The version of ONNX's operators; by default the one that suits the flavour's reader."""
    seen: Seen | None = None
    """What integers are calibrated with; by default what the executor's file holds of its own
    episodes, else observations that are drawn."""
    contract: str | None = None
    """The tool whose contract goes with an ONNX file: a file beside it, or its metadata."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that is written beside another, for programs that use that one."""

    what: str
    """What it is, in a word."""
    suffix: str
    """How it ends."""
    mark: str
    """How it begins, so that no other file is overwritten by one."""
    write: Callable[[bytes, Path, Path, Request], str]
    """Makes its text of the other file's bytes and path, and of its own path."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that executors are exported to."""

    suffix: str
    """How its files end."""
    write: Callable[[Bundle, Request], bytes]
    """Makes the bytes of a file."""
    backend: str
    """The name under which `verify` runs it; "" if it does not."""
    flavours: tuple[str, ...] = ("plain",)
    """The conventions it knows."""
    companion: Companion | None = None
    """What is written beside its files."""


def export(bundle: Bundle, to: str, request: Request | None = None) -> bytes:
    """Write an executor for a target, as the bytes of a file.

    Raises:
        ConfigError: If there is no such target or flavour, or the flavour has no place
            for this executor's actions or does not read the opset, or a package that
            writes it is missing.
        NumbersError: If a weight is NaN or infinite.
        SpecError: If the executor is too large for the target.
    """
    asked = request or Request()
    chosen = target(to)
    flavour = asked.flavour or ("plain" if asked.contract is None else _CONTRACTED)
    if asked.contract is not None:
        tool(asked.contract)
        if to != "onnx":
            raise ConfigError(f"A contract goes with onnx, not {to}.")
        if flavour != _CONTRACTED:
            raise ConfigError(f"{asked.contract} reads the flavour {_CONTRACTED}, not {flavour}.")
    check_choice(f"flavour of {to}", flavour, chosen.flavours)
    if asked.opset is not None and to != "onnx":
        raise ConfigError(f"An opset goes with onnx, not {to}.")
    return chosen.write(bundle, replace(asked, flavour=flavour))


def contract_file(bundle: Bundle, out: Path, contract: str | None) -> tuple[dict[Path, bytes], str]:
    """Write the contract that lies beside a file, and say what it does not tell.

    Returns:
        The file by its path, none where the contract lies in the policy itself; and words.

    Raises:
        ConfigError: If the executor's file does not tell what the tool needs, or something else
            lies in the file's place.
    """
    if contract is None:
        return {}, ""
    name = tool(contract).file
    data, missing = write_contract(contract, bundle, "Written by agentkd.")
    said = f"{contract} does not tell: {', '.join(missing)}" if missing else ""
    if not name:
        return {}, said
    path = out.with_name(name)
    if path == out:
        raise ConfigError(f"{path} is the name of the contract beside it; name another file.")
    try:
        if path.exists() and (path.is_dir() or path.read_bytes() != data):
            raise ConfigError(f"{path} is there and says something else; move it, or name another.")
    except OSError as error:
        raise ConfigError(
            f"{path} is there and cannot be read; move it, or name another."
        ) from error
    return {path: data}, said


def target(name: str) -> Target:
    """Find a target.

    Raises:
        ConfigError: If there is none of that name.
    """
    check_choice("target", name, TARGETS)
    return TARGETS[name]


def export_file(
    source: Bundle | Executor, path: str | Path, to: str | None = None, **options: Any
) -> tuple[Path, ...]:
    """Write an executor, or its file as it was read, for another runtime; give the files written.

    C files get their header beside them, WebAssembly its loader. The target is by default the one
    that the suffix tells; the options are the fields of `Request`.

    Raises:
        ConfigError: If the suffix names no target, or an option does not fit it.
    """
    out = Path(path)
    name = to or target_of(out)
    unknown = set(options) - {each.name for each in fields(Request)}
    if unknown:
        raise ConfigError(f"export takes no {sorted(unknown)}; see Request.")
    request = Request(**options)
    if isinstance(source, Executor):
        about = source.about
        source = own_bundle(source) or from_bytes(
            to_bytes(source, about.provenance, contract=about.contract, labels=about.labels)
        )
    check_places(out, name)
    files: dict[Path, bytes] = {out: export(source, name, request)}
    files |= contract_file(source, out, request.contract)[0]
    files |= companion_of(out, name, files[out], request)
    write_files(files)
    return tuple(files)


def companion_of(out: Path, to: str, data: bytes, request: Request) -> dict[Path, bytes]:
    """Write what lies beside a file: the file by its path, none where the target has none."""
    companion, beside = _beside(out, to)
    if companion is None or beside is None:
        return {}
    return {beside: companion.write(data, out, beside, request).encode()}


def _beside(out: Path, to: str) -> tuple[Companion | None, Path | None]:
    companion = target(to).companion
    if companion is None or not out.name:
        return companion, None
    return companion, out.with_suffix(companion.suffix)


def check_places(out: Path, to: str, source: Path | None = None) -> None:
    """Check that nothing is lost where a file, and perhaps one beside it, are written.

    Raises:
        ConfigError: If the executor file, or a header or loader that agentkd did not write, would
            be replaced, or `out` is not a place for a file.
    """
    companion, beside = _beside(out, to)
    try:
        if out.is_dir():
            raise ConfigError(f"{out} is a folder; name a file in it.")
        if source is not None and out.exists() and out.samefile(source):
            raise ConfigError(f"{out} is the executor file itself; name another.")
        if companion is None or beside is None:
            return
        if beside == out:
            ending = target(to).suffix
            raise ConfigError(f"{out} is the {companion.what}'s name; end the file in {ending}.")
        if beside.is_file():
            with beside.open("rb") as file:
                mark = file.read(len(companion.mark))
            if mark != companion.mark.encode():
                raise ConfigError(
                    f"{beside} is there and agentkd did not write it; move it, or name another "
                    "file."
                )
    except OSError as error:
        raise ConfigError(f"{out} could not be written: {error.strerror or error}.") from error


def target_of(path: Path) -> str:
    """Give the name of the target that a file's suffix stands for.

    Raises:
        ConfigError: If it stands for none.
    """
    known = {each.suffix: name for name, each in TARGETS.items()}
    for suffix in sorted(known, key=len, reverse=True):
        if path.name.endswith(suffix):
            return known[suffix]
    raise ConfigError(
        f"{path}: the suffix names no target. Known: {', '.join(known)}. Or name the target."
    )


def _c(bundle: Bundle, request: Request) -> bytes:
    return emit_c(bundle.executor, request.name, bundle.provenance).encode()


def _c_int8(bundle: Bundle, request: Request) -> bytes:
    quantised = integer_form(bundle, request.seen)
    return emit_c_int8(quantised, request.name, bundle.provenance).encode()


def _wasm(bundle: Bundle, _: Request) -> bytes:
    return emit_wasm(bundle.executor, bundle.provenance)


def _header(data: bytes, _out: Path, _own: Path, request: Request) -> str:
    return header_of(data.decode(), request.name)


def _loader(_data: bytes, out: Path, own: Path, _request: Request) -> str:
    return loader_of(out.name, own.name)


def _akx(bundle: Bundle, _: Request) -> bytes:
    return to_akx(bundle.executor)


def _onnx(bundle: Bundle, request: Request) -> bytes:
    with needing("onnx"):
        from agentkd.deploy.onnx import as_flavour, to_onnx
    flavour = as_flavour(request.flavour or "plain")
    told = metadata(bundle.contract) if request.contract == "mjlab" else None
    how: dict[str, Any] = {"opset": request.opset, "metadata": told}
    return to_onnx(bundle.executor, flavour, bundle.provenance, **how)


_HEADER = Companion("header", ".h", HEADER_MARK, _header)
TARGETS: dict[str, Target] = {
    "onnx": Target(".onnx", _onnx, "ONNX Runtime", ("plain", "ml-agents", "godot-rl", "rsl-rl")),
    "c": Target(".c", _c, "C99", companion=_HEADER),
    "c-int8": Target(".int8.c", _c_int8, "", companion=_HEADER),
    "akx": Target(".akx", _akx, "model.akx"),
    "wasm": Target(
        ".wasm", _wasm, "wasm in Node", companion=Companion("loader", ".js", LOADER_MARK, _loader)
    ),
}
