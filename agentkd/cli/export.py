"""`agentkd export`: an executor as ONNX, C, data for the fixed runtime, TorchScript."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from agentkd.deploy.bundle import Bundle
    from agentkd.deploy.int8.calibrate import Seen

INTEGERS = ("c-int8",)
"""Targets that are calibrated."""
STEPS = 4096
"""Steps that --calibrate episodes lives."""
SEED = 2000
"""Of the first of those episodes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write an executor in a form that runs elsewhere, and check it where possible.

    Example: agentkd export runs/demo/executor.akd --to c
    """

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""

    to: str
    """onnx; c, one C99 file; c-int8, the same in integers; akx, data for the fixed C
    runtime; torchscript; and what else docs/export.md lists."""

    flavour: str = "plain"
    """For onnx, whose names to use: plain, ml-agents, godot-rl or rsl-rl."""

    name: str = "executor"
    """For C, what every name in the file begins with."""

    out: Path | None = None
    """The file to write. By default it lies beside the executor file."""

    runtime: Path | None = None
    """For akx, a folder into which the runtime's C sources are copied too."""

    calibrate: str | None = None
    """For integers, what shows how large numbers become: a .npy file of observations
    (n, obs), a .npz file with obs and starts, or the word episodes, which lives some.
    By default the episodes that the executor's file holds."""


def run(options: Options) -> int:
    """Write the file, and run what was written where this machine can."""
    from rich.text import Text

    from agentkd.cli.terminal import Console
    from agentkd.deploy.bundle import read_bundle
    from agentkd.deploy.export import Request, export, target, write_file
    from agentkd.errors import ConfigError

    bundle = read_bundle(options.file)
    chosen = target(options.to)
    if options.runtime is not None and options.to != "akx":
        raise ConfigError(f"--runtime goes with --to akx, not {options.to}.")
    seen = _seen(options, bundle)
    out = options.out or options.file.with_suffix(chosen.suffix)
    data = export(bundle, options.to, Request(options.flavour, options.name, seen))
    write_file(out, data)
    console = Console()
    console.print(Text(f"{out}: {len(data):,} bytes"), soft_wrap=True)
    if options.to in INTEGERS:
        by = seen.said if seen else "observations drawn as its normaliser says"
        console.print(Text(f"calibrated with {by}"), soft_wrap=True)
        text, failed = _own_test(out, options.name)
        console.print(Text(text), soft_wrap=True)
        return int(failed)
    if options.runtime is not None:
        _copy(options.runtime)
        console.print(Text(f"{options.runtime}: akx.h, akx.c, akd_kernels.h"))
    if options.flavour != "plain" or not chosen.backend:
        return 0
    text, failed = _proof(bundle, chosen.backend)
    console.print(Text(text), soft_wrap=True)
    return int(failed)


def _seen(options: Options, bundle: Bundle) -> Seen | None:
    """What integers are calibrated with; None where there are none, or they are drawn.

    Raises:
        ConfigError: If the file does not hold what it should, or no environment is
            known whose episodes could be lived.
    """
    from agentkd.deploy.int8 import calibrate
    from agentkd.errors import ConfigError

    given = options.calibrate
    if options.to not in INTEGERS:
        if given is not None:
            raise ConfigError(f"--calibrate goes with --to c-int8, not {options.to}.")
        return None
    if given is None:
        return calibrate.held(bundle)
    if given != "episodes":
        return calibrate.read(Path(given), bundle.frozen)
    env = bundle.manifest.get("provenance", {}).get("env")
    if not isinstance(env, str):
        raise ConfigError(
            f"{options.file} does not say in which environment it lives; give "
            "--calibrate a file of observations."
        )
    from agentkd.bench.recording import record

    frozen = bundle.frozen
    lived = record(env, frozen.policy, steps=STEPS, seed=SEED, spec=frozen.spec)
    return calibrate.episodes(lived)


def _own_test(source: Path, name: str) -> tuple[str, bool]:
    """Build what was written and let it check itself; its words, and if it failed."""
    from agentkd.deploy.programs import STRICT, build
    from agentkd.errors import LoadError
    from agentkd.executors.native import compiler

    if compiler() is None:
        return "not run here: no C compiler (cc, gcc, clang)", False
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        flags = (*STRICT, f"-D{name.upper()}_TEST")
        try:
            program = build(Path(folder), [str(source.resolve())], flags=flags)
            done = subprocess.run(
                [program],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=60,
                check=False,
            )
        except (LoadError, OSError, subprocess.TimeoutExpired) as error:
            return f"its own test did not run: {error}", True
    return f"its own test: {done.stdout.strip()}", done.returncode != 0


def _proof(bundle: Bundle, backend: str) -> tuple[str, bool]:
    """Run the new form; what was found, and whether it differs."""
    from agentkd.deploy.verify import BACKENDS, verify

    chosen = [each for each in BACKENDS if each.name == backend]
    for verdict in verify(bundle, rows=64, backends=chosen):
        if verdict.status == "missing":
            return f"not run here: {verdict.text}", False
        if verdict.status == "differs":
            return f"{verdict.backend} differs: {verdict.text}", True
        return f"run by {verdict.backend}: within {verdict.worst:.1e} of NumPy", False
    return "", False


def _copy(folder: Path) -> None:
    from agentkd.deploy.akx import RUNTIME
    from agentkd.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in RUNTIME:
            shutil.copyfile(source, folder / source.name)
    except OSError as error:
        raise ConfigError(
            f"{folder} could not be filled: {error.strerror or error}."
        ) from error
