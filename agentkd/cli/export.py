"""`agentkd export`: an executor as ONNX, C, WebAssembly, or data for the fixed C runtime."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agentkd.cli.terminal import Console
from agentkd.deploy.akx import RUNTIME
from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.deploy.export import (
    Request,
    check_places,
    companion_of,
    contract_file,
    export,
    target,
    target_of,
)
from agentkd.deploy.int8 import calibrate
from agentkd.deploy.programs import STRICT, build
from agentkd.deploy.verify import BACKENDS, verify
from agentkd.environments import named_by_file
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.native import compiler
from agentkd.files import write_files

INTEGERS = ("c-int8",)
"""Targets that are calibrated."""
STEPS = 4096
"""Steps that --calibrate episodes lives."""
SEED = 2000
"""Of the first of those episodes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write an executor in a form that runs elsewhere, and check it where possible.

    The suffix of the file to write decides: .c is C99, .int8.c the same in integers, .akx data for
    the fixed C runtime, .onnx ONNX, .wasm WebAssembly for browsers and Node.
    """

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; for C, the header beside it ends in .h, for WebAssembly the loader in .js.
    By default it lies beside the executor file."""

    to: str | None = None
    """onnx; c, one C99 file and its header; c-int8, the same in integers; akx, data for the fixed C
    runtime; or wasm, WebAssembly and an ES module that loads it, which needs clang and wasm-ld. By
    default the suffix of --out decides."""

    flavour: str | None = None
    """For onnx, whose names to use: plain, ml-agents, godot-rl or rsl-rl. By default plain, with
    --contract rsl-rl."""

    contract: str | None = None
    """For onnx, the tool whose contract is written with it: isaaclab, unitree, rl_sar or microduck,
    in a file beside it, or mjlab, in its metadata."""

    opset: int | None = None
    """For onnx, the version of its operators. By default the one that suits the reader that the
    flavour is for; docs/reference/export.md lists them."""

    name: str = "executor"
    """For C, what every name in the file begins with. Give each executor of a program its own."""

    runtime: Path | None = None
    """For akx, a folder into which the runtime's C sources are copied too."""

    calibrate: str | None = None
    """For integers, what shows how large numbers become: a .npy file of observations (n, obs), a
    .npz file with obs and starts, or the word episodes, which lives some. By default the episodes
    that the executor's file holds."""


def run(options: Options) -> int:
    """Write the file, and run what was written where this machine can."""
    bundle = read_bundle(options.file)
    to = options.to
    if to is None:
        if options.out is None:
            raise ConfigError("Name the file to write, such as -o executor.c, or --to c.")
        to = target_of(options.out)
    chosen = target(to)
    if options.runtime is not None and to != "akx":
        raise ConfigError(f"--runtime goes with akx, not {to}.")
    seen = _seen(options, to, bundle)
    out = options.out or options.file.with_suffix(chosen.suffix)
    check_places(out, to, options.file)
    asked = Request(options.flavour, options.name, options.opset, seen, options.contract)
    files = {out: export(bundle, to, asked)}
    beside, untold = contract_file(bundle, out, options.contract)
    files |= beside
    files |= companion_of(out, to, files[out], asked)
    write_files(files)
    console = Console()
    for path, data in files.items():
        console.print(f"{path}: {len(data):,} bytes", soft_wrap=True)
    if untold:
        console.print(untold, soft_wrap=True)
    if options.runtime is not None:
        write_files({options.runtime / e.name: e.read_bytes() for e in RUNTIME})
        console.print(f"{options.runtime}: akx.h, akx.c, akd_kernels.h")
    if to in INTEGERS:
        by = seen.said if seen else "observations drawn as its normaliser says"
        console.print(f"calibrated with {by}", soft_wrap=True)
        text, failed = _own_test(files[out], options.name)
    elif options.contract or options.flavour not in (None, "plain") or not chosen.backend:
        return 0
    else:
        text, failed = _proof(bundle, chosen.backend)
    console.print(text, soft_wrap=True)
    return int(failed)


def _seen(options: Options, to: str, bundle: Bundle) -> calibrate.Seen | None:
    """Return what integers are calibrated with; None where there are none, or they are drawn."""
    given = options.calibrate
    if to not in INTEGERS:
        if given is not None:
            raise ConfigError(f"--calibrate goes with --to c-int8, not {to}.")
        return None
    if given is None:
        return calibrate.held(bundle)
    executor = bundle.executor
    if given != "episodes":
        return calibrate.read(Path(given), executor)
    env = bundle.manifest.get("provenance", {}).get("env")
    if not env or not isinstance(env, str):
        raise ConfigError(
            f"{options.file} names no environment, so no episodes can be lived. Give "
            f"--calibrate a .npy file of observations, (n, {executor.spec.obs.size}), or leave it "
            "out to calibrate with drawn ones."
        )
    from agentkd.measure.evaluate import record

    lived = record(named_by_file(env), executor.policy, steps=STEPS, seed=SEED, spec=executor.spec)
    return calibrate.episodes(lived)


def _own_test(source: bytes, name: str) -> tuple[str, bool]:
    """Build what was written and let it check itself; its words, and if it failed."""
    if compiler() is None:
        return "not run here: no C compiler (cc, gcc, clang)", False
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        flags = (*STRICT, f"-D{name.upper()}_TEST")
        try:
            (Path(folder) / "executor.c").write_bytes(source)
            program = build(Path(folder), ["executor.c"], flags=flags)
            done = subprocess.run(
                [program], capture_output=True, text=True, errors="replace", timeout=60, check=False
            )
        except (LoadError, OSError, subprocess.TimeoutExpired) as error:
            return f"its own test did not run: {error}", True
    return f"its own test: {done.stdout.strip()}", done.returncode != 0


def _proof(bundle: Bundle, backend: str) -> tuple[str, bool]:
    """Run the new form; what was found, and whether it differs."""
    chosen = [each for each in BACKENDS if each.name == backend]
    verdict = next(verify(bundle, rows=64, backends=chosen))
    if verdict.status == "missing":
        return f"not run here: {verdict.text}", False
    if verdict.status == "differs":
        return f"{verdict.backend} differs: {verdict.text}", True
    return f"run by {verdict.backend}: within {verdict.worst:.1e} of NumPy", False
