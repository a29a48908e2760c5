"""The C targets: built with sanitizers, for libFuzzer or with a main of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from agentkd.deploy.akx import RUNTIME, to_akx
from agentkd.executors.native import compiler
from tests.deploy_executors import CASES, lively
from tests.fuzz.run import Findings, Tally
from tests.fuzz.target import SECONDS, digest

NAME, SANITIZED = "akx", "native"
_MARK = "AGENTKD_FUZZ_SANITIZED"
_ABORT = "abort_on_error=1"
_TALLY = re.compile(r"^bundle +([\d,]+) inputs +([\d,]+) \w+ +([\d,]+) \w+ +([\d,]+)", re.MULTILINE)
_HERE = Path(__file__).parent / "c"
_FLAGS = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover")
_SMALL = {
    "mlp:64,64": "mlp:3",
    "mlp:64,64,tanh": "mlp:3,tanh",
    "mlp:100,silu": "mlp:3,silu",
    "attention:8/2/2": "attention:4/2/1",
}
_LONGEST = 16384
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def build(folder: Path, sources: tuple[str, ...], flags: tuple[str, ...], cc: str) -> Path:
    """Compile the target and the runtime into a program in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in (*RUNTIME, *(_HERE / name for name in sources)):
        shutil.copy(source, folder)
    program = folder / "program"
    command = [cc, *_FLAGS, *flags, *sources, "-o", str(program), "-lm"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return program


def seeds(folder: Path) -> list[Path]:
    """Write a small model.akx of each kind of layer and action."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (architecture, action) in enumerate(CASES):
        path = folder / f"seed-{index:02d}.akx"
        path.write_bytes(to_akx(lively(_SMALL.get(architecture, architecture), action)))
        paths.append(path)
    return paths


def _alone(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the target with a main of its own."""
    program = build(folder, ("akx_fuzz.c", "alone.c"), (), compiler() or "cc")
    environment = {**os.environ, "ASAN_OPTIONS": _ABORT, "UBSAN_OPTIONS": _ABORT}
    return subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_files(folder: Path, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run files as they are."""
    return _alone(folder, ["0", "0", *(str(path.resolve()) for path in paths)])


def run_alone(folder: Path, seed: int, count: int, findings: Findings) -> Tally:
    """Run a fixed number of changed files, without libFuzzer."""
    paths = [str(path) for path in seeds(folder.resolve() / "seeds")]
    done = _alone(folder.resolve(), [str(seed), str(count), *paths])
    tally = Tally()
    if done.returncode:
        tally.inputs = 1
        tally.verdicts["finding"] = 1
        tally.kinds["abort"] = 1
        _keep(folder / "failing", findings, done.stderr)
        return tally
    counts = dict(zip(("inputs", "accepted"), map(int, done.stdout.split()), strict=True))
    tally.inputs = counts["inputs"]
    tally.verdicts["accepted"] = counts["accepted"]
    tally.verdicts["refused"] = counts["inputs"] - counts["accepted"]
    return tally


def _keep(failing: Path, findings: Findings, text: str) -> None:
    """Save a failing file with the command that replays it."""
    kept = findings.folder / f"{NAME}-{digest(failing.read_bytes())}.akx"
    kept.write_bytes(failing.read_bytes())
    command = f"python -m tests.fuzz --target {NAME} --replay {kept}"
    what = next((line for line in text.splitlines() if "ERROR" in line or "error" in line), "")
    told = f"{what or 'abort'}\n\n{command}\n\n{text[-8000:]}"
    kept.with_suffix(".txt").write_text(told, encoding="utf-8")


def _library(name: str, suffix: str) -> str:
    """Where clang keeps one of its runtime libraries; "" where it does not."""
    if shutil.which("clang") is None:
        return ""
    command = ["clang", f"-print-file-name=libclang_rt.{name}-{os.uname().machine}.{suffix}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if Path(done.stdout.strip()).is_file() else ""


def has_libfuzzer() -> bool:
    """Whether clang is here with libFuzzer and the sanitizers."""
    return bool(_library("fuzzer", "a") and _library("asan", "so"))


def run_libfuzzer(seed: int, seconds: float, out: Path, findings: Findings) -> Tally:
    """Fuzz the runtime under libFuzzer for so many seconds."""
    if not has_libfuzzer():
        return Tally()
    folder = (out / "work" / NAME).resolve()
    corpus = (out / "corpus" / NAME).resolve()
    seeds(corpus)
    program = build(folder, ("akx_fuzz.c",), ("-fsanitize=fuzzer",), "clang")
    tally, end = Tally(), time.monotonic() + seconds
    while (left := int(end - time.monotonic())) > 0:
        command = [str(program), f"-max_total_time={left}", f"-timeout={SECONDS}"]
        command += [f"-seed={seed + 1 + tally.verdicts['finding']}"]
        command += [f"-max_len={_LONGEST}", "-print_final_stats=1", str(corpus)]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
        found = _DONE.search(done.stderr)
        tally.inputs += int(found[1]) if found else 0
        for artifact in sorted(folder.glob("*-*")):
            kind, _, _ = artifact.name.partition("-")
            if kind not in ("crash", "timeout", "oom", "leak"):
                continue
            tally.verdicts["finding"] += 1
            tally.kinds[kind] += 1
            _keep(artifact, findings, done.stderr)
            artifact.unlink()
        if done.returncode and not found:
            break
    return tally


def sanitized() -> bool:
    """Whether this process was started by `run_sanitized`."""
    return _MARK in os.environ


def run_sanitized(seed: int, options: tuple[str, ...], out: Path, findings: Findings) -> Tally:
    """Fuzz bundles with the native form built, and Python run, under sanitizers.

    Args:
        seed: Of the inputs.
        options: How many, or for how long.
        out: Where what is temporary goes.
        findings: Where findings go.
    """
    if not has_libfuzzer():
        return Tally()
    folder = (out / "work" / SANITIZED).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    flags = "-fsanitize=address,undefined -shared-libasan -fno-sanitize-recover"
    wrapper = folder / "clang-sanitized"
    wrapper.write_text(f'#!/bin/sh\nexec clang {flags} "$@"\n')
    wrapper.chmod(0o700)
    environment = {
        **os.environ,
        _MARK: "1",
        "LD_PRELOAD": _library("asan", "so"),
        "CC": str(wrapper),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "ASAN_OPTIONS": f"{_ABORT}:detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": _ABORT,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "tests.fuzz", "--target", "bundle", *options]
    command += ["--seed", str(seed), "--out", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    tally = Tally()
    found = _TALLY.search(done.stdout)
    if found is None:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    inputs, *counts = (int(each.replace(",", "")) for each in found.groups())
    tally.inputs = inputs
    tally.verdicts.update(dict(zip(("accepted", "refused", "finding"), counts, strict=True)))
    for path in sorted((folder / "findings").glob("*.*")):
        if path.is_file():
            shutil.copy(path, findings.folder / f"{SANITIZED}-{path.name}")
    return tally
